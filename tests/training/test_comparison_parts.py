"""Parts of a comparison: values of an axis, names of folders, means and paired differences."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scalablevit.training.comparison.asked import differences
from scalablevit.training.comparison.axes import combinations_of, folder_names, read_axes, read_axis, short_names
from scalablevit.training.comparison.plan import clear_begun
from scalablevit.training.comparison.statistics import mean_of, paired_difference
from scalablevit.training.comparison.table import difference_text
from scalablevit.training.epoch_times import read_epoch_times
from scalablevit.training.run_lock import FolderInUseError, RunLock


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1,2", (1, 2)),
        ("a=x, y", ("x", "y")),
        ("a={lim: false},{peg: false, lim: true}", ({"lim": False}, {"peg": False, "lim": True})),
        ("a=[1,2],[3]", ([1, 2], [3])),
        ("a=[1,2]", ([1, 2],)),
        ("a=[[1,2],[3]]", ([[1, 2], [3]],)),
        ("a=null,0.5", (None, 0.5)),
        ("a='1,2'", ("1,2",)),
        ("--a=x=y", ("x=y",)),
        # what YAML makes numbers, words or dates of goes to the recipe as it is written
        ("a=12:00:00:00,1:30", ("12:00:00:00", "1:30")),
        ("a=yes,True,off", ("yes", True, "off")),
        ("a=2024-01-01,{b: 2024-01-02}", ("2024-01-01", {"b": "2024-01-02"})),
        ("a=010,-1,1_0,1.50", ("010", -1, "1_0", 1.5)),
    ],
)
def test_values_are_those_of_a_yaml_list(text: str, values: tuple) -> None:
    axis = read_axis(text)
    assert (axis.key, axis.values) == ("a", values)


def test_values_that_no_recipe_can_hold_are_refused() -> None:
    for text in ("a=!!binary aGk=", "a=!!set {b}", "a=!!python/name:os.system ''", "a=x #2, y"):
        with pytest.raises(ValueError, match="are not YAML"):
            read_axis(text)


def test_a_key_given_again_has_more_values() -> None:
    (axis,) = read_axes(["a=[1,2]", "a=[3]"])
    assert axis.values == ([1, 2], [3])
    with pytest.raises(ValueError, match="one holds the other"):
        read_axes(["a=1", "a.b=2"])


def test_combinations_are_the_product_and_seeds_stand_apart() -> None:
    found, seeds = combinations_of(read_axes(["m.a=1,2", "seed_everything=3,4", "n.a=x,y"]), otherwise="")
    assert [combination.label for combination in found] == [
        "m.a=1, n.a=x",
        "m.a=1, n.a=y",
        "m.a=2, n.a=x",
        "m.a=2, n.a=y",
    ]
    assert seeds == (3, 4)
    assert found[0].words() == ["--m.a=1", "--n.a=x"]
    only_seeds, _ = combinations_of(read_axes(["seed_everything=0"]), otherwise="digits")
    assert [(one.label, one.settings) for one in only_seeds] == [("digits", {})]


def test_short_names_stay_apart() -> None:
    assert short_names(["model.lr", "data.root"]) == {"model.lr": "lr", "data.root": "root"}
    assert short_names(["model.a.x", "data.a.x"]) == {"model.a.x": "model.a.x", "data.a.x": "data.a.x"}


@settings(max_examples=40)
@given(st.lists(st.text(min_size=1, max_size=150), min_size=1, max_size=6, unique=True))
def test_folder_names_are_safe_and_differ(labels: list[str]) -> None:
    names = folder_names(labels)
    assert len({name.lower() for name in names}) == len(labels)
    for name in names:
        assert 0 < len(name) <= 110
        assert not set(name) & set('/\\ :*?"<>|')
        assert name not in (".", "..")


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6))
def test_the_interval_is_students(gaps: list[float]) -> None:
    first = {i: 0.25 * i for i in range(len(gaps))}
    other = {i: first[i] + gap for i, gap in enumerate(gaps)}
    found = paired_difference(first, {**other, 99: 5.0})
    assert found is not None
    assert found.count == len(gaps)
    exact = np.array([other[i] - first[i] for i in first])
    spread = exact.std(ddof=1) / math.sqrt(len(gaps))
    low, high = stats.t.interval(0.95, len(gaps) - 1, loc=exact.mean(), scale=max(spread, 1e-300))
    assert found.low == pytest.approx(low, abs=1e-9)
    assert found.high == pytest.approx(high, abs=1e-9)


def test_one_seed_has_no_interval_and_none_no_difference() -> None:
    one = paired_difference({0: 0.5}, {0: 0.7, 1: 0.9})
    assert one is not None
    assert (one.low, one.count, difference_text(one)) == (None, 1, "+0.2000")
    assert paired_difference({0: 0.5}, {1: 0.5}) is None
    assert mean_of({}) is None
    single = mean_of({3: 0.5})
    assert single is not None
    assert (single.value, single.std) == (0.5, None)


def test_differences_of_recipes(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "model: {init_args: {network_options: {lim: false}, lr: 1, scale_value: true}}\nthreads: 2\n"
        "data: {init_args: {num_workers: 3}}\n"
    )
    asked = {
        "model": {"init_args": {"network_options": None, "lr": 1, "scale_value": None, "added_since": 5}},
        "threads": None,
        "data": {"init_args": {"num_workers": 0}},
    }
    found = differences(asked, tmp_path)
    assert found == {"model.network_options.lim": (False, None)}


def test_times_of_a_damaged_file_are_none(tmp_path: Path) -> None:
    for text in ("", "[]", '{"epochs": 3}', '{"epochs": [{"epoch": 0}]}'):
        (tmp_path / "timing.json").write_text(text)
        assert read_epoch_times(tmp_path / "timing.json") == []


def test_what_another_process_has_just_begun_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    lock = RunLock(tmp_path)
    lock.acquire()
    try:
        with pytest.raises(FolderInUseError, match="is in use"):
            clear_begun(tmp_path)
        assert (tmp_path / "recipe.yaml").exists()
    finally:
        lock.release()
    clear_begun(tmp_path)
    assert not (tmp_path / "recipe.yaml").exists()
