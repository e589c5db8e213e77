"""ScalableViT: the vision transformer with Scalable and Interactive Window-based Self-Attention (arXiv:2203.10790).

Importing this package is quick: torch is imported with the first name that needs it; `__init__.pyi` lists the names.
`timm.create_model` knows the variants as soon as both packages are imported, in either order.
"""

import lazy_loader

from scalablevit.moved import find_moved_modules
from scalablevit.timm_registration import register_when_timm_is_imported

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register_when_timm_is_imported()
find_moved_modules()
