"""Thousands of damaged checkpoints and metadata, from a fixed seed: each is read, or refused in one message."""

import copy
import io
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from test_weights_and_metadata_agree import KINDS, load, write

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.weights import METADATA_KEY, WeightsError, load_weights

ODD: list[Any] = [
    *(None, True, 0, -1, 3, 512, 65536, 10**6, 10**30, 1.5, float("nan"), float("inf")),
    *("", "x", "x" * 10**4, "\x1b[31m", "scalablevit_atto", "retinanet"),
    *([], [[]], [1] * 5, ["a"], {}, {"a": {}}, {"checkpoint_path": "x"}, [[[[[[[[[[1]]]]]]]]]]),
]
KEYS = ["depths", "embed_dims", "num_heads", "window_size", "reductions", "mlp_ratio", "pattern", "num_convs"]
KEYS += ["channels", "pool_sizes", "anchor_sizes", "network_options", "in_chans", "scale_value", "pretrained", "x"]
ENTRIES = ["model", "state_dict", "model_ema", "module", "ema", "trained", 1, (1, 2), "head.fc.weight", "x"]


def atto() -> ScalableViT:
    return ScalableViT(**{**VARIANTS["scalablevit_atto"], "num_classes": 10})


def assert_read_or_refused(attempt: Callable[[], Any]) -> bool:
    """Whether it was read; whatever it raises is one message of ours."""
    start = time.process_time()
    message = ""
    try:
        attempt()
    except (WeightsError, FileNotFoundError) as error:
        message = str(error)
    assert len(message) < 3000
    assert time.process_time() - start < 10
    return not message


def mutated(metadata: Any, rng: random.Random) -> Any:
    """A copy of the metadata with one to three values replaced, removed or added."""
    metadata = copy.deepcopy(metadata)
    for _ in range(rng.choice([1, 1, 2, 3])):
        places: list[tuple[Any, Any]] = []
        todo = [metadata]
        while todo:
            part = todo.pop()
            places += [(part, key) for key in (part if isinstance(part, dict) else range(min(len(part), 4)))]
            todo += [part[key] for _, key in places if _ is part and isinstance(part[key], dict | list)]
        if not places:
            return rng.choice(ODD)
        part, key = rng.choice(places)
        action = rng.random()
        if action < 0.6:
            part[key] = copy.deepcopy(rng.choice(ODD))
        elif action < 0.75:
            del part[key]
        elif isinstance(part, dict):
            part[rng.choice(KEYS)] = copy.deepcopy(rng.choice(ODD))
        else:
            part.append(copy.deepcopy(rng.choice(ODD)))
    return metadata


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_metadata(kind: str, tmp_path: Path) -> None:
    rng = random.Random(kind)
    path = write(kind, tmp_path)
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        whole = json.loads(file.metadata()[METADATA_KEY])
    read = 0
    for i in range(400):
        text = json.dumps(mutated(whole, rng))
        if i % 10 == 0:
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice('{}[]",:0\\') + text[place + 1 :]
        safetensors.torch.save_file(tensors, path, {METADATA_KEY: text})
        read += assert_read_or_refused(lambda: load(kind, path))
    assert 0 < read < 200, "some changes do no harm, most do"


def odd_content(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(9)
    if depth > 3 or kind < 3:
        leaves = [torch.zeros(2), torch.zeros(1, dtype=torch.int8), torch.zeros(2, dtype=torch.complex64)]
        return rng.choice([*leaves, 1, "x", None, b"x", 3.5, torch.float32, torch.Size([1]), {1, 2}])
    if kind < 6:
        return {rng.choice(ENTRIES): odd_content(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [odd_content(rng, depth + 1) for _ in range(rng.randrange(3))]


def damaged_pickle(rng: random.Random, state: dict[str, Any]) -> bytes:
    content: Any = {"model": dict(list(state.items())[:3]), "epoch": 3, "args": {"a": [1, (2, 3)]}}
    is_odd = rng.random() < 0.4
    if is_odd:
        content = odd_content(rng)
        if isinstance(content, dict) and rng.random() < 0.3:
            content["model"] = content  # contains itself
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=rng.random() < 0.5)
    data = bytearray(buffer.getvalue())
    for _ in range(0 if is_odd else rng.choice([1, 3, 30])):
        data[rng.randrange(min(len(data), rng.choice([600, len(data)])))] = rng.randrange(256)
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)


def damaged_safetensors(rng: random.Random, state: dict[str, Any]) -> bytes:
    if rng.random() < 0.5:
        data = bytearray(safetensors.torch.save(dict(list(state.items())[:3]), {METADATA_KEY: "{}"}))
        for _ in range(rng.choice([1, 3, 30])):
            data[rng.randrange(min(len(data), 400))] = rng.randrange(256)
        return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
    tensors = dict(state)
    key = rng.choice(list(tensors))
    value = tensors[key]
    tensors[key] = rng.choice(
        [value.to(torch.int8), value.flatten()[:1].clone(), value * float("nan"), torch.zeros(()), torch.zeros(0)]
    )
    if rng.random() < 0.3:
        del tensors[rng.choice(list(tensors))]
    return safetensors.torch.save(tensors)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [damaged_pickle, damaged_safetensors])
def test_damaged_checkpoints(damaged: Callable[..., bytes], tmp_path: Path) -> None:
    rng = random.Random(damaged.__name__)
    model = atto()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / "weights.pth"
    for _ in range(1000):
        path.write_bytes(damaged(rng, state))
        assert_read_or_refused(lambda: load_weights(model, path))
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_tensors_without_dimensions_are_refused() -> None:
    model = atto()
    for key in ("stages.0.patch_embed.proj.weight", "head.fc.weight", "norm.bias"):
        with pytest.raises(WeightsError, match=key.replace(".", r"\.")):
            load_weights(model, {**model.state_dict(), key: torch.zeros(())})
