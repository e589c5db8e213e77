"""Words that people bring from other programs, and what they are called here."""

import difflib
from collections.abc import Iterable, Sequence

_FIT = "scalablevit fit --config finetune_folder --data.root FOLDER --model.weights WEIGHTS"
_COMMANDS = {
    **dict.fromkeys(("train", "training", "finetune", "fine-tune", "learn"), f"train with {_FIT}"),
    **dict.fromkeys(("val", "test", "eval", "evaluate", "score"), "evaluate a run with scalablevit validate RUN"),
    **dict.fromkeys(
        ("detect", "segment", "classify", "infer", "inference", "prediction", "label"),
        "run inference with scalablevit predict IMAGE ... --weights RUN",
    ),
    **dict.fromkeys(("check", "data", "check_data", "verify", "lint"), "check data with scalablevit check-data FOLDER"),
    **dict.fromkeys(("benchmark", "speed", "profile"), "measure speed with scalablevit bench"),
    **dict.fromkeys(("summary", "flops", "params", "complexity"), "print the cost of a network with scalablevit info"),
    **dict.fromkeys(("list", "models", "configs", "config", "recipe"), "list recipes with scalablevit recipes"),
    "resume": "resume a run with scalablevit fit --resume RUN",
    "version": "see the version with scalablevit --version",
    "help": "see the commands with scalablevit --help",
    **dict.fromkeys(("onnx", "convert", "deploy", "openvino"), "export a network with scalablevit export RUN"),
}
_POSITIONAL = ""
_FLAGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("--conf", "--confidence", "--score", "--score-threshold", "--thresh"), ("--threshold",)),
    **dict.fromkeys(("--iou", "--nms", "--iou-threshold", "--nms-threshold"), ("--nms-iou", "--nms-threshold")),
    **dict.fromkeys(
        ("--source", "--input", "--inputs", "--image", "--images", "--img", "--path", "--file", "--folder", "--data"),
        (_POSITIONAL,),
    ),
    **dict.fromkeys(("--root", "--dataset", "--variant", "--arch", "--name"), (_POSITIONAL,)),
    **dict.fromkeys(("--checkpoint", "--ckpt", "--run", "--weight", "--model"), ("--weights", "--model", _POSITIONAL)),
    **dict.fromkeys(
        ("--imgsz", "--img-size", "--image-size", "--size", "--resolution"), ("--size", "--min-size", "--short-side")
    ),
    **dict.fromkeys(("--output", "--out", "--save-dir", "--project", "--save-path"), ("--output", "--save")),
    **dict.fromkeys(("--batch", "--batch-size", "--batch_size", "--bs"), ("--batch-size", "--batch")),
    **dict.fromkeys(("--gpu", "--cuda", "--gpus", "--accelerator"), ("--device",)),
    **dict.fromkeys(("--num-classes", "--nc", "--num_classes"), ("--classes",)),
    **dict.fromkeys(("--topk", "--top-k"), ("--top",)),
    **dict.fromkeys(("--dtype", "--half", "--fp16", "--amp"), ("--precision",)),
    **dict.fromkeys(("--save-txt", "--save_txt", "--save-csv", "--export"), ("--format",)),
}

KEYS = {
    "--devices": "--trainer.devices",
    "--epochs": "--trainer.max_epochs",
    "--max-epochs": "--trainer.max_epochs",
    "--precision": "--trainer.precision",
    "--seed": "--seed_everything",
    "--checkpoint-every": "--checkpoint_every",
    "--keep-checkpoints": "--keep_checkpoints",
    "--lr": "--model.optimizer.lr",
    "--learning-rate": "--model.optimizer.lr",
    "--weight-decay": "--model.optimizer.weight_decay",
    "--weights": "--model.weights",
    "--variant": "--model.variant",
    "--batch-size": "--data.batch_size",
    "--batch": "--data.batch_size",
    "--workers": "--data.num_workers",
    "--num-workers": "--data.num_workers",
    "--image-size": "--data.image_size",
    "--img-size": "--data.image_size",
    "--imgsz": "--data.image_size",
}
"""Short flags of `fit` and `validate` -> keys of the recipe; underscores do as well as dashes."""


def command_hint(word: str) -> str | None:
    """What to type in place of a command from elsewhere; None: it is not known."""
    return _COMMANDS.get(word.lower())


def flag_hint(name: str, *, program: str, known: Sequence[str], positional: str | None) -> str | None:
    """What to type in place of a flag from elsewhere.

    Args:
        name: the flag.
        program: such as "scalablevit predict".
        known: flags that the program has.
        positional: placeholder of its argument without a flag; None: it has none.

    Returns:
        a hint; None: the flag is not known elsewhere either, or nothing here does the same.
    """
    for other in _FLAGS.get(name.lower(), ()):
        if other == _POSITIONAL and positional is not None:
            return f"name it without a flag: {program} {positional}"
        if other != name and other in known:
            return f"use {other}"
    return None


def key_of(name: str) -> str:
    """The recipe's key that a flag of `fit` stands for; the flag itself where it is no short one."""
    return KEYS.get(name.replace("_", "-"), name) if "." not in name else name


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A question for the nearest of the known words; None where nothing is near."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {close[0]}?" if close else None
