"""Data in shards: image files of a data set, packed in LitData's format and read from a folder or a remote address."""
