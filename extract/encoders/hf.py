"""Backbones `hf:ORG/NAME` and `hf:FOLDER`: image classifiers of transformers, their last linear layer removed.

Safetensors only, no remote code. What a folder or repository says of itself (config.json, preprocessor_config.json) is
read here; nothing is downloaded but these files and the weights of a name that the user typed.
"""

import importlib.util
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from twofold.data.labels import canonical_label
from twofold.data.utils.errors import InputError, first_line
from twofold.data.utils.weights_files import hub_file, weights_folder
from twofold.extract.encoders.classifier import MAX_CLASSES
from twofold.extract.encoders.encoder import Architecture
from twofold.extract.encoders.preprocessing import AS_IT_IS, Preprocessing
from twofold.extract.weights.find import HUB_FILE, PublishedWeights, default_file
from twofold.extract.weights.read import Checkpoint

FILTERS = {mode.value: mode.name.lower() for mode in Image.Resampling}
#: what a preprocessor_config.json may ask for; the last is of segmentation
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels")
CONVNEXT_SIDE = 384  #: pixels; smaller ones are cropped from size / crop_pct, this and larger ones are resized to


class Embedding(nn.Module):
    """(B, 3, S, S) to what stands in front of a classifier's last linear layer, (B, D)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=x).logits


def check_name(name: str) -> None:
    """Raise InputError for a name without a configuration or a preprocessing, for remote code, and if transformers is
    missing."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError(f"hf:{name} needs transformers: install it with `pip install transformers`")
    if "auto_map" in _read(name, "config.json")[0]:
        raise InputError(f"hf:{name} wants code of its repository to be run, which is never done")
    _preprocessing(name)  # before weights are downloaded


