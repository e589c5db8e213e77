"""Trained networks on their way out: prepared for inference, or exported. Free of the training engine."""
