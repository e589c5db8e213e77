"""Each mistake ends in one clear message and an exit code, never in a stack trace; nothing is lost."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import SMALL, write_images

from command_line import scalablevit
from scalablevit.cli import main
from scalablevit.training.invocation import invocation

TASK = "class_path: scalablevit.classification.ClassificationTask"
MODEL = f"model:\n  {TASK}\n"
ATTO = f"{MODEL}  init_args:\n    variant: scalablevit_atto\n"
DATA = "data:\n  class_path: scalablevit.classification.ImageFolderData\n  init_args:\n    root: images\n"


def error_of(*words: str | Path) -> str:
    """The message of a command that must fail."""
    outcome = scalablevit(*words)
    assert outcome.code in (1, 2)
    before, marker, message = outcome.err.partition("scalablevit: error: ")
    assert marker, outcome.err
    assert before == "" or before.endswith("\n")
    for noise in ("Traceback", "usage:", "Namespace(", "scalablevit: error"):
        assert noise not in message
    return message


@pytest.fixture
def fit_error(image_folder: Path, tmp_path: Path) -> Callable[..., str]:
    """The message of a run that must fail before it begins, and leaves nothing behind."""

    def run(*words: str | Path, recipe: str | Path = "train_folder") -> str:
        folder = tmp_path / "a run"
        given = () if "--run" in words else ("--run", folder)
        message = error_of("fit", "--config", recipe, *SMALL, "--data.root", image_folder, *given, *words)
        assert not folder.exists()
        return message

    return run


def test_names_and_settings_that_no_weights_can_hold_end_a_run_before_it_trains(
    fit_error: Callable[..., str], image_folder: Path, tmp_path: Path
) -> None:
    folders = {path.name for path in image_folder.rglob("*") if path.is_dir()}
    (tmp_path / "names.json").write_text(json.dumps({name: name * 1001 for name in folders}))
    message = fit_error("--data.class_names_file", tmp_path / "names.json")
    assert "could not be read back: class_names holds a text of" in message
    message = fit_error("--data.std", "[1e7, 1e7, 1e7]")
    assert "could not be read back: preprocessing.std is 10000000.0; its size is at most 1,000,000" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.drop_path_rte=0.1"], "no key model.drop_path_rte; did you mean model.drop_path_rate?"),
        (["--data.batchsize=4"], "there is no key data.batchsize; did you mean data.batch_size?"),
        (["--model.optimizer.lrr=4"], "no key model.optimizer.lrr; did you mean model.optimizer.lr?"),
        (["--trainer.max_epoch=4"], "there is no key --trainer.max_epoch; did you mean --trainer.max_epochs?"),
        (["--epoch=4"], "there is no key --epoch; did you mean --epochs?"),
        (["stray"], "'stray' is not understood: values are given as --KEY VALUE"),
        (["--data.batch_size=four"], "data.batch_size must be a whole number, got 'four'"),
        (["--model.optimizer.lr=fast"], "model.optimizer.lr must be a number, got 'fast'"),
        (["--epochs=x"], "trainer.max_epochs must be a whole number, got 'x'"),
        (["--seed=-5"], "--seed (seed_everything) must lie in 0 to 4294967295, got -5"),
        (["--threads=2000000"], "--threads must be 1 to 1,024 or null, got 2000000"),
        (["--seed=x"], "seed_everything must be a whole number, got 'x'"),
        (["--model.label_smoothing=2"], "model.label_smoothing must be in [0, 1), got 2.0"),
        (["--model.mixup.prob=3"], "mixup.prob must be between 0 and 1, got 3.0"),
        (["--model.variant=scalablevit_huge"], "there is no variant 'scalablevit_huge'; choose from"),
        (["--model.global_batch=6"], "global_batch 6 is not a multiple of batch_size 4 x 1 device(s) = 4"),
        (["--model.schedule.min_lr=1"], "schedule.min_lr 1 is above the peak learning rate"),
        (["--data.augmentation.rand_augment=foo"], "augmentation.rand_augment='foo' is no policy that timm"),
        (["--data.root=nowhere"], "nowhere: the data folder does not exist"),
        (["--trainer.logger=false"], "trainer.logger is managed by the run folder"),
        (["--devices=64000"], "--devices 64000: this machine has"),
        (["--devices=0"], "--devices 0: this machine has"),
        (["--trainer.devices=[0]"], "--devices [0]: a list picks GPUs, and this run is on the CPU; give a number"),
        (["--trainer.devices=[]"], "--devices []: give a number of devices"),
        (["--devices=0,1"], "--devices 0,1: a list picks GPUs, and this run is on the CPU; give a number"),
        (["--devices=two"], "--devices two: give a number of devices, a list such as 0,2, or auto"),
        (["--trainer.accelerator=foo"], "trainer.accelerator must be auto, cpu, gpu"),
        (["--model.weights=nowhere.pth"], "no weights at nowhere.pth"),
        (["--config"], "--config needs a value"),
        (["--run="], "--run needs a value"),
        (["--run", ""], "--run needs a value"),
        (["--config", "--epochs=2"], "--config needs a value"),
        (["--config", "imagenet_smal"], "neither a file nor a packaged recipe; did you mean imagenet_small?"),
        (["--resume=x"], "--resume continues a run with its own recipe: leave out --run and --config"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_words(fit_error: Callable[..., str], words: list[str], message: str) -> None:
    assert message in fit_error(*words)


@pytest.mark.parametrize("precision", ["bf17", "8"])
def test_wrong_precision(fit_error: Callable[..., str], precision: str) -> None:
    message = fit_error("--precision", precision)
    assert "precision" in message
    assert precision in message


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("words", [("--devices=2",), ()])
def test_a_gpu_that_is_not_there(fit_error: Callable[..., str], words: tuple[str, ...]) -> None:
    message = fit_error("--trainer.accelerator=gpu", *words)
    assert "this machine has no GPU" in message
    assert "--trainer.accelerator cpu" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [\n", "line 2: not valid YAML"),
        ("", "a recipe is a mapping with the keys model, data and trainer, this is empty"),
        ("- 1\n", "a recipe is a mapping with the keys model, data and trainer, this is list"),
        (f"modle:\n  {TASK}\n{DATA}", "there is no key modle in {file}; did you mean model?"),
        (f"{MODEL}  init_args:\n    variat: x\n{DATA}", "key model.variat in {file}; did you mean model.variant?"),
        (f"model:\n  {TASK}k\n{DATA}", "there is no scalablevit.classification.ClassificationTaskk"),
        (f"model:\n  {TASK}\n  init_args:\n    variant: [1]\n{DATA}", "model.variant in {file} must be text"),
        (ATTO, "the recipe names no data.class_path: it needs a data set; see `scalablevit recipes`\n"),
        (DATA, "the recipe names no model.class_path: it needs a task; see `scalablevit recipes`\n"),
        (f"{ATTO}data: null\n", "the recipe names no data.class_path: it needs a data set; see `scalablevit recipes`\n"),
        ("trainer: {}\n", "the recipe names no data.class_path: it needs a data set; see `scalablevit recipes`\n"),
        (f"{MODEL}{DATA}", "the recipe lacks model.variant, which has no default: set it there, or by --model.variant VALUE\n"),
        (f"{ATTO}{DATA.partition('  init')[0]}", "the recipe lacks data.root, which has no default: set it there, or by --data.root VALUE\n"),
        (f"{ATTO}{DATA}trainer:\n  max_epoch: 3\n", "trainer.max_epoch in {file}; did you mean trainer.max_epochs?"),
    ],
)  # fmt: skip
def test_wrong_recipe_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    said = error_of("fit", "--config", file, "--run", tmp_path / "run")
    assert message.format(file=file) in said
    assert not message.endswith("\n") or message == said  # the whole sentence
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_wrong_data(fit_error: Callable[..., str], tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    (data / "train" / "void").mkdir()
    assert f"{data}/train/void: the class folder has no images" in fit_error("--data.root", data)
    (data / "train" / "void").rmdir()
    (data / "val" / "red").rename(data / "val" / "rot")
    assert "validation classes are not among the 3 training classes" in fit_error("--data.root", data)
    single = write_images(tmp_path / "single", classes=["only"])
    assert "there is only one class, 'only'" in fit_error("--data.root", single)


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["foreign", "truncated", "text", "empty", "pickle", "zip"])
def test_wrong_weights(fit_error: Callable[..., str], run: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"weights.{'safetensors' if kind == 'truncated' else 'pth'}"
    if kind == "foreign":
        torch.save({"conv1.weight": torch.zeros(3)}, file)
    elif kind == "truncated":
        file.write_bytes((run / "model.safetensors").read_bytes()[:5000])
    elif kind == "pickle":
        file.write_bytes(pickle.dumps({"model": Malicious(tmp_path / "made")}))
    elif kind == "zip":
        torch.save({"model": Malicious(tmp_path / "made")}, file)
    else:
        file.write_text("hello" if kind == "text" else "")
    assert str(file) in fit_error("--model.weights", file)
    assert str(file) in error_of("predict", run, "--weights", file)
    assert not (tmp_path / "made").exists()


def test_weights_of_another_variant(fit_error: Callable[..., str], run: Path) -> None:
    message = fit_error("--model.weights", run, "--model.variant=scalablevit_nano", recipe="finetune_folder")
    assert "The checkpoint holds scalablevit_atto, the model is scalablevit_nano" in message


def test_a_folder_that_holds_a_run(fit_error: Callable[..., str], run: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    message = fit_error("--run", run)
    hint = f"already holds a run: resume it ({invocation('fit', '--resume', run)}), or name another folder by --run"
    assert hint in message
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    file = tmp_path / "file"
    file.touch()
    assert f"{file} is a file" in fit_error("--run", file)
    assert "cannot write into the run folder" in fit_error("--run", file / "run")


def test_nothing_to_resume(tmp_path: Path, run: Path) -> None:
    assert "there is no run to resume" in error_of("fit", "--resume", tmp_path / "none")
    shutil.copy(run / "recipe.yaml", tmp_path)
    assert f"{tmp_path}/checkpoints/last.ckpt is missing" in error_of("fit", "--resume", tmp_path)


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A finished run that a test may spoil."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.parametrize("kind", ["truncated", "foreign", "code", "empty"])
def test_a_spoilt_checkpoint(copied: Path, tmp_path: Path, kind: str) -> None:
    last = copied / "checkpoints" / "last.ckpt"
    if kind == "truncated":
        last.write_bytes(last.read_bytes()[:100_000])
    elif kind == "empty":
        last.write_bytes(b"")
    else:
        torch.save({"weight": torch.zeros(3)} if kind == "foreign" else Malicious(tmp_path / "made"), last)
    recipe = (copied / "recipe.yaml").read_text()
    for words in (("fit", "--resume", copied, "--epochs", "3"), ("validate", copied, "--checkpoint", last)):
        message = error_of(*words)
        assert str(last) in message
    assert not (tmp_path / "made").exists()
    assert (copied / "recipe.yaml").read_text() == recipe
    assert (copied / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_checkpoint_of_another_network_or_of_other_classes(copied: Path, tmp_path: Path) -> None:
    message = error_of("validate", copied, "--model.variant=scalablevit_nano")
    assert "the checkpoint holds scalablevit_atto, the recipe says scalablevit_nano" in message
    message = error_of("validate", copied, "--model.scale_value=true")
    assert "holds another network than the recipe builds" in message
    other = write_images(tmp_path / "other", classes=["a", "b", "c"])
    message = error_of("fit", "--resume", copied, "--epochs", "3", "--data.root", other)
    assert "3 classes (blue sky, grün, red) are not the 3 of the data (a, b, c)" in message
    message = error_of("validate", copied, "--data.root", other)
    assert "3 classes are not among the 3 of the network ('blue sky', 'grün', 'red'): 'a', 'b', 'c'" in message


def test_validate_wants_a_run(tmp_path: Path, run: Path) -> None:
    assert "is not a run folder" in error_of("validate", tmp_path)
    assert "the run folder comes first" in error_of("validate", "--json")
    assert "the run folder comes first" in error_of("validate", "")
    assert "its first argument: leave out --run" in error_of("validate", run, "--run", tmp_path)
    assert "its first argument: leave out --resume" in error_of("validate", run, "--resume", tmp_path)
    assert "there is no checkpoint" in error_of("validate", run, "--checkpoint", tmp_path / "none.ckpt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit"], "fit needs --config NAME|FILE or --resume FOLDER"),
        (["fit", "--epochs", "3"], "fit needs --config NAME|FILE or --resume FOLDER"),
        (["validate"], "the run folder comes first"),
    ],
)
def test_too_few_words(words: list[str], message: str) -> None:
    outcome = scalablevit(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"scalablevit: error: {message}")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cap", [2, 100])
def test_no_readable_image_to_train_on(image_folder: Path, tmp_path: Path, workers: int, cap: int) -> None:
    data = Path(shutil.copytree(image_folder, tmp_path / "data"))
    for path in (data / "train").rglob("*.png"):
        path.write_bytes(b"junk")
    words = ("--data.root", data, f"--data.num_workers={workers}", f"--data.max_unreadable={cap}")
    message = error_of("fit", "--config", "train_folder", *SMALL, *words, "--run", tmp_path / "a" / "run")
    if cap == 100:
        assert message.startswith("none of the training images can be read. The first: ")
    else:
        assert "images could not be read, more than max_unreadable=2 allows" in message
    assert str(data / "train") in message
    assert "`scalablevit check-data` lists every bad file" in message
    assert "DataLoader" not in message
    assert not (tmp_path / "a" / "run").exists()


@pytest.mark.slow
def test_too_many_unreadable_images(image_folder: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(image_folder, tmp_path / "data"))
    spoilt = sorted((data / "train" / "red").iterdir())[:3]
    for path in spoilt:
        path.write_bytes(path.read_bytes()[:60])
    words = ("fit", "--config", "train_folder", *SMALL, "--data.root", data, "--epochs", "1", "--run")
    message = error_of(*words, tmp_path / "run", "--data.max_unreadable=2")
    assert "3 images could not be read, more than max_unreadable=2 allows" in message
    assert str(spoilt[0]) in message
    outcome = scalablevit(*words, tmp_path / "patient", "--data.max_unreadable=3")
    assert outcome.code == 0, outcome.err
    assert all(outcome.err.count(str(path)) == 1 for path in spoilt)


def test_wrong_info_and_recipe_names() -> None:
    assert "there is no variant 'scalablevit_smal'" in error_of("info", "scalablevit_smal")
    assert "--size must be at least 1 pixel" in error_of("info", "--size", "0")
    assert "did you mean imagenet_small?" in error_of("recipes", "imagenet-small")


def test_a_command_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prdict"]) == 2
    assert "there is no command 'prdict'; did you mean predict?" in capsys.readouterr().err
    assert main([]) == 2
    assert "check-data" in capsys.readouterr().out
