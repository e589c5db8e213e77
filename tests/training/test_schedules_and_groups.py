"""Learning rates over a run and over the layers, from the settings to the optimizer."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.training import schedules
from scalablevit.training.module import TrainingModule
from scalablevit.training.param_groups import parameter_groups
from scalablevit.training.settings import OptimizerSettings, ScheduleSettings, TrainingSettings


def run(folder: Path, **options: Any) -> tuple[ToyTask, Any]:
    trainer_options = options.pop("trainer", {})
    data = options.pop("data", {})
    task = ToyTask(**options)
    trainer = make_trainer(folder, **trainer_options)
    trainer.fit(task, datamodule=ToyData(**data))
    return task, trainer


def test_warm_up_and_cosine_step_by_step(tmp_path: Path) -> None:
    schedule = ScheduleSettings(warmup_epochs=1, warmup_lr=1e-4, min_lr=1e-3)
    rates = run(tmp_path, schedule=schedule)[0].rates
    assert len(rates) == 33
    expected = [1e-4 + (0.01 - 1e-4) * i / 11 for i in range(11)]
    expected += [1e-3 + 0.009 * 0.5 * (1 + math.cos(math.pi * i / 22)) for i in range(22)]
    assert rates == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "constant", "warmup_steps": 2, "warmup_lr": 0.0}, [0.0, 0.005] + [0.01] * 31),
        (
            {"name": "multistep", "milestones": [1, 2.0], "gamma": 0.1, "warmup_epochs": 0},
            [0.01] * 11 + [0.001] * 11 + [0.0001] * 11,
        ),
        (
            {"name": "poly", "power": 2.0, "warmup_epochs": 0, "min_lr": 0.0},
            [0.01 * (1 - i / 33) ** 2 for i in range(33)],
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_the_other_schedules(settings: dict[str, Any], expected: list[float], tmp_path: Path) -> None:
    assert run(tmp_path, schedule=ScheduleSettings(**settings))[0].rates == pytest.approx(expected)


def test_max_steps_set_the_length(tmp_path: Path) -> None:
    schedule = ScheduleSettings(name="poly", power=1.0, warmup_epochs=0, min_lr=0.0)
    rates = run(tmp_path, schedule=schedule, trainer={"max_steps": 20, "max_epochs": -1})[0].rates
    assert rates == pytest.approx([0.01 * (1 - i / 20) for i in range(20)])


def test_schedules_end_where_they_should() -> None:
    shape = {"total_steps": 100, "warmup_steps": 10, "warmup_factor": 0.1, "min_factor": 0.25}
    for function in (schedules.cosine, lambda step, **o: schedules.poly(step, power=0.9, **o)):
        values = [function(step, **shape) for step in range(120)]
        assert values[0] == pytest.approx(0.1)
        assert values[10] == 1.0
        assert values[100] == pytest.approx(0.25)
        assert values[119] == pytest.approx(0.25)
        assert values[10:] == sorted(values[10:], reverse=True)


def test_the_learning_rate_follows_the_global_batch(tmp_path: Path) -> None:
    optimizer = OptimizerSettings(lr=0.01, lr_batch=8)
    constant = ScheduleSettings(name="constant", warmup_epochs=0)
    task, trainer = run(tmp_path, optimizer=optimizer, schedule=constant, global_batch=4)
    assert trainer.accumulate_grad_batches == 2
    assert trainer.global_step == 3 * (11 // 2), "epochs end with a whole step"
    assert set(task.rates) == {0.005}
    task, trainer = run(tmp_path, optimizer=optimizer, schedule=constant)
    assert set(task.rates) == {0.0025}
    task, trainer = run(tmp_path, optimizer=optimizer, schedule=constant, trainer={"accumulate_grad_batches": 4})
    assert set(task.rates) == {0.01}


class Validations(Callback):
    """After which optimizer steps there was a validation."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.steps.append(trainer.global_step)


BY_STEPS = {"max_epochs": -1, "check_val_every_n_epoch": None, "val_check_interval": 2}


