"""Semantic segmentation: an empty room, not built yet."""
