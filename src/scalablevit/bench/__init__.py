"""What networks cost: parameters and FLOPs, and time and memory side by side with others."""