@pytest.mark.parametrize("batch_size", [4, 2, 1])
def test_validations_are_counted_in_steps_whatever_the_accumulation(batch_size: int, tmp_path: Path) -> None:
    """23 samples: 5 steps of 4 an epoch. The last of them is validated too."""
    validations = Validations()
    trainer = make_trainer(tmp_path, [validations], max_steps=7, **BY_STEPS)
    task = ToyTask(global_batch=4)
    trainer.fit(task, datamodule=ToyData(batch_size=batch_size))
    assert validations.steps == [2, 4, 6, 7]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 7
    task.setup("fit")  # a second time
    assert trainer.val_check_interval == 2 * (4 // batch_size)


def test_accumulation_that_is_set_by_hand_leaves_the_interval_in_batches(tmp_path: Path) -> None:
    validations = Validations()
    trainer = make_trainer(tmp_path, [validations], max_steps=3, accumulate_grad_batches=2, **BY_STEPS)
    trainer.fit(ToyTask(), datamodule=ToyData())
    assert validations.steps == [1, 2, 3]
    assert trainer.val_check_interval == 2


def test_the_last_step_is_validated_in_epochs_that_are_not_left_out(tmp_path: Path) -> None:
    validations = Validations()
    make_trainer(tmp_path, [validations], max_steps=15, max_epochs=-1).fit(ToyTask(), datamodule=ToyData())
    assert validations.steps == [11, 15]
    left_out = Validations()
    trainer = make_trainer(tmp_path, [left_out], max_steps=15, max_epochs=-1, check_val_every_n_epoch=3)
    trainer.fit(ToyTask(), datamodule=ToyData())
    assert left_out.steps == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"global_batch": 5},
            "global_batch 5 is not a multiple of batch_size 2 x 1 .* global_batch to 4",
        ),
        (
            {"global_batch": 8, "trainer": {"accumulate_grad_batches": 3}},
            "accumulate_grad_batches 3 contradicts global_batch 8, from which 4 follows",
        ),
        ({"global_batch": 0}, "global_batch must be at least 1"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\)"),
        ({"max_nonfinite_steps": 0}, "max_nonfinite_steps must be at least 1"),
        ({"schedule": ScheduleSettings(min_lr=0.02)}, "min_lr 0.02 is above the peak learning rate 0.01"),
        ({"schedule": ScheduleSettings(warmup_lr=0.02)}, "warmup_lr 0.02 is above the peak"),
        ({"trainer": {"max_epochs": -1}}, "set trainer.max_epochs or trainer.max_steps"),
    ],
)
def test_settings_that_contradict_are_named(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        run(tmp_path, **options)


@pytest.mark.parametrize(
    ("settings", "values", "words"),
    [
        (OptimizerSettings, {"lr": 0.0}, "optimizer.lr must be above 0"),
        (OptimizerSettings, {"lr_batch": 0}, "optimizer.lr_batch"),
        (OptimizerSettings, {"weight_decay": -1.0}, "optimizer.weight_decay"),
        (OptimizerSettings, {"layer_decay": 1.5}, "optimizer.layer_decay"),
        (OptimizerSettings, {"lr": math.nan}, "optimizer.lr must be above 0, got nan"),
        (OptimizerSettings, {"weight_decay": math.inf}, "optimizer.weight_decay must be at least 0, got inf"),
        (OptimizerSettings, {"betas": (0.9, 1.0)}, r"optimizer.betas must be two numbers in \[0, 1\)"),
        (TrainingSettings, {"ema_decay": 1.5}, r"ema_decay must lie in \[0, 1\) or be null, got 1.5"),
        (TrainingSettings, {"max_nonfinite_steps": 0}, "max_nonfinite_steps must be at least 1, got 0"),
        (TrainingSettings, {"global_batch": 0}, "global_batch must be at least 1 or null, got 0"),
        (ScheduleSettings, {"warmup_lr": math.nan}, "schedule.warmup_lr must be at least 0, got nan"),
        (ScheduleSettings, {"name": "step"}, "schedule.name must be one of cosine, multistep"),
        (ScheduleSettings, {"name": "multistep"}, "needs schedule.milestones"),
        (ScheduleSettings, {"milestones": [3]}, "has no effect with schedule.name cosine"),
        (ScheduleSettings, {"warmup_epochs": -1}, "schedule.warmup_epochs"),
    ],
)
def test_settings_out_of_range_are_named(settings: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**values)


def test_a_data_module_without_batch_size_is_named(tmp_path: Path) -> None:
    data = ToyData()
    loader = torch.utils.data.DataLoader(torch.zeros(4, 4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="LightningDataModule with the attribute batch_size"):
        make_trainer(tmp_path).fit(ToyTask(), train_dataloaders=loader)
    assert data.batch_size == 2


def test_a_warm_up_longer_than_the_run_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, schedule=ScheduleSettings(warmup_epochs=5), trainer={"max_epochs": 1})
    assert "ends within its warm-up (11 of 55 steps)" in caplog.text


class Layered(nn.Module):
    """Two layers, a head and a parameter that is not decayed by name, with timm's two hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.position = nn.Parameter(torch.zeros(2, 2))
        self.head = nn.Linear(2, 2)

    def no_weight_decay(self) -> set[str]:
        return {"position"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem|^position", "blocks": r"^blocks\.(\d+)"}


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_groups(layer_decay: float | None) -> None:
    network = Layered()
    groups = parameter_groups(network, lr=0.1, weight_decay=0.05, layer_decay=layer_decay)
    where = {id(p): group for group in groups for p in group["params"]}
    names = dict(network.named_parameters())
    assert len(where) == len(names)
    for name, parameter in names.items():
        decayed = name.endswith("weight")
        assert where[id(parameter)]["weight_decay"] == (0.05 if decayed else 0.0), name
        depth = {"head": 0, "blocks.1": 1, "blocks.0": 2, "stem": 3, "position": 3}
        level = next(v for k, v in depth.items() if name.startswith(k))
        assert where[id(parameter)]["lr"] == pytest.approx(0.1 * (layer_decay or 1) ** level), name


def test_frozen_parameters_are_left_out() -> None:
    network = Layered()
    network.stem.requires_grad_(False)
    groups = parameter_groups(network, lr=0.1, weight_decay=0.05, layer_decay=None)
    assert sum(len(group["params"]) for group in groups) == 7
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="Layered has no trainable parameter"):
        parameter_groups(network, lr=0.1, weight_decay=0.05, layer_decay=None)


def test_layer_decay_scales_the_whole_schedule(tmp_path: Path) -> None:
    class Task(ToyTask):
        def __init__(self) -> None:
            super().__init__(optimizer=OptimizerSettings(lr=0.01, lr_batch=None, layer_decay=0.5))
            self.network.group_matcher = lambda coarse: {"blocks": r"^(\d+)"}  # type: ignore[assignment]
            self.ratios: set[float] = set()

        def on_train_batch_end(self, *_: Any) -> None:
            rates = {group["lr"] for group in self.trainer.optimizers[0].param_groups}
            self.ratios.add(round(max(rates) / min(rates), 6))

    task = Task()
    make_trainer(tmp_path, max_epochs=1).fit(task, datamodule=ToyData())
    assert len(task.ratios) == 1
    assert task.ratios.pop() > 1


def test_the_average_warms_up_validates_and_is_saved(tmp_path: Path) -> None:
    class Task(ToyTask):
        def __init__(self) -> None:
            super().__init__(ema_decay=0.99)
            self.history: list[torch.Tensor] = []
            self.validated: list[torch.Tensor] = []

        def on_before_zero_grad(self, optimizer: Any) -> None:
            self.current = self.network[0].weight.detach()

        def on_train_batch_end(self, *_: Any) -> None:
            self.history.append(self.network[0].weight.detach().clone())

        def on_validation_epoch_start(self) -> None:
            self.validated.append(self.network[0].weight.detach().clone())

    task = Task()
    make_trainer(tmp_path, max_epochs=2).fit(task, datamodule=ToyData())
    average = task.history[0]
    expected = []
    for n, weight in enumerate(task.history):
        if n:
            decay = min(0.99, (1 + n) / (10 + n))
            average = average + (1 - decay) * (weight - average)
        expected.append(average)
    torch.testing.assert_close(task.validated, [expected[10], expected[21]])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.testing.assert_close(saved["state_dict"]["network.0.weight"], expected[21])
    torch.testing.assert_close(saved["current_model_state"]["network.0.weight"], task.history[21])


def test_averaging_copes_with_counters(tmp_path: Path) -> None:
    task = ToyTask(batch_norm=True, ema_decay=0.5)
    make_trainer(tmp_path, max_epochs=1).fit(task, datamodule=ToyData())
    assert int(task.network[1].num_batches_tracked) == 11


def test_the_command_line_reads_the_settings() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    config = parser.parse_object(
        {
            "model": {
                "class_path": "scalablevit.training.module.TrainingModule",
                "init_args": {
                    "optimizer": {"lr": 1, "betas": [0.9, 0.95]},
                    "schedule": {"name": "multistep", "milestones": [8, 11]},
                },
            }
        }
    )
    model = parser.instantiate_classes(config).model
    assert isinstance(model, TrainingModule)
    assert model.settings.optimizer == OptimizerSettings(lr=1.0, betas=(0.9, 0.95))
    assert model.settings.schedule.milestones == [8, 11]


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_before_a_fused_step(precision: Any, algorithm: str, tmp_path: Path) -> None:
    class Task(ToyTask):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)
            gradients = torch.cat([p.grad.flatten() for p in self.network.parameters() if p.grad is not None])
            self.sizes = [gradients.norm().item(), gradients.abs().max().item()]

    task = Task()
    options = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm, "precision": precision}
    make_trainer(tmp_path, max_epochs=1, **options).fit(task, datamodule=ToyData())
    assert task.trainer.optimizers[0].defaults["fused"] is True
    assert task.sizes[["norm", "value"].index(algorithm)] == pytest.approx(1e-3, rel=1e-3)
