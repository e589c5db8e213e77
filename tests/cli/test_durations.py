"""Lengths of time as flags give them."""

from datetime import timedelta

import pytest

from command_line import scalablevit
from scalablevit.cli.durations import duration
from scalablevit.cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), (" 1S ", 1), ("168h", 7 * 24 * 3600)]
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert duration(text, flag="--timeout") == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["10", "", "m", "-5m", "0s", "0.5s", "169h", "10min", "1h30m", "nan", "1e3s", "٣m"])
def test_anything_else_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(UsageError, match=r"--timeout .*: give a time from 1s to 168h with its unit, such as 90s"):
        duration(text, flag="--timeout")


def test_fit_refuses_it_before_anything_is_loaded() -> None:
    outcome = scalablevit("fit", "--config", "digits", "--timeout", "10")
    assert outcome.code == 2
    assert "--timeout 10: give a time" in outcome.err
