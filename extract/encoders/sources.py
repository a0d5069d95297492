"""Where a backbone of any name comes from: one entry per source. Imports torch only for a source that needs it."""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from twofold.extract.weights.find import PublishedWeights

if TYPE_CHECKING:
    from twofold.extract.encoders.encoder import Architecture
    from twofold.extract.weights.read import Checkpoint

#: prefix of the name to the module that is a Source (ONNX models bring no network to build: see `onnx`)
SOURCES = {"timm": "twofold.extract.encoders.timm", "torchvision": "twofold.extract.encoders.torchvision",
           "hf": "twofold.extract.encoders.hf",
           "": "twofold.extract.encoders.presets"}


class Source(Protocol):
    """A module of backbones; `name` is what stands behind the prefix.

    check_name raises InputError for a name that it does not have; build makes the network without its classifier
    (checkpoint: what will be loaded, None for random weights; size: another side of its input, 0 for its own);
    published says where its weights come from, licence under which licence they are, empty where none is stated.
    """

    def check_name(self, name: str) -> object: ...

    def build(self, name: str, *, checkpoint: "Checkpoint | None", size: int, drop_path: float) -> "Architecture": ...

    def published(self, name: str) -> PublishedWeights: ...

    def licence(self, name: str) -> str: ...


def source_of(backbone: str) -> tuple[Source, str]:
    """The source of a backbone's name, and the name that it has there. Options behind the name are left out."""
    plain = backbone.partition("?")[0]
    kind, colon, name = plain.partition(":")
    kind, name = (kind, name) if colon and kind in SOURCES else ("", plain)
    module: Source = importlib.import_module(SOURCES[kind])  # type: ignore[assignment]
    return module, name


def recorded_name(backbone: str) -> str:
    """The name as a recipe has it: a folder without its path, which is found again below the weights folder."""
    kind, _, name = backbone.partition(":")
    return f"hf:{Path(name).resolve().name}" if kind == "hf" and Path(name).is_dir() else backbone


def published_weights(backbone: str) -> PublishedWeights:
    """Where the weights of a backbone come from. Raises InputError for an unknown name."""
    source, name = source_of(backbone)
    return source.published(name)


def licences(backbones: Iterable[str]) -> dict[str, str]:
    """The licence of each backbone for which one is stated."""
    stated = {backbone: source.licence(name) for backbone in backbones for source, name in [source_of(backbone)]}
    return {backbone: licence for backbone, licence in stated.items() if licence}
