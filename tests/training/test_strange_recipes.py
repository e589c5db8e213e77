"""A run folder may be a stranger's, and a recipe a bomb: no code of theirs runs, and each ends in one message."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalablevit.recipes import find_recipe
from scalablevit.tasks import entries
from scalablevit.training.allowed_classes import check_classes, lies_in_a_run
from scalablevit.training.command import TrainingCommand
from scalablevit.training.null_words import with_nulls
from scalablevit.training.recipe_errors import RecipeError
from scalablevit.training.recipe_file import check_numbers, read_recipe

MODEL = "scalablevit.classification.ClassificationTask"
DATA = "scalablevit.classification.ImageFolderData"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder beside a module of the stranger, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text(
        "open('owned', 'w')\n"
        "from lightning.pytorch import Callback\n"
        "class Evil(Callback): pass\n"
        "def touch(*_): open('owned', 'w')\n"
    )
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "checkpoints" / "best.ckpt").touch()
    return folder


def write(run: Path, model: Any = None, data: Any = None, **trainer: Any) -> None:
    recipe: dict[str, Any] = {
        "model": model or {"class_path": MODEL, "init_args": {"variant": "scalablevit_atto"}},
        "data": data or {"class_path": DATA, "init_args": {"root": "nowhere"}},
        "trainer": {"max_epochs": 1, **trainer},
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    return {"callbacks": [{"class_path": name, "init_args": arguments}]}


STRANGE: list[tuple[dict[str, Any], str]] = [
    ({"model": {"class_path": "evil.Evil"}}, "model names evil.Evil"),
    ({"data": {"class_path": "evil.Evil"}}, "data names evil.Evil"),
    ({"model": "evil.Evil"}, "model must be a mapping"),
    ({"model": {"class_path": "scalablevit.training.module.os.system"}}, "model names scalablevit.training"),
    (callback("evil.Evil"), r"trainer.callbacks\[0\] names evil.Evil"),
    ({"callbacks": "evil.Evil"}, "names evil.Evil"),
    ({"callbacks": ["evil.Evil"]}, "names evil.Evil"),
    ({"callbacks": {"class_path": "evil.Evil"}}, "names evil.Evil"),
    (callback("lightning.pytorch.callbacks.LambdaCallback", on_fit_start="os.abort"), "names .*LambdaCallback"),
    (callback("lightning.pytorch.callbacks.ModelCheckpoint", dirpath="/tmp/x"), "outside the run folder"),
    (callback("lightning.pytorch.callbacks.ModelCheckpoint", filename="../../x"), "outside the run folder"),
    # a dot at step 46, and a slash at step 47
    (callback("ModelCheckpoint", filename="{step:c}{step:c}/{step:c}{step:c}/x"), "outside the run folder"),
    (callback("ModelCheckpoint", filename="{step:99999999d}"), "outside the run folder"),
    (callback("ModelCheckpoint", filename="{step.real.__class__}"), "outside the run folder"),
    ({"callbacks": [{"class_path": "ModelCheckpoint", "dict_kwargs": {"dirpath": "/tmp/x"}}]}, "outside the run"),
    ({"callbacks": {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "/tmp/x"}}}, "outside the run folder"),
    (callback("scalablevit.training.stopping.StopOnSignal", checkpoint="/tmp/x"), "names scalablevit.training.stop"),
    ({"model": {"class_path": "scalablevit.classification.transforms.Augmentation"}}, "model names scalablevit.class"),
    ({"model": {"class_path": "scalablevit.segmentation.dataset.MaskDataset"}}, "model names scalablevit.segm"),
    ({"model": {"class_path": "scalablevit.detection.models.retinanet"}}, "model names scalablevit.detection.models"),
    ({"model": {"class_path": f"{MODEL}.load_from_checkpoint"}}, "model names .*load_from_checkpoint"),
    ({"model": {"class_path": DATA}}, "model names scalablevit.classification.ImageFolderData"),
    ({"data": {"class_path": MODEL}}, "data names scalablevit.classification.ClassificationTask"),
    (
        {"data": {"class_path": "scalablevit.segmentation.data.os.system"}},
        "data names scalablevit.segmentation.data.os",
    ),
    ({"data": {"class_path": "scalablevit.data.builtin.write_builtin"}}, "data names scalablevit.data"),
    ({"data": {"class_path": ["a"]}}, r"data names \['a'\]"),
    (
        {"data": {"class_path": DATA, "init_args": {"augmentation": {"class_path": DATA}}}},
        "data.augmentation names scalablevit.classification.ImageFolderData",
    ),
    (callback("lightning.pytorch.callbacks.early_stopping.torch.load"), "names .*torch.load"),
    ({"strategy": {"class_path": "evil.Evil"}}, "trainer.strategy names evil.Evil"),
    ({"strategy": "evil.Evil"}, "trainer.strategy names evil.Evil"),
    ({"model_registry": "stranger/models"}, "would upload the checkpoints"),
    ({"profiler": {"class_path": "lightning.pytorch.profilers.SimpleProfiler"}}, "trainer.profiler names"),
    (
        {"model": {"class_path": MODEL, "init_args": {"network_options": {"lim": {"class_path": "evil.Evil"}}}}},
        "model.network_options.lim names evil.Evil",
    ),
]


@pytest.mark.parametrize(("strange", "words"), STRANGE)
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_strangers_run_imports_nothing(run: Path, strange: dict[str, Any], words: str, verb: str) -> None:
    write(run, **strange)
    with pytest.raises(RecipeError, match=words):
        TrainingCommand(verb, [run / "recipe.yaml"], [], run=run, resume=verb == "fit")
    assert "evil" not in sys.modules
    assert not Path("owned").exists()


def test_functions_are_not_imported_either_though_the_first_check_let_them_pass(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second wall is jsonargparse's own."""
    monkeypatch.setattr("scalablevit.training.command.check_classes", lambda *_, **__: None)
    for strange in (
        callback("lightning.pytorch.callbacks.LambdaCallback", on_fit_start="evil.touch"),
        callback("evil.Evil"),
        {"model": {"class_path": "evil.Evil"}},
    ):
        write(run, **strange)
        with pytest.raises(ValueError, match=r"not allowed|class_path"):
            TrainingCommand("fit", [run / "recipe.yaml"], [], run=run, resume=True)
        assert "evil" not in sys.modules


