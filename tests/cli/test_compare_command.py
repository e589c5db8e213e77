"""`scalablevit compare`: what it asks of fit, skips, resumes, refuses and tabulates."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from fake_runs import FakeFit
from tiny_runs import SMALL

from command_line import scalablevit
from scalablevit.cli import comparison_study
from scalablevit.cli.comparison_progress import RunLines
from scalablevit.recipes import recipe_text
from scalablevit.training.comparison.networks import fingerprint, network_of
from scalablevit.training.comparison.process import Signals, reason_in, run_fit
from scalablevit.training.comparison.switches import one_at_a_time, read_switches

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
def test_every_packaged_switch_builds_another_network_in_every_task(recipe: str) -> None:
    model = yaml.safe_load(recipe_text(recipe))["model"]
    baseline, *others = one_at_a_time(read_switches())
    prints = {}
    for combination in (baseline, *others):
        arguments = {**model["init_args"]}
        for key, value in combination.settings.items():
            _, name, *option = key.split(".")
            arguments[name] = {option[0]: value} if option else value
        network = network_of({"model": {**model, "init_args": arguments}})
        assert network is not None
        prints[combination.label] = fingerprint(network)
    repeats = [label for label in prints if label != "baseline" and prints[label] == prints["baseline"]]
    assert repeats == ["full values"]
    assert len(set(prints.values())) == len(prints) - 1


def test_ablate_leaves_out_what_the_baseline_is(fake_fit: FakeFit) -> None:
    outcome = scalablevit("ablate", "digits", "--only", "scale_value", "--seeds", "0")
    assert outcome.code == 0, outcome.err
    assert "full values: the baseline is that already; left out" in outcome.err
    assert [row["label"] for row in numbers("runs/ablate-digits")["combinations"]] == ["baseline", "scaled values"]
    # compare does as it is told
    scalablevit("compare", "digits", "--vary", "model.scale_value=false,true")
    assert len(numbers()["combinations"]) == 2


def test_switches_of_your_own(fake_fit: FakeFit, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    printed = scalablevit("ablate", "--print-switches").out
    assert yaml.safe_load(printed)["lim"] == {"without LIM": {"model.network_options.lim": False}}
    mine.write_text("size:\n  wide: {model.variant: scalablevit_nano, model.window_size: 2}\n")
    outcome = scalablevit("ablate", "digits", "--switches", mine, "--seeds", "1")
    assert outcome.code == 0, outcome.err
    assert numbers("runs/ablate-digits")["combinations"][1]["settings"] == {
        "model.variant": "scalablevit_nano", "model.window_size": 2,
    }  # fmt: skip
    for text, message in (
        ("- a\n", "it holds no switches"),
        ("a: 3\n", "a must be a mapping"),
        ("a: {b: 3}\n", "a, b: give keys of the recipe"),
        ("a: {b: {c: 1}}\nd: {b: {c: 2}}\n", "the label b is taken"),
        ("a: [\n", "not valid YAML"),
    ):
        mine.write_text(text)
        assert message in scalablevit("ablate", "digits", "--switches", mine).err


def test_a_study_is_measured_once_and_averaged_over_seeds(
    fake_fit: FakeFit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    studied = []

    def study_of(source: str, label: str, root: Path, **_: Any) -> Any:
        studied.append(label)
        if "broken" in source:
            raise ValueError("nothing to look at")
        value = len(studied) / 10
        return SimpleNamespace(summary=lambda: {"pointing_game": SimpleNamespace(value=value)})

    monkeypatch.setattr(comparison_study, "study_of", study_of)
    words = ("compare", "digits", "--vary", "model.drop_path_rate=0,0.1", "--vary", "seed=0,1")
    outcome = scalablevit(*words, "--study-data", tmp_path)
    assert outcome.code == 0, outcome.err
    first, second = numbers()["combinations"]
    assert first["study"]["pointing_game"]["mean"] == pytest.approx(0.15)  # 0.1 and 0.2
    assert second["study"]["pointing_game"]["difference_to_first"]["value"] == pytest.approx(0.2)
    assert "pointing game" in outcome.out
    assert "pointing game" in Path("runs/compare-digits/study.md").read_text()
    # what is there is not measured again, with or without the flag, nor by --tabulate
    assert scalablevit(*words, "--study-data", tmp_path).out == outcome.out
    assert scalablevit("compare", "--tabulate", "runs/compare-digits").out == outcome.out
    assert len(studied) == 4
    # other weights are
    Path("runs/compare-digits/drop_path_rate=0/seed-0/model.safetensors").write_bytes(b"other")
    scalablevit(*words, "--study-data", tmp_path)
    assert len(studied) == 5
    assert scalablevit(*words, "--study", "--no-study").code == 2
    assert "there is no such folder" in scalablevit(*words, "--study-data", "nowhere").err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.network_options.limm=true"], "limm=true: model.network_options: "),
        (["model.network_options={reductions: [1]}"], "reductions must have one value per stage (4), got [1]"),
        (["model.variant=scalablevit_nono"], "there is no variant 'scalablevit_nono'"),
    ],
)
def test_a_network_that_cannot_be_built_is_an_error_before_anything_runs(
    fake_fit: FakeFit, words: list[str], message: str
) -> None:
    outcome = scalablevit("compare", "digits", "--vary", *words)
    assert (outcome.code, message in outcome.err) == (1, True), outcome.err
    assert fake_fit.calls == []


def test_a_folder_of_another_kind_is_refused(fake_fit: FakeFit) -> None:
    Path("run").mkdir()
    Path("run/recipe.yaml").write_text("model: null\n")
    assert "run is a run: name another folder" in scalablevit("compare", "digits", *VARY, "--run", "run").err
    assert "run holds no comparison" in scalablevit("compare", "--tabulate", "run").err
    Path("run/comparison.json").write_text("{}")
    assert "comparison.json is damaged" in scalablevit("compare", "--tabulate", "run").err


def test_what_a_killed_run_left_is_trained_anew_unless_it_holds_weights(fake_fit: FakeFit) -> None:
    folder = Path("runs/compare-digits/drop_path_rate=0/seed-0")
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,step\n")
    words = ("compare", "digits", "--vary", "model.drop_path_rate=0", "--vary", "seed=0")
    outcome = scalablevit(*words)
    assert outcome.code == 0, outcome.err
    assert "train anew, as it ended before its first checkpoint" in outcome.err
    (folder / "results.json").unlink()
    (folder / "checkpoints" / "last.ckpt").unlink()
    kept = scalablevit(*words)
    assert kept.code == 1
    assert "holds model.safetensors and cannot be resumed: move or remove the folder" in kept.err
    assert (folder / "model.safetensors").is_file()


def test_the_process_of_a_run_tells_why_it_ended(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert run_fit(["--help"], log, Signals(), lambda: None) == 0
    assert "usage: scalablevit fit" in log.read_text()
    since = log.stat().st_size
    code = run_fit(["--config", "nowhere"], log, Signals(), lambda: None)
    assert code == 1
    assert "nowhere: neither a file nor a packaged recipe" in reason_in(log, code, since=since)
    assert reason_in(log, -9, since=log.stat().st_size) == "ended by SIGKILL (out of memory?)"


@pytest.mark.slow
def test_a_comparison_that_trains_is_stopped_and_goes_on(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        *("compare", "train_folder", *SMALL, "--data.root", image_folder, "--epochs", "3", "--threads", "1"),
        *("--run", tmp_path / "comparison", "--vary", "model.network_options={lim: true},{lim: false}"),
    ]
    monkeypatch.setattr("scalablevit.training.comparison.process._POLL_SECONDS", 0.02)
    sent = []

    def stop(self: RunLines, run: Any, epochs: int) -> None:
        if epochs and not sent:
            sent.append(run)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunLines, "wait", stop)
    stopped = scalablevit(*words)
    assert stopped.code == 130, stopped.err
    assert "stopped with 0 of 2 runs finished" in stopped.err
    outcome = scalablevit(*words)
    assert outcome.code == 0, outcome.err
    assert ": resume (" in outcome.err
    first, second = json.loads((tmp_path / "comparison" / "comparison.json").read_text())["combinations"]
    assert first["parameters"] > second["parameters"]
    assert first["multiply_adds"] > second["multiply_adds"]
    assert first["image"] == [16, 16]
    for row in (first, second):
        assert list(row["runs"]["0"]["curve"]) == ["1", "2", "3"]
        assert row["epoch_seconds"] > 0


def test_another_comparison_in_the_folder_is_told(fake_fit: FakeFit) -> None:
    scalablevit("compare", "digits", "--vary", "model.drop_path_rate=0,0.1")
    more = scalablevit("compare", "digits", "--vary", "model.drop_path_rate=0.1,0,0.2")
    assert "warning" not in more.err
    other = scalablevit("compare", "digits", "--vary", "model.drop_path_rate=0,0.3")
    assert "holds another comparison, of drop_path_rate=0.1, drop_path_rate=0.2: its runs stay" in other.err
    assert len(fake_fit.calls) == 4


def test_figures_of_other_images_are_not_averaged(
    fake_fit: FakeFit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def study_of(source: str, label: str, root: Path, *, count: int, **_: Any) -> Any:
        return SimpleNamespace(summary=lambda: {"pointing_game": SimpleNamespace(value=float(count))})

    monkeypatch.setattr(comparison_study, "study_of", study_of)
    words = ("compare", "digits", "--vary", "model.drop_path_rate=0,0.1", "--study-data", tmp_path)
    scalablevit(*words, "--study-images", "5", "--vary", "seed=0")
    monkeypatch.setattr(comparison_study, "study_of", lambda *_, **__: (_ for _ in ()).throw(ValueError("stopped")))
    half = scalablevit(*words, "--study-images", "7", "--vary", "seed=0,1")
    assert half.err.count("failed: stopped") == 4
    assert "of 2 runs is of other images" in half.err
    assert numbers()["combinations"][0]["study"] is None
    monkeypatch.setattr(comparison_study, "study_of", study_of)
    scalablevit(*words, "--study-images", "7", "--vary", "seed=1")
    mixed = scalablevit(*words[:-2], "--vary", "seed=0,1")
    assert "of 2 runs is of other images than that of the first one" in mixed.err
    assert numbers()["combinations"][0]["study"]["pointing_game"]["by_seed"] == {"0": 5.0}
