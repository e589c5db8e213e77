"""Images and masks in: files, splits, checks, loaders, randomness, and the built-in data sets."""
