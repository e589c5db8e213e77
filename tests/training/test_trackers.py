"""Trackers such as W&B: chosen by name, resumed in the same remote run, never the end of a training."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ledger import Ledger, entries
from lightning.pytorch.callbacks import Callback
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.training import logger_choice, trackers
from scalablevit.training.allowed_classes import check_classes
from scalablevit.training.logger_choice import TRACKERS, LoggerChoice, logger_choices
from scalablevit.training.recipe_errors import RecipeError
from scalablevit.training.run_folder import RunFolder
from scalablevit.training.trackers import TolerantLogger, build_trackers, read_ids

CHOICE = LoggerChoice("ledger.Ledger")


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "offline", False)
    monkeypatch.setattr(Ledger, "num_runs", 0)


def begin(folder: Path, choice: LoggerChoice = CHOICE) -> TolerantLogger:
    (logger,) = build_trackers([choice], folder=RunFolder(folder))
    assert isinstance(logger, TolerantLogger)
    _ = logger.experiment
    logger.begin({"model.variant": "scalablevit_atto", "run_folder": str(folder)})
    return logger


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        ("wandb", ["wandb"]),
        ("wandb, mlflow", ["wandb", "mlflow"]),
        ("csv,tensorboard", []),
        (["wandb", "ledger.Ledger"], ["wandb", "ledger.Ledger"]),
        ({"class_path": "comet", "init_args": {"project": "a"}}, ["comet"]),
        ([{"class_path": "csv"}, {"class_path": "litlogger", "init_args": None}], ["litlogger"]),
    ],
)
def test_choices(value: Any, names: list[str]) -> None:
    assert [choice.name for choice in logger_choices(value)] == names


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("wandbb", "there is no 'wandbb'; did you mean wandb"),
        ("", "there is no ''"),
        ("wandb,", "there is no ''"),
        ("spreadsheet", "it takes wandb, mlflow, comet"),
        ("neptune", "Neptune was shut down"),
        ("wandb,wandb", "names wandb twice"),
        ([{"project": "a"}], "got {'project': 'a'}"),
        ({"class_path": "wandb", "project": "a"}, "must be a name such as wandb"),
        ({"class_path": "wandb", "init_args": ["a"]}, "must be a name such as wandb"),
        ("../evil.py", "there is no '../evil.py'"),
    ],
)
def test_what_is_no_logger_is_named(value: Any, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        logger_choices(value)
    assert said in str(error.value)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger_choice, "find_spec", lambda module: None)
    with pytest.raises(RecipeError, match=f"pip install {TRACKERS[name].install}; or train without it"):
        LoggerChoice(name).load()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_package.Logger", "there is no module no_such_package"),
        ("ledger.NoSuch", "cannot be imported"),
        ("pathlib.Path", "is no logger of Lightning"),
        ("json.dumps", "is no logger of Lightning"),
    ],
)
def test_classes_that_are_no_loggers(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        LoggerChoice(name).load()


def test_arguments_that_a_class_refuses(tmp_path: Path) -> None:
    choice = LoggerChoice("ledger.Ledger", {"colour": "red"})
    with pytest.raises(RecipeError, match=r"cannot be built \(TypeError: .*colour.*correct its init_args"):
        build_trackers([choice], folder=RunFolder(tmp_path))


def test_the_recipe_and_the_folder_are_handed_over_once_and_the_remote_run_goes_on(tmp_path: Path) -> None:
    begin(tmp_path, LoggerChoice("ledger.Ledger", {"team": "theirs"})).log_metrics({"val/top1": 0.5}, 3)
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"ledger.Ledger": {"id": "remote-1"}}
    begin(tmp_path).log_metrics({"val/top1": 0.6}, 6)  # resumed
    assert Ledger.num_runs == 1
    assert entries(tmp_path, "remote-1") == [
        {"params": {"model.variant": "scalablevit_atto", "run_folder": str(tmp_path)}, "team": "theirs"},
        {"step": 3, "val/top1": 0.5},
        {"step": 6, "val/top1": 0.6},
    ]


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"ledger.Ledger": 3}', '{"ledger.Ledger": {}}', '{"a": {"id": null}}']
)
def test_a_damaged_list_of_ids_is_no_end(text: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.loggers.write_text(text)
    assert read_ids(folder) == {}
    begin(tmp_path)
    assert read_ids(folder) == {"ledger.Ledger": "remote-1"}


def test_a_network_that_goes_does_not_end_the_run_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    class Network(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            now[0] += 10.0
            Ledger.offline = 5 <= trainer.global_step < 16

    monkeypatch.setattr(trackers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    logger = begin(tmp_path)
    trainer = make_trainer(tmp_path, [Network()], logger=[logger], log_every_n_steps=1)
    trainer.fit(ToyTask(), datamodule=ToyData())
    assert trainer.current_epoch == 3
    said = [record.message for record in caplog.records if record.name.startswith("scalablevit")]
    assert said == [
        "the logger ledger.Ledger fails (ConnectionError: the network is gone); the run continues and tries it again "
        "later, metrics.csv has all metrics"
    ]
    steps = [entry["step"] for entry in entries(tmp_path, "remote-1") if "lr" in entry]
    assert steps[:5] == [0, 1, 2, 3, 4]
    assert steps[-1] == 32
    assert not set(steps) & set(range(5, 16))


def test_without_a_network_a_new_run_does_not_begin_and_a_resumed_one_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger.offline = True
    with pytest.raises(
        RecipeError, match=r"--logger ledger.Ledger cannot begin \(ConnectionError: the network is gone"
    ):
        begin(tmp_path)
    Ledger.offline = False
    remote = begin(tmp_path).version
    Ledger.offline = True
    caplog.set_level(logging.WARNING)
    now = [0.0]
    monkeypatch.setattr(trackers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    logger = begin(tmp_path)
    logger.log_metrics({"a": 1.0}, 1)
    assert (logger.name, logger.version, logger.save_dir, logger.experiment) == (None, remote, None, None)
    logger.finalize("success")
    assert len(caplog.records) == 1
    Ledger.offline, now[0] = False, 61.0
    logger.log_metrics({"a": 2.0}, 2)
    assert entries(tmp_path, str(remote))[-1] == {"step": 2, "a": 2.0}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("evil.Logger", "logger names evil.Logger, which is not among the classes"),
        ("wandb,evil.Logger", "logger names evil.Logger"),
        (
            {"class_path": "mlflow", "init_args": {"tracking_uri": "http://elsewhere"}},
            "logger mlflow sets tracking_uri",
        ),
        ([{"class_path": "wandb", "init_args": {"log_model": True}}], "logger wandb sets log_model"),
        ({"class_path": "wandb", "init_args": {"tags": [{"class_path": "os.system"}]}}, "names os.system"),
    ],
)
def test_a_run_folder_of_a_stranger_chooses_no_code_and_no_address(setting: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--allow-class") as error:
        check_classes({"logger": setting}, recipe=tmp_path / "recipe.yaml", allowed=())
    assert said in str(error.value)


def test_what_a_run_folder_may_choose(tmp_path: Path) -> None:
    setting = ["csv", "comet", {"class_path": "wandb", "init_args": {"project": "a", "tags": ["b"]}}]
    check_classes({"logger": setting}, recipe=tmp_path / "recipe.yaml", allowed=())
    check_classes({"logger": "own.Logger"}, recipe=tmp_path / "recipe.yaml", allowed=("own.Logger",))