def test_the_user_can_allow_a_class_and_the_known_ones_pass(run: Path) -> None:
    write(run, **callback("evil.Evil"))
    settings = read_recipe(run / "recipe.yaml")
    check_classes(settings, recipe=run / "recipe.yaml", allowed=["evil.Evil"])
    with pytest.raises(RecipeError, match=r"--allow-class evil\.Evil"):
        check_classes(settings, recipe=run / "recipe.yaml", allowed=["evil.Other"])
    for name in ("EarlyStopping", "lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.callbacks.Timer"):
        write(run, **callback(name), strategy="ddp", precision="16-mixed", accelerator="cpu")
        check_classes(read_recipe(run / "recipe.yaml"), recipe=run / "recipe.yaml", allowed=[])


def test_the_tasks_and_data_of_all_entries_pass_by_either_name(run: Path) -> None:
    for entry in entries().values():
        for export in (True, False):
            paths = [ref.replace(":", ".") for ref in (entry.task, entry.data)]
            if export:
                paths = [f"scalablevit.{entry.name}.{path.rpartition('.')[2]}" for path in paths]
            write(run, model={"class_path": paths[0]}, data={"class_path": paths[1]})
            check_classes(read_recipe(run / "recipe.yaml"), recipe=run / "recipe.yaml", allowed=[])


