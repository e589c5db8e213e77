"""What a network sees: heatmaps, attention maps, receptive fields, features as colours.

Names are imported when they are used, as the command line's help needs no torch; `__init__.pyi` lists them. No module
here is named like a function that it holds: the package's name for one would hide the other.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
