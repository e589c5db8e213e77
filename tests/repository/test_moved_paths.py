"""Scripts written for earlier versions find what they import, and are told where it is now."""

import importlib
import subprocess
import sys

import pytest

from scalablevit.moved import MOVED, RENAMED

NAMES = {
    "bench.throughput": "PRECISIONS cells table",
    "checkpoint_names": "to_native_names",
    "classification.pictures": "annotate draw_confusion draw_predictions",
    "classification.preprocessing": "ResizeToCover Transform",
    "cli": "UsageError",
    "data_check": "DataReport Look PictureFile Problem check_num_workers look_at_all look_at_picture pixel_digest "
    "raise_for_errors repeated_pictures size_range",
    "datasets": "",
    "datasets.builtin": "write_builtin",
    "datasets.digit_scenes": "CATEGORY_IDS DIGIT_NAMES Scene SceneObject compose_scene digit_scene write_ade20k "
    "write_coco",
    "datasets.digits": "split_digits write_digits_folder",
    "datasets.whole_folder": "write_whole_folder",
    "detection.coco_file": "CocoError append_numbers called file_name integer lookup read_lists shown",
    "detection.coco_folder": "CocoPart find_parts locate_images",
    "detection.coco_json": "CocoAnnotations",
    "detection.coco_masks": "CocoMasks",
    "detection.coco_split": "CocoSplit read_split",
    "detection.complexity": "BOX_ROIS MASK_ROIS",
    "detection.data": "DetectionBatch DetectionSample",
    "detection.models": "ASPECT_RATIOS AlignedRoIAlign DEFAULT_ANCHOR_SIZES FixedStrideAnchors ImageTransform "
    "ProposalNetwork PyramidWithFPN group_norm",
    "detection.orientation": "AnnotationFrame applied_orientation orient_boxes orient_mask",
    "detection.pictures": "annotate draw_sheet",
    "detection.run_lengths": "MaskSizeError decode_runs run_lengths",
    "drawing": "class_colours load_font",
    "images": "IMAGE_SUFFIXES ImageError ImageErrorKind UprightImage UprightMask as_paths find_images has_image_suffix "
    "pixel_limit read_image read_mask read_upright read_upright_mask turn_upright walk_images",
    "inference": "BACKENDS Backend OpenVINOModel Outputs TorchModel fold optimize",
    "input_settings": "InputSettings check_mean_std height_and_width per_channel",
    "segmentation.data": "Palette SegmentationBatch SegmentationSample",
    "segmentation.evaluate": "MOST_SCORES needs_bands probability_bands shown_pixels",
    "segmentation.inference": "DEFAULT_CARRY_BYTES DEFAULT_TILE blended_scores class_pixels segment_large",
    "segmentation.labels": "CLASS_FILES LabelMap OUTSIDE_REMEDY OutsideLabelsError find_class_file read_class_names",
    "segmentation.models": "ConvNormReLU",
    "segmentation.pairs": "MaskFrame PairError PairErrorKind ReadPair read_pair",
    "segmentation.pictures": "Colours draw_labels draw_overlay draw_predictions",
    "train_val": "TRAIN_NAMES VAL_NAMES check_val_fraction split_by_hash why_no_folder",
    "training.command": "MovableCheckpoint",
    "training.curves": "plot_curves",
    "training.loaders": "ResumableLoader SampleKey SeededDataset ShardedSampler eval_loader outlive_signals "
    "train_loader",
    "training.module": "DEFAULT_OPTIMIZER DEFAULT_SCHEDULE OptimizerSettings ScheduleSettings",
    "training.randomness": "isolated_cpu_randomness seed_all seed_cpu seed_for",
    "training.recipe_errors": "read_recipe",
    "training.run_folder": "CSVMetrics format_number git_state read_metrics",
    "training.unreadable": "UnreadableFiles",
}


@pytest.mark.parametrize("module", MOVED)
def test_names_of_an_earlier_path_are_those_of_the_new_one(module):
    earlier = importlib.import_module(f"scalablevit.{module}")
    for name in NAMES[module].split():
        with pytest.warns(DeprecationWarning, match=rf"scalablevit\.{module}\.{name} is now scalablevit\.") as told:
            value = getattr(earlier, name)
        home, _, now = str(told[0].message).rpartition(" ")[2].rpartition(".")
        assert value is getattr(importlib.import_module(home), now)
        assert home.removeprefix("scalablevit.") in {
            *MOVED[module],
            *(new.rpartition(".")[0] for new in RENAMED.values()),
        }


@pytest.mark.parametrize("module", MOVED)
def test_an_earlier_path_has_no_names_that_never_were(module):
    earlier = importlib.import_module(f"scalablevit.{module}")
    with pytest.raises(AttributeError, match="has no attribute 'never_was'"):
        _ = earlier.never_was
    assert not hasattr(earlier, "_private")


def test_a_path_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"scalablevit\.never_was"):
        importlib.import_module("scalablevit.never_was")


@pytest.mark.slow
def test_a_script_of_before_runs_and_its_own_line_is_named(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import scalablevit.datasets.digits\n"
        "from scalablevit.drawing import class_colours\n"
        "from scalablevit import input_settings\n"
        "print(class_colours(1), input_settings.per_channel, scalablevit.datasets.digits.split_digits)\n"
    )
    done = subprocess.run([sys.executable, "-W", "always", script], capture_output=True, text=True, check=True)
    assert "script.py:2: DeprecationWarning: scalablevit.drawing.class_colours is now" in done.stderr
    assert "script.py:4: DeprecationWarning: scalablevit.input_settings.per_channel is now" in done.stderr
