"""timm's optimizer hooks for a network with a backbone inside."""

from typing import Any

from scalablevit.backbone import groups_below

_PREFIX = "backbone.body."


class LayerGroups:
    """timm's optimizer hooks, for a detector whose `backbone.body` is a `PyramidBackbone`."""

    backbone: Any

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed: those of PEG."""
        return {_PREFIX + name for name in self.backbone.body.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that sort the parameters of the backbone into layers; all others are the last layer."""
        return groups_below(_PREFIX, self.backbone.body.group_matcher(coarse))
