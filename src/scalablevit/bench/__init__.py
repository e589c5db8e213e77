"""What a network costs: parameters, FLOPs, sizes of feature maps."""
