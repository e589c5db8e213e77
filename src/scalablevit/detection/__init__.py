"""Detection and instance segmentation: an empty room, not built yet."""
