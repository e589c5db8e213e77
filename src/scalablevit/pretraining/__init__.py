"""Pretraining of a backbone on images without labels, by masked images or from a teacher's features.

Names are imported when they are used; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
