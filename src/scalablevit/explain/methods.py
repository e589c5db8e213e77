"""The list of methods. Imports nothing heavy: the command line's help is made from it."""

from dataclasses import dataclass

from scalablevit.tasks import Flag

CLASS = Flag("--class", "class to explain (default: what the network finds)", metavar="NAME", fills="class_name")
MOST = Flag("--most", "largest number of objects or regions to explain in an image (default: 6)", metavar="N", type=int)


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
    )
}
