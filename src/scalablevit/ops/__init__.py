"""Pure tensor functions: windows, the two attentions and their definitions."""
