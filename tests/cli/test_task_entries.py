"""Every task's entry is true: its references exist, and its flags fill arguments of the functions that they go to."""

import inspect
from typing import Any

import pytest

from scalablevit.classification.label_table import TableColumns
from scalablevit.cli.words import parser_of
from scalablevit.detection.coco import AnnotationSource
from scalablevit.segmentation.mask_settings import MaskSettings
from scalablevit.tasks import TASKS, Flag, TaskEntry, entries, entry_of, load


def arguments(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


EVERY = pytest.mark.parametrize("entry", entries().values(), ids=lambda entry: entry.name)
COMMON_OF_PREDICT = {"self", "paths", "batch_size", "keep_images", "keep_embeddings"}
NOT_FLAGS_OF_CHECKS = {
    *("root", "val_fraction", "on_progress", "num_workers", "min_size"),
    *("trained_class_names", "trained_label_map", "stream"),
}
# these checks take the fields of a dataclass
OF_SETTINGS = {
    "masks": arguments(MaskSettings),
    "coco": arguments(AnnotationSource),
    "labels": arguments(TableColumns),
}


@EVERY
def test_references_lead_to_what_they_name(entry: TaskEntry) -> None:
    assert entry.name in TASKS
    checks = [check.function for check in (entry.check, *entry.other_checks)]
    for reference in (entry.task, entry.data, entry.predictor, entry.cost, *checks, *entry.other_data):
        assert callable(load(reference)), reference
    for reference in entry.other_tasks:
        assert entry_of(load(reference)) is entry, reference
    assert entry_of(load(entry.task)) is entry
    assert set(entry.out_of_memory) == {"fit", "validate", "predict"}


@EVERY
def test_every_argument_of_the_predictor_has_a_flag(entry: TaskEntry) -> None:
    flags = {flag.argument for flag in entry.predict_flags}
    assert flags == arguments(load(entry.predictor).predict) - COMMON_OF_PREDICT


@EVERY
def test_flags_of_a_check_are_its_arguments(entry: TaskEntry) -> None:
    for check in (entry.check, *entry.other_checks):
        flags = {flag.argument for flag in check.flags}
        taken = arguments(load(check.function)) | OF_SETTINGS.get(check.kind, set())
        assert flags == taken - NOT_FLAGS_OF_CHECKS - {"settings", "source", "columns"}


@EVERY
def test_the_cost_of_every_model_is_known(entry: TaskEntry) -> None:
    for model in entry.models:
        parts = load(entry.cost)(model.name, "scalablevit_atto", 32, 40, num_classes=2, scale_value=None)
        assert parts.cost().parameters > 0


def test_entry_of_a_class_that_is_no_task() -> None:
    assert entry_of(int) is None


@pytest.mark.parametrize(
    ("flag", "words", "value"),
    [
        (Flag("--flip", "mirror", switch=True), ["--flip"], True),
        (Flag("--no-masks", "boxes", switch=False, fills="masks"), ["--no-masks"], False),
        (Flag("--scales", "sizes", type=float, nargs="+"), ["--scales", "0.5", "1"], [0.5, 1.0]),
    ],
    ids=lambda value: value.name if isinstance(value, Flag) else "",
)
def test_a_flag_as_it_is_read(flag: Flag, words: list[str], value: object) -> None:
    parser = parser_of("predict", "Test")
    parser.add_argument(flag.name, **flag.argparse_options())
    assert vars(parser.parse_args(words)) == {flag.dest: value}
