"""Export: an empty room, not built yet."""
