"""`scalablevit compare`: what it asks of fit, skips, resumes, refuses and tabulates."""

import json
import signal
from pathlib import Path

import pytest
from fake_runs import FakeFit
from PIL import Image

from command_line import scalablevit

VARY = ("--vary", "model.drop_path_rate=0,0.1", "--vary", "seed=0,1,2")


def numbers(folder: str = "runs/compare-digits") -> dict:
    return json.loads((Path(folder) / "comparison.json").read_text())


def test_every_combination_is_trained_once_with_every_seed(fake_fit: FakeFit) -> None:
    fake_fit.value = lambda recipe: (
        0.8 + recipe["model"]["init_args"]["drop_path_rate"] + 0.01 * recipe["seed_everything"]
    )
    outcome = scalablevit("compare", "digits", *VARY, "--epochs", "2")
    assert outcome.code == 0, outcome.err
    folders = [words[words.index("--run") + 1] for words in fake_fit.calls]
    assert folders == [
        f"runs/compare-digits/drop_path_rate={rate}/seed-{seed}" for seed in (0, 1, 2) for rate in ("0", "0.1")
    ]
    assert all("--trainer.max_epochs" in words for words in fake_fit.calls)
    first, second = numbers()["combinations"]
    assert first["mean"] == pytest.approx(0.81)
    assert first["std"] == pytest.approx(0.01)
    assert first["difference_to_first"] is None
    assert second["difference_to_first"] == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1, "seeds": 3})
    assert "drop_path_rate=0.1  0.650 M" in outcome.out
    assert "0.9100 ± 0.0100" in outcome.out
    for name in ("curves.png", "cost.png"):
        with Image.open(Path("runs/compare-digits") / name) as image:
            assert min(image.size) > 100
    # the same command again has nothing left to do, and comes to the same
    again = scalablevit("compare", "digits", *VARY, "--epochs", "2")
    assert (again.code, len(fake_fit.calls), again.out) == (0, 6, outcome.out)
    assert again.err.count("finished already") == 6


def test_a_run_that_fails_keeps_no_other_from_its_turn(fake_fit: FakeFit) -> None:
    fake_fit.fail["drop_path_rate=0/seed-1"] = "the data are gone"
    outcome = scalablevit("compare", "digits", *VARY)
    assert outcome.code == 1
    assert len(fake_fit.calls) == 6
    assert "failed: drop_path_rate=0, seed 1: the data are gone" in outcome.err
    assert outcome.err.splitlines()[-1] == "scalablevit: error: 1 of 6 runs have no result"
    first, second = numbers()["combinations"]
    assert first["failures"] == {"1": "the data are gone"}
    assert second["difference_to_first"]["seeds"] == 2
    assert "2 of 3" in outcome.out
    fake_fit.fail.clear()
    assert scalablevit("compare", "digits", *VARY).code == 0
    assert len(fake_fit.calls) == 7


def test_a_stopped_comparison_goes_on_where_it_was(fake_fit: FakeFit) -> None:
    fake_fit.stop["drop_path_rate=0.1/seed-0"] = signal.SIGINT
    outcome = scalablevit("compare", "digits", *VARY)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == (
        "scalablevit: error: stopped with 1 of 6 runs finished; to go on, give the same command again"
    )
    assert scalablevit("compare", "digits", *VARY).code == 0
    assert fake_fit.calls[2] == ["--resume", "runs/compare-digits/drop_path_rate=0.1/seed-0"]
    assert len(fake_fit.calls) == 7


def test_a_run_with_other_settings_is_refused_before_any_starts(fake_fit: FakeFit) -> None:
    scalablevit("compare", "digits", *VARY)
    fake_fit.calls.clear()
    outcome = scalablevit("compare", "digits", *VARY, "--epochs", "7", "--vary", "seed=3")
    assert outcome.code == 1
    assert fake_fit.calls == []
    assert "drop_path_rate=0/seed-0 holds a run with other settings (trainer.max_epochs 30, now 7)" in outcome.err
    # what changes no result may differ
    assert scalablevit("compare", "digits", *VARY, "--workers", "0").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--vary", "model.drop_path_rat=0,1"],
            "there is no key model.drop_path_rat; did you mean model.drop_path_rate?",
        ),
        (["--vary", "model.drop_path_rate=much"], "model.drop_path_rate must be a number, got 'much'"),
        (["--vary", "seed=0,0"], "0 is given twice"),
        (["--vary", "seed=one"], "a seed is a whole number, got one"),
        (["--vary", "seed"], "give a key and its values"),
        (["--vary", "seed="], "there is no value"),
        (["--vary", "model.window_size=[7"], "the values are not YAML"),
        (["--vary"], "--vary needs KEY=VALUE"),
        ([], "compare needs --vary"),
    ],
)
def test_what_cannot_be_varied_is_an_error_before_anything_runs(
    fake_fit: FakeFit, words: list[str], message: str
) -> None:
    outcome = scalablevit("compare", "digits", *words)
    assert outcome.code in (1, 2)
    assert message in outcome.err
    assert fake_fit.calls == []
    assert not Path("runs").exists()


def test_dry_run_prints_the_commands_and_writes_nothing(fake_fit: FakeFit) -> None:
    outcome = scalablevit("compare", "digits", *VARY, "--dry-run")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == (
        "train     scalablevit fit --config digits --run runs/compare-digits/drop_path_rate=0/seed-0 "
        "--model.drop_path_rate=0 --seed_everything=0"
    )
    assert outcome.out.splitlines()[-1] == "6 runs, 6 of them to train"
    assert not Path("runs").exists()


def test_tabulate_reads_what_is_there_even_elsewhere(fake_fit: FakeFit) -> None:
    outcome = scalablevit("compare", "digits", *VARY)
    Path("runs/compare-digits").rename("moved")
    again = scalablevit("compare", "--tabulate", "moved")
    assert (again.code, again.out) == (0, outcome.out)
    assert len(fake_fit.calls) == 6
    other = scalablevit("compare", "--tabulate", "moved", "--metric", "val/none")
    assert other.code == 1
    assert "has no column val/none; it has val/top1" in other.err
    assert scalablevit("compare", "--tabulate", "nowhere").code == 1


def test_ablate_turns_one_switch_at_a_time(fake_fit: FakeFit) -> None:
    outcome = scalablevit("ablate", "digits", "--only", "lim", "peg", "--seeds", "4,5")
    assert outcome.code == 0, outcome.err
    rows = numbers("runs/ablate-digits")["combinations"]
    assert [(row["label"], row["group"], row["settings"]) for row in rows] == [
        ("baseline", None, {}),
        ("without LIM", "lim", {"model.network_options.lim": False}),
        ("without PEG", "peg", {"model.network_options.peg": False}),
    ]
    assert [list(row["runs"]) for row in rows] == [["4", "5"]] * 3
    unknown = scalablevit("ablate", "digits", "--only", "lmi")
    assert (unknown.code, "did you mean lim?" in unknown.err) == (1, True)


@pytest.mark.parametrize("recipe", ["digits", "demo_segmentation", "demo_detection"])
def test_every_packaged_switch_is_a_key_of_every_task(fake_fit: FakeFit, recipe: str) -> None:
    outcome = scalablevit("ablate", recipe, "--seeds", "0", "--dry-run")
    assert outcome.code == 0, outcome.err
