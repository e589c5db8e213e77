"""ScalableViT: the vision transformer with Scalable and Interactive Window-based Self-Attention (arXiv:2203.10790).

Importing this package is quick: torch is imported with the first name that needs it. `timm.create_model` knows the
variants as soon as both packages are imported, in either order.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scalablevit.timm_registration import register_when_timm_is_imported

if TYPE_CHECKING:
    from scalablevit.backbone import (
        PyramidBackbone,
        ScalableViT,
        create_backbone,
        scalablevit_atto,
        scalablevit_base,
        scalablevit_large,
        scalablevit_nano,
        scalablevit_small,
        scalablevit_tiny,
    )
    from scalablevit.deploy.optimize import optimize
    from scalablevit.layers import set_attention
    from scalablevit.weights import LoadReport, WeightsError, load_model, load_weights, save_model, save_weights

__version__ = "0.1.0"

__all__ = [
    "LoadReport",
    "PyramidBackbone",
    "ScalableViT",
    "WeightsError",
    "create_backbone",
    "load_model",
    "load_weights",
    "optimize",
    "save_model",
    "save_weights",
    "scalablevit_atto",
    "scalablevit_base",
    "scalablevit_large",
    "scalablevit_nano",
    "scalablevit_small",
    "scalablevit_tiny",
    "set_attention",
]

_MODULES = {
    **dict.fromkeys(
        ("LoadReport", "WeightsError", "load_model", "load_weights", "save_model", "save_weights"), "weights"
    ),
    "optimize": "deploy.optimize",
    "set_attention": "layers",
}
_ROOMS = {
    "bench",
    "classification",
    "datasets",
    "detection",
    "explain",
    "export",
    "layers",
    "ops",
    "segmentation",
    "training",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"scalablevit.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'scalablevit' has no attribute {name!r}")
    return getattr(import_module(f"scalablevit.{_MODULES.get(name, 'backbone')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


register_when_timm_is_imported()
