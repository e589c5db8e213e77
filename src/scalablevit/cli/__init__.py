"""The command line. One module a command; each imports what it needs when it runs, so that help answers at once."""

from scalablevit.cli.entry import main, run

__all__ = ["main", "run"]
