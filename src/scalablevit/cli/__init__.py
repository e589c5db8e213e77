"""The command line. One module a command; each imports what it needs when it runs, so that help answers at once."""

from scalablevit.cli.entry import main, run
from scalablevit.moved import forward_moved_names

__all__ = ["main", "run"]


forward_moved_names(__name__)
