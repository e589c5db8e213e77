"""Explanations: an empty room, not built yet."""