def build(name: str, *, checkpoint: Checkpoint | None, size: int, drop_path: float) -> Architecture:
    """The classifier that config.json names, without its last linear layer."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    record, path = _read(name, "config.json")
    kind = str((record.get("architectures") or ["no model"])[0])
    if not kind.endswith("ForImageClassification") or not hasattr(transformers, kind):
        raise InputError(f"hf:{name} is {kind}: only image classifiers are supported")
    try:
        config, faults = transformers.AutoConfig.for_model(**record), {}
        if checkpoint is None:
            model = getattr(transformers, kind)(config)
        else:  # loaded by transformers itself, which knows the names that other versions wrote
            model, faults = getattr(transformers, kind).from_pretrained(
                None, config=config, state_dict=dict(checkpoint.tensors), output_loading_info=True, dtype=torch.float32)
    except Exception as error:  # whatever a stranger's configuration causes
        raise InputError(f"hf:{name}: transformers cannot build it: {first_line(error)}") from None
    wrong = [f"{len(names)} {what.replace('_', ' ')} ({', '.join(map(str, list(names)[:3]))}, ...)"
             for what, names in faults.items() if names]
    if wrong and checkpoint:
        raise InputError(f"{checkpoint.path}: these are not the weights of this network: {'; '.join(wrong)}")
    entries = {f"model.{entry}": tensor.clone() for entry, tensor in model.state_dict().items()} if checkpoint else None
    head = getattr(model, "classifier", None)
    layers: list[Any] = list(head) if isinstance(head, nn.Sequential) else [head]
    if not isinstance(layers[-1], nn.Linear):
        raise InputError(f"hf:{name}: its classifier is not one linear layer")
    model.classifier = nn.Sequential(*layers[:-1])
    labels = record.get("id2label") or {}
    classes = tuple(canonical_label(str(labels[key])) for key in sorted(labels, key=int))
    named = 0 < len({*classes}) == len(classes) <= MAX_CLASSES and not any(  # LABEL_0: transformers' own, of no name
        re.fullmatch(r"LABEL_\d+|\s*", name) or not name.isprintable() for name in classes)
    revision = f", revision {path.parent.name}" if path.parent.parent.name == "snapshots" else ""
    return Architecture(
        name=f"transformers.{kind}{revision}", network=Embedding(model), tap="input of the last linear layer",
        preprocessing=_preprocessing(name), heads=("model.classifier.",), entries=entries,
        classes=classes if named else ())


def published(name: str) -> PublishedWeights:
    """The safetensors file of the folder or repository, under the licence that its model card states."""
    backbone = f"hf:{name}"
    return PublishedWeights(backbone=backbone, files=(default_file(backbone),), download=partial(_file, name, HUB_FILE),
                            read_licence=partial(_licence, name))


def _licence(name: str) -> str:
    try:
        lines = _file(name, "README.md").read_text(encoding="utf-8", errors="replace").splitlines()[:60]
    except Exception:  # no card, or no network
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")


def _file(name: str, file: str) -> Path:
    """A file of a folder (below the weights folder, too) or of a repository on the hub."""
    folder = next((folder for folder in (Path(name), weights_folder() / name) if folder.is_dir()), None)
    if folder is None:
        return hub_file(name, file)
    if not (folder / file).is_file():
        raise FileNotFoundError(f"{folder} has no {file}")
    return folder / file


def _read(name: str, file: str) -> tuple[dict[str, Any], Path]:
    try:
        path = _file(name, file)
        record = json.loads(path.read_text(encoding="utf-8"))
    except Exception as error:  # the network's and the hub's own kinds, and what is no JSON
        raise InputError(f"hf:{name}: {file} could not be had ({type(error).__name__}: {first_line(error, most=160)}): "
                         "is it a folder that save_pretrained wrote, or ORG/NAME on the hub?") from None
    if not isinstance(record, dict):
        raise InputError(f"hf:{name}: {file} is no JSON object")
    return record, path


def _preprocessing(name: str) -> Preprocessing:
    record, path = _read(name, "preprocessor_config.json")
    try:
        if other := [key for key, value in record.items() if key.startswith("do_") and value and key not in STEPS]:
            raise ValueError(f"{other[0]} is none of {', '.join(STEPS)}")
        plain = "shortest_edge" if "crop_pct" in record else "height"  # what one number is: ConvNext's; others'
        sides = record["size"] if isinstance(record["size"], dict) else {plain: record["size"]}
        edge, rule = sides.get("shortest_edge", 0), "shorter"
        if edge and record.get("do_center_crop"):
            size, resize = _square(record["crop_size"]), int(edge / (record.get("crop_pct") or 1))  # PoolFormer
        elif edge:  # ConvNext
            size, resize = edge, int(edge / record["crop_pct"]) if edge < CONVNEXT_SIDE else edge
            rule = "shorter" if edge < CONVNEXT_SIDE else "both"
        else:
            size, resize, rule = _square(sides), _square(sides), "both"
            if record.get("do_center_crop"):
                size = _square(record["crop_size"])
        normal = {"mean": tuple(record["image_mean"]), "std": tuple(record["image_std"])} \
            if record.get("do_normalize", True) else AS_IT_IS
        if record.get("rescale_offset"):  # EfficientNet: pixels from -1 on
            normal = normal | {"mean": tuple(mean + 1 for mean in normal["mean"])}
        if record.get("include_top"):  # EfficientNet: divided by the deviation once more
            normal = normal | {"std": tuple(std * float(again) for std, again in
                                            zip(normal["std"], record["image_std"], strict=True))}
        scale = float(record.get("rescale_factor", 1 / 255)) if record.get("do_rescale", True) else 1.0
        return Preprocessing(
            size=size, resize=resize if record.get("do_resize", True) else 0, rule=rule, **normal,
            interpolation=FILTERS[record.get("resample", 2)], scale=scale)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} states no preprocessing that is supported here ({type(error).__name__}: "
                         f"{first_line(error)})") from None


def _square(sides: Any) -> int:
    if not isinstance(sides, dict):
        return int(sides)
    if sides["height"] != sides.get("width", sides["height"]):
        raise ValueError("its input is not square")
    return int(sides["height"])
