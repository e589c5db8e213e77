"""ScalableViT: the vision transformer with Scalable and Interactive Window-based Self-Attention (arXiv:2203.10790)."""
from scalablevit.backbone import *
