"""Checkpoints: read every format, fill networks, report what was loaded, and write the one format of ours.

Names are imported when they are used, as the network itself imports `published_names` from here, and most of the others
import the network; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
