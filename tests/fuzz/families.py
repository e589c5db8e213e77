"""The families of files that strangers send: whole samples, how they are mutated, and what reads them."""

import io
import json
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mutations import mutate_bytes, mutate_data, with_depth
from PIL import Image

SEED = 20261128


class Family:
    """Samples of one kind of file.

    Attributes:
        samples: file name -> content; a file is mutated and read under its name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples: dict[str, bytes] = {}
        self.prepare()

    def prepare(self) -> None:
        """Make the samples."""
        raise NotImplementedError

    def read(self, path: Path, number: int) -> None:
        """Read a file as our commands do."""
        raise NotImplementedError

    def mutate(self, name: str, rng: random.Random) -> bytes:
        """Mutate a sample."""
        return mutate_bytes(self.samples[name], rng.choice(list(self.samples.values())), rng)

    def write(self, number: int) -> Path:
        """Write the input of that number; the same for the same number."""
        rng = random.Random(SEED + number)
        name = sorted(self.samples)[number % len(self.samples)]
        path = self.folder / name
        path.write_bytes(self.mutate(name, rng))
        return path


def as_json(value: Any) -> bytes:
    """Write JSON as mutated data need it."""
    return with_depth(json.dumps(value)).encode(errors="surrogatepass")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


class Images(Family):
    def prepare(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (24, 17, 3), np.uint8)
        rgb = Image.fromarray(pixels)
        for kind, ending in (
            ("PNG", "png"),
            ("JPEG", "jpg"),
            ("TIFF", "tif"),
            ("BMP", "bmp"),
            ("GIF", "gif"),
            ("WEBP", "webp"),
        ):
            self.samples[f"a.{ending}"] = encoded(rgb, kind)
        exif = Image.Exif()
        exif[0x0112] = 6
        self.samples["turned.jpg"] = encoded(rgb, "JPEG", exif=exif)
        self.samples["deep.tif"] = encoded(Image.fromarray(pixels[..., 0].astype(np.float32)), "TIFF")
        self.samples["deep.png"] = encoded(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG")
        self.samples["clear.png"] = encoded(rgb.convert("RGBA"), "PNG", icc_profile=b"x" * 300)
        self.samples["packed.tif"] = encoded(rgb, "TIFF", compression="tiff_deflate")

    def read(self, path: Path, number: int) -> None:
        from scalablevit.data.images import read_image

        assert read_image(path).mode == "RGB"


class Masks(Family):
    def prepare(self) -> None:
        labels = np.random.default_rng(0).integers(0, 5, (19, 23), np.uint8)
        gray, palette = Image.fromarray(labels), Image.fromarray(labels).convert("P")
        palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
        self.samples = {
            "gray.png": encoded(gray, "PNG"),
            "palette.png": encoded(palette, "PNG"),
            "gray.tif": encoded(gray, "TIFF"),
            "wide.png": encoded(Image.fromarray(labels.astype(np.uint16)), "PNG"),
            "colours.png": encoded(palette.convert("RGB"), "PNG"),
            "classes.txt": "0 road\n1 väg\n2 car\n3 tree\n4 sky\n".encode(),
            "names.txt": b"road\nwalk\ncar\n",
            "classes.json": json.dumps({"0": "road", "1": "car", "2": "sky"}).encode(),
            "list.json": json.dumps(["road", "car", "sky"]).encode(),
            "labelmap.txt": b"# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n",
            "map.json": json.dumps({"0": "road", "7": "road", "11": "building", "255": None}).encode(),
            "map.yaml": b"0: road\n7: road\n11: building\n255: ignore\n",
        }

    def mutate(self, name: str, rng: random.Random) -> bytes:
        if name.endswith(".json") and rng.random() < 0.6:
            return as_json(mutate_data(json.loads(self.samples[name]), rng))
        return super().mutate(name, rng)

    def read(self, path: Path, number: int) -> None:
        from scalablevit.data.masks import read_upright_mask
        from scalablevit.segmentation.class_names import read_class_names
        from scalablevit.segmentation.label_map_file import read_label_map

        if path.suffix in (".png", ".tif"):
            read_upright_mask(path, in_colours=number % 3 == 0)
        elif "map" in path.name:
            read_label_map(path).label_map()
        else:
            assert len(read_class_names(path)) >= 2


class CocoJson(Family):
    def prepare(self) -> None:
        self.images = self.folder / "images"
        self.images.mkdir()
        for i in range(3):
            Image.new("RGB", (20 + i, 16), (i * 60, 0, 0)).save(self.images / f"{i}.png")
        polygon = {"bbox": [1, 2, 5, 6], "area": 30, "iscrowd": 0, "segmentation": [[1, 2, 6, 2, 6, 8]]}
        runs = {"size": [16, 20], "counts": [10, 5, 305]}
        crowd = {"bbox": [3, 3, 9, 9], "area": 81, "iscrowd": 1, "segmentation": runs}
        packed = {"bbox": [0, 0, 4.5, 4.5], "iscrowd": 0, "segmentation": {"size": [16, 21], "counts": "0`3"}}
        objects = [
            {"id": 1, "image_id": 0, "category_id": 1, **polygon},
            {"id": 2, "image_id": 0, "category_id": 7, **crowd},
            {"id": 3, "image_id": 1, "category_id": 7, **packed},
        ]
        images = [{"id": i, "file_name": f"{i}.png", "width": 20 + i, "height": 16} for i in range(3)]
        categories = [{"id": 1, "name": "a"}, {"id": 7, "name": "b"}]
        self.data = {"images": images, "annotations": objects, "categories": categories}
        self.samples = {"annotations.json": json.dumps(self.data).encode()}

    def mutate(self, name: str, rng: random.Random) -> bytes:
        if rng.random() < 0.75:
            return as_json(mutate_data(self.data, rng))
        return super().mutate(name, rng)

    def read(self, path: Path, number: int) -> None:
        from scalablevit.detection.check import check_coco

        report = check_coco(path, train_images=self.images, num_workers=0, val_fraction=0.3)
        json.loads(report.to_json())
        report.to_text()


def tiny_network() -> tuple[Any, dict[str, Any]]:
    """Build a classifier of 3 classes and the arguments that describe it."""
    from scalablevit.backbone import VARIANTS, ScalableViT

    changes = {
        "embed_dims": [8, 8, 8, 8],
        "num_heads": [1, 1, 1, 1],
        "channel_ratios": [1.0, 1.0, 1.0, 1.0],
        "num_classes": 3,
    }
    arguments = {**VARIANTS["scalablevit_atto"], **changes}
    torch.manual_seed(0)
    return ScalableViT(**arguments), changes


class Call:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.canary,)


class Checkpoints(Family):
    def prepare(self) -> None:
        import safetensors.torch

        self.network, _ = tiny_network()
        state = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        for name, content in (("bare.pth", state), ("wrapped.pth", {"model": state, "epoch": 3, "args": {"lr": 0.1}})):
            file = io.BytesIO()
            torch.save(content, file)
            self.samples[name] = file.getvalue()
        file = io.BytesIO()
        torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=False)
        self.samples["old.pt"] = file.getvalue()
        self.samples["weights.safetensors"] = safetensors.torch.save(state, {"format": "pt"})
        run = {"pytorch-lightning_version": "2.6", "epoch": 1, "global_step": 2, "state_dict": state}
        run |= {"loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 1}}}}, "train_loss": (1.0, 2.0)}
        trained = {"task": "classification", "variant": "scalablevit_atto", "class_names": ["a", "b", "c"]}
        file = io.BytesIO()
        self.run = {**run, "train_loader": {"epoch": 1, "batches": 2}, "trained": trained}
        torch.save(self.run, file)
        self.samples["last.ckpt"] = file.getvalue()
        self.samples["evil.pth"] = pickle.dumps({"model": Call(self.folder.parent / "canary")}, protocol=2)

    def mutate(self, name: str, rng: random.Random) -> bytes:
        data = self.samples[name]
        if name.endswith(".safetensors") and rng.random() < 0.5:
            (size,) = struct.unpack("<Q", data[:8])
            header = as_json(mutate_data(json.loads(data[8 : 8 + size]), rng))
            return struct.pack("<Q", len(header)) + header + data[8 + size :]
        if name.endswith(".ckpt") and rng.random() < 0.7:
            state = self.run["state_dict"]
            file = io.BytesIO()
            changed = mutate_data({key: value for key, value in self.run.items() if key != "state_dict"}, rng)
            torch.save({**changed, "state_dict": state} if isinstance(changed, dict) else changed, file)
            return file.getvalue()
        return super().mutate(name, rng)

    def read(self, path: Path, number: int) -> None:
        from scalablevit.training.checkpoint_io import RunCheckpointIO
        from scalablevit.weights import load_weights

        if path.suffix == ".ckpt":
            RunCheckpointIO().load_checkpoint(path)
        load_weights(self.network, path)


class Metadata(Family):
    def prepare(self) -> None:
        from scalablevit.classification import Preprocessing
        from scalablevit.weights import save_model

        network, changes = tiny_network()
        preprocessing = Preprocessing((32, 32), 0.9, "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        metadata = {"task": "classification", "class_names": ["a", "b", "c"], "preprocessing": preprocessing.to_dict()}
        save_model(network, self.folder, architecture="scalablevit_atto", model_args=changes, metadata=metadata)
        data = (self.folder / "model.safetensors").read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        self.header, self.rest = json.loads(data[8 : 8 + size]), data[8 + size :]
        self.samples = {"model.safetensors": data}

    def mutate(self, name: str, rng: random.Random) -> bytes:
        header = dict(self.header)
        ours = dict(header["__metadata__"])
        key = next(key for key in ours if key != "format")
        if rng.random() < 0.7:
            ours[key] = as_json(mutate_data(json.loads(ours[key]), rng)).decode(errors="replace")
        else:
            text = mutate_bytes(ours[key].encode(), b"[" * 99, rng)
            ours[key] = text.decode(errors="replace")
        header["__metadata__"] = ours
        text = json.dumps(header).encode(errors="surrogatepass")
        return struct.pack("<Q", len(text)) + text + self.rest

    def read(self, path: Path, number: int) -> None:
        from scalablevit.classification import Classifier

        classifier = Classifier.load(path, device="cpu")
        if number % 4 == 0:
            (found,) = classifier.predict([self.image()], top=1)
            json.dumps(found.classes if hasattr(found, "classes") else str(found))

    def image(self) -> Path:
        path = self.folder / "image.png"
        if not path.exists():
            Image.new("RGB", (40, 30), "red").save(path)
        return path


class Recipes(Family):
    def prepare(self) -> None:
        from scalablevit.recipes import find_recipe

        for name in ("digits", "finetune_folder", "demo_detection", "demo_segmentation"):
            self.samples[f"{name}.yaml"] = find_recipe(name).read_bytes()

    def mutate(self, name: str, rng: random.Random) -> bytes:
        if rng.random() < 0.6:
            content = mutate_data(yaml.safe_load(self.samples[name]), rng)
            return with_depth(yaml.safe_dump(content)).encode(errors="surrogatepass")
        if rng.random() < 0.05:
            return b"a0: &a0 [x]\n" + b"".join(
                f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n".encode() for i in range(1, 12)
            )
        return super().mutate(name, rng)

    def read(self, path: Path, number: int) -> None:
        from scalablevit.training.recipe_file import read_recipe

        read_recipe(path)
        if number % 100 == 0:  # jsonargparse takes two seconds
            self.resolve(path)

    def resolve(self, path: Path) -> None:
        from scalablevit.training.command import TrainingCommand

        class ResolveOnly(TrainingCommand):
            def before_instantiate_classes(self) -> None:
                self.parser.dump(self.config, skip_none=False, skip_link_targets=True)

            def instantiate_classes(self) -> None:
                self.trainer = self.model = self.datamodule = None

        ResolveOnly("fit", [path], [], run=self.folder / "run")


FAMILIES: dict[str, type[Family]] = {
    "images": Images,
    "masks": Masks,
    "coco": CocoJson,
    "checkpoints": Checkpoints,
    "metadata": Metadata,
    "recipes": Recipes,
}
