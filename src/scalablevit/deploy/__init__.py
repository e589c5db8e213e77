"""Trained networks on their way out: prepared for inference. Free of the training engine."""
