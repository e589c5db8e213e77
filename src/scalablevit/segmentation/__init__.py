"""Semantic segmentation: models, data from images and masks, the task that trains on it, and predictions.

Names are imported when they are used, as checking data needs neither torch nor lightning; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
