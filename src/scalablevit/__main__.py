"""`python -m scalablevit`."""

from scalablevit.cli import run

run()