@pytest.mark.parametrize(
    "name", ["finetune_folder", "finetune_retinanet", "finetune_mask_rcnn", "finetune_semantic_fpn", "finetune_upernet"]
)
def test_the_recipes_of_the_package_pass_both_walls(
    name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of them is read; only the data are not there."""
    (run / "recipe.yaml").write_text(find_recipe(name).read_text())
    monkeypatch.setattr(TrainingCommand, "instantiate_classes", lambda self: None)
    words = ["--data.root", str(tmp_path), "--data.augmentation.hflip_prob", "0.25", "--model.schedule.min_lr", "0"]
    command = TrainingCommand("validate", [run / "recipe.yaml"], words, run=run, checkpoint=None)
    assert command.config.data.init_args.augmentation.hflip_prob == 0.25


def test_a_recipe_in_a_run_folder_is_known_by_what_lies_beside_it(run: Path, tmp_path: Path) -> None:
    assert lies_in_a_run(run / "recipe.yaml")
    assert not lies_in_a_run(run / "mine.yaml")
    assert not lies_in_a_run(tmp_path / "recipe.yaml")


BOMBS = {
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
    "merges": "a: &a {x: 1, y: 2}\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{','.join(['*' + chr(97 + i)] * 9)}]}}\n" for i in range(9)),
    "an alias of itself": "model: &a [*a]\n",
    "deep lists": "model: " + "[" * 5000 + "]" * 5000,
    "deep maps": "".join(" " * i + f"a{i}:\n" for i in range(600)),
    "a huge integer": "seed_everything: " + "9" * 5000,
    "an integer of 400 digits": "trainer: {max_epochs: " + "9" * 400 + "}",
    "a date that is none": "trainer: {max_epochs: 2024-99-99}",
    "a python tag": "model: !!python/object/apply:os.system [touch owned]",
    "another tag": "model: !evil {a: 1}",
    "not text": "model: \x00",
    "a large file": "# " + "x" * 600_000,
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_at_once(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    before = time.process_time()
    with pytest.raises(RecipeError, match=r"bomb\.yaml"):
        read_recipe(path)
    assert time.process_time() - before < 5
    assert not (tmp_path / "owned").exists()


def test_anchors_that_people_write_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: &m {a: [1, 2]}\ndata: {<<: *m, b: *m}\n")
    assert read_recipe(path)["data"] == {"a": [1, 2], "b": {"a": [1, 2]}}


def test_numbers_that_no_setting_holds_are_named() -> None:
    with pytest.raises(RecipeError, match="--epochs: the number is too large"):
        check_numbers(["--epochs", "9" * 400])
    check_numbers(["--seed", "4294967295", "--run=12345678901234567890x"])


NULLABLE = [
    ("data.augmentation.rand_augment", "rand_augment: null"),
    ("data.augmentation.color_jitter", "color_jitter: null"),
    ("data.augmentation", "augmentation: null"),
    ("data.mean", "mean: null"),
    ("model.optimizer.lr_batch", "lr_batch: null"),
    ("model.optimizer.layer_decay", "layer_decay: null"),
    ("model.schedule.warmup_steps", "warmup_steps: null"),
    ("model.schedule.milestones", "milestones: null"),
    ("model.global_batch", "global_batch: null"),
    ("model.mixup", "mixup: null"),
    ("trainer.gradient_clip_val", "gradient_clip_val: null"),
    ("threads", "threads: null"),
]


@pytest.mark.parametrize("word", ["null", "none", "None", "~", ""])
def test_every_nullable_key_takes_a_null(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--{key}={word}" if i % 2 else part for i, (key, _) in enumerate(NULLABLE) for part in (f"--{key}", word)]
    words = list(dict.fromkeys(w for w in words if "=" in w)) + [
        part for i, (key, _) in enumerate(NULLABLE) if i % 2 == 0 for part in (f"--{key}", word)
    ]
    with pytest.raises(SystemExit) as left:
        TrainingCommand("fit", [find_recipe("finetune_folder")], [*words, "--print_config"], run=tmp_path / "r")
    assert left.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for key, _ in NULLABLE:
        if key.startswith("data.augmentation."):
            continue  # augmentation as a whole is null as well
        value: Any = printed
        for part in key.split("."):
            value = value[part] if part in value else value["init_args"][part]
        assert value is None, key


def test_a_null_keeps_its_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.augmentation.scale", "[0.3, 1.0]", "--data.augmentation.rand_augment", "null", "--print_config"]
    with pytest.raises(SystemExit):
        TrainingCommand("fit", [find_recipe("finetune_folder")], words, run=tmp_path / "r")
    augmentation = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["augmentation"]
    assert augmentation["rand_augment"] is None
    assert augmentation["scale"] == [0.3, 1.0]


def test_a_null_where_none_may_be_is_named(tmp_path: Path) -> None:
    words = ["--model.optimizer.weight_decay", "null"]
    with pytest.raises(RecipeError, match=r"model\.optimizer\.weight_decay cannot be null"):
        TrainingCommand("fit", [find_recipe("finetune_folder")], words, run=tmp_path / "r")


@pytest.mark.parametrize("words", [["--seed_everything", "null"], ["--seed_everything=~"], ["--trainer", "null"]])
def test_a_null_at_the_top_is_named_too(words: list[str]) -> None:
    with pytest.raises(RecipeError, match=r"--\w+ cannot be null; leave it out"):
        with_nulls(words, {"data": DATA}, {})


def test_words_that_are_no_null_stay() -> None:
    words = ["--print_config", "--data.root", "none", "--data.x=1", "--a"]
    assert with_nulls(words, {"data": DATA}, {}) == words
