"""The list of methods. Imports nothing heavy: the command line's help is made from it."""

from argparse import ArgumentTypeError
from dataclasses import dataclass

from scalablevit.tasks import Flag

CLASS = Flag("--class", "class to explain (default: what the network finds)", metavar="NAME", fills="class_name")
WINDOWS = Flag(
    "--windows", "windows along the shorter side that are hidden in turn (default: 8)", metavar="N", type=int
)
MOST = Flag("--most", "largest number of objects or regions to explain in an image (default: 6)", metavar="N", type=int)


def point(text: str) -> tuple[float, float]:
    """Read "X,Y" from the command line."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"must be X,Y in pixels of the image, such as 120,80, got {text!r}") from None
    return x, y


AT = Flag(
    "--at", "pixels of the image that look (default: the one in the middle)", metavar="X,Y", type=point, nargs="+"
)
GRID = Flag("--grid", "show N x N pixels that look, spread over the image, in one figure", metavar="N", type=int)
PER = Flag("--per", "what a panel shows (default: stage, the mean over its blocks)", choices=("stage", "block", "head"))
SIZE = Flag("--size", "side that images are resized to, in pixels (default: 256)", metavar="N", type=int)
STAGE = Flag("--stage", "stage whose map is measured, from 1 (default: the last)", metavar="N", type=int)
TIMM = Flag("--timm", "networks of timm to measure beside this one, with random weights", metavar="NAME", nargs="+")
PRETRAINED = Flag("--pretrained", "take timm's pretrained weights, which are downloaded", switch=True)


@dataclass(frozen=True)
class Method:
    """A way to explain what a network does with an image.

    Args:
        name: value of --method.
        summary: what it shows, for the help.
        function: reference to (subject, **flags) to a list of `scalablevit.explain.Explanation`; where `over_images`,
            its first argument iterates over the subjects of all images.
        flags: that fill arguments of `function`; methods may share one.
        over_images: one explanation for all images together.
        needs_network: needs gradients or maps inside the network: exported files have neither.
    """

    name: str
    summary: str
    function: str
    flags: tuple[Flag, ...] = ()
    over_images: bool = False
    needs_network: bool = True


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("cam", "regions that raise a score (Layer-CAM)", "scalablevit.explain.cam:explain", flags=(CLASS, MOST)),
        Method(
            "attention",
            "where a pixel looks, in both attentions",
            "scalablevit.explain.attention_method:explain",
            flags=(AT, GRID, PER),
        ),
        Method(
            "receptive-field",
            "pixels that the middle of a map depends on, over all images",
            "scalablevit.explain.receptive_field_method:explain",
            flags=(SIZE, STAGE, TIMM, PRETRAINED),
            over_images=True,
        ),
        Method(
            "features",
            "first three principal components of each stage's features, as colours",
            "scalablevit.explain.features:explain",
        ),
        Method(
            "occlusion",
            "regions whose hiding lowers a score (by Captum; slow; also for exported files)",
            "scalablevit.explain.occlusion:explain",
            flags=(CLASS, MOST, WINDOWS),
            needs_network=False,
        ),
    )
}
