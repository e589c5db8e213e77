"""Names of earlier versions: import paths and methods lead to what has their place now, with a DeprecationWarning."""

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

# Module of before -> the modules to search for its names, in this order. Some are still there and lost some names.
MOVED: dict[str, tuple[str, ...]] = {
    "bench.throughput": ("bench.cells", "bench.result"),
    "checkpoint_names": ("weights.published_names",),
    "classification.pictures": ("classification.annotate", "classification.draw"),
    "classification.preprocessing": ("data.image_transforms",),
    "cli": ("cli.errors",),
    "data_check": ("data.check",),
    "datasets": (),
    "datasets.builtin": ("data.builtin",),
    "datasets.digit_scenes": ("data.builtin.digit_scenes", "data.builtin.scene_folders"),
    "datasets.digits": ("data.builtin.digits",),
    "datasets.whole_folder": ("data.builtin.whole_folder",),
    "detection.coco_file": ("detection.coco.json_file",),
    "detection.coco_folder": ("detection.coco.folder", "detection.coco.image_files"),
    "detection.coco_json": ("detection.coco.annotations",),
    "detection.coco_masks": ("detection.coco.masks",),
    "detection.coco_split": ("detection.split",),
    "detection.complexity": ("detection.cost",),
    "detection.data": ("detection.dataset",),
    "detection.models": (
        *("detection.models.settings", "detection.models.anchors", "detection.models.pyramid"),
        *("detection.models.image_transform", "detection.models.roi_align"),
    ),
    "detection.orientation": ("detection.coco.orientation",),
    "detection.pictures": ("detection.annotate", "detection.draw"),
    "detection.run_lengths": ("detection.coco.run_lengths",),
    "drawing": ("visualization.fonts", "visualization.palette"),
    "images": ("data.images", "data.image_file", "data.find_images", "data.orientation", "data.masks"),
    "inference": ("deploy.optimize",),
    "input_settings": ("data.input_settings",),
    "segmentation.data": ("segmentation.dataset", "segmentation.probe"),
    "segmentation.evaluate": ("segmentation.bands",),
    "segmentation.inference": ("segmentation.tiles", "segmentation.labels"),
    "segmentation.labels": ("segmentation.label_map", "segmentation.class_names"),
    "segmentation.models": ("segmentation.decoders",),
    "segmentation.pairs": ("segmentation.read_pair",),
    "segmentation.pictures": ("segmentation.draw", "segmentation.prediction_sheet"),
    "train_val": ("data.split",),
    "training.command": ("training.run_checkpoints",),
    "training.curves": ("visualization.curves",),
    "training.loaders": ("data.loaders", "data.workers"),
    "training.module": ("training.settings",),
    "training.randomness": ("data.randomness",),
    "training.recipe_errors": ("training.recipe_file",),
    "training.run_folder": ("training.metrics_csv", "training.environment", "visualization.metrics_file"),
    "training.unreadable": ("data.unreadable",),
}
# Of names that changed as well: module and name of before -> module and name of now.
RENAMED = {
    "data_check.PictureFile": "data.check.ImageFile",
    "data_check.look_at_picture": "data.check.look_at_image",
    "data_check.repeated_pictures": "data.check.repeated_images",
}
_PACKAGE = "scalablevit."

Owner = TypeVar("Owner")
Result = TypeVar("Result")


def find_moved_modules() -> None:
    """Let the modules of before be imported, where nothing else has their names."""
    sys.meta_path.append(_MovedFinder())


def forward_moved_names(module: str) -> None:
    """Let a module that is still there be asked for the names that it lost.

    Args:
        module: its `__name__`; its own names come first.
    """
    vars(sys.modules[module])["__getattr__"] = _forwarding(module)


def former_name(name: str, method: Callable[[Owner], Result]) -> Callable[[Owner], Result]:
    """Make a method's former name: it warns of its deprecation and calls the method.

    Args:
        name: the former name.
        method: what to call instead; it takes no arguments.
    """

    @functools.wraps(method)
    def renamed(self: Owner) -> Result:
        warnings.warn(f"{name}() is deprecated: call {method.__name__}()", DeprecationWarning, stacklevel=2)
        return method(self)

    renamed.__doc__ = f"Deprecated name of `{method.__name__}`."
    return renamed


def _forwarding(module: str) -> Callable[[str], Any]:
    """A module's `__getattr__`, which looks a name up where it is now."""

    def look_up(name: str) -> Any:
        if not name.startswith("_"):
            before = module.removeprefix(_PACKAGE)
            home, _, now = RENAMED.get(f"{before}.{name}", "").rpartition(".")
            for place in [home] if home else MOVED[before]:
                found = import_module(_PACKAGE + place)
                if hasattr(found, now or name):
                    what = f"{module}.{name} is now {found.__name__}.{now or name}"
                    warnings.warn(what, DeprecationWarning, stacklevel=2)
                    return getattr(found, now or name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return look_up


class _MovedFinder(MetaPathFinder, Loader):
    """Makes an empty module of a path of before, which forwards to the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(_PACKAGE)
        if name == fullname or name not in MOVED:
            return None
        return ModuleSpec(fullname, self, is_package=any(module.startswith(f"{name}.") for module in MOVED))

    def exec_module(self, module: ModuleType) -> None:
        places = " and ".join(_PACKAGE + place for place in MOVED[module.__name__.removeprefix(_PACKAGE)])
        module.__doc__ = f"An earlier path of {places or 'modules elsewhere'}; it forwards to them."
        forward_moved_names(module.__name__)
