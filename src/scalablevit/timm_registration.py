"""Make the variants known to timm without importing timm, which takes seconds, before anybody needs it."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def register_when_timm_is_imported() -> None:
    """Register now if timm is there, else right after its import."""
    if "timm" in sys.modules:
        import_module("scalablevit.backbone")
    else:
        sys.meta_path.insert(0, _TimmFinder())


class _TimmFinder(MetaPathFinder):
    """Finds timm as the other finders do, and lets `_RegisteringLoader` load it."""

    def __init__(self) -> None:
        self.is_searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm" or self.is_searching:
            return None
        self.is_searching = True
        try:
            spec = find_spec(fullname)
        finally:
            self.is_searching = False
        # A search alone, as libraries make to see whether timm is there, registers nothing and must not end this.
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, self)
        return spec


class _RegisteringLoader(Loader):
    """timm's own loader, which imports our backbone afterwards."""

    def __init__(self, loader: Loader, finder: _TimmFinder) -> None:
        self.loader = loader
        self.finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # importlib and inspect look for the loader that knows the source.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        self.loader.exec_module(module)
        import_module("scalablevit.backbone")
