"""Every parser of bytes that strangers may have sent, as a function of bytes, with seeds to begin from.

A target may raise the errors that become one sentence; whatever else comes out of it is a defect of ours.
"""

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from twofold.cache.errors import CacheError
from twofold.cache.feature_file import FeatureFile
from twofold.cache.share.catalogue import Catalogue, catalogue_of, parse
from twofold.cache.store import Store
from twofold.cache.user_block import MAGIC, SEAL_BYTES
from twofold.data.images.decode import FACE_LIMITS, ImageError, decode
from twofold.data.labels import load_taxonomy
from twofold.data.manifest import read_manifest
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import read_toml
from twofold.extract.encoders.onnx import external_files, read_model
from twofold.extract.weights.read import read_checkpoint
from twofold.fuse.core.settings import resolve
from twofold.fuse.fuse import fuse
from twofold.fuse.runs.read import read_run

TESTS = Path(__file__).resolve().parents[1]
STORE = TESTS / "cache/store"
SENTENCES = (InputError, CacheError, ImageError)


@dataclass(frozen=True)
class Target:
    """parse: raises only SENTENCES; seeds: valid content; text: JSON, whose values are exchanged, too."""

    parse: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    is_json: bool = False


@cache
def place() -> Path:
    """A folder for the files of this process, in memory where the system has such a folder."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="twofold-fuzz-", dir=memory))


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Parse bytes by way of a file of that name."""
    def parse(data: bytes) -> object:
        path = place() / name
        path.write_bytes(data)
        return read(path)

    return parse


@cache
def run() -> Path:
    """A run with all its files, trained in a second."""
    from tests.fuse.conftest import write_store

    fuse([write_store(place(), rows=140)], resolve(changes={"epochs": 1, "seeds": 1, "hidden": 8, "head": "logreg"}),
         out=place() / "run")
    return place() / "run"


def in_run(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Parse bytes as one file of a run that is sound otherwise."""
    def parse(data: bytes) -> object:
        folder = place() / f"run-{name}"
        if not folder.is_dir():
            shutil.copytree(run(), folder)
        (folder / name).write_bytes(data)
        return read(folder)

    return parse


def of_run(name: str) -> Callable[[], list[bytes]]:
    return lambda: [(run() / name).read_bytes()]


def read_features(path: Path) -> None:
    file = FeatureFile(path)
    file.check()
    file.read()
    _ = file.failures, file.classifier


def sealed_header(data: bytes) -> None:
    """A feature file whose header somebody has exchanged and sealed again."""
    rest = next(STORE.glob("timm-tuned*.h5")).read_bytes()
    length = int(rest[len(MAGIC):len(MAGIC) + 8])
    seal = MAGIC + f"{len(data):08d} {hashlib.sha256(data).hexdigest()}\n".encode()
    content = bytearray(rest)
    if len(data) <= length:  # the arrays keep their places
        content[:SEAL_BYTES + length] = seal + data + bytes(length - len(data))
        data = bytes(content)
    else:
        data = seal + data + rest[SEAL_BYTES + length:]
    in_file("sealed.h5", read_features)(data)


def header_seeds() -> list[bytes]:
    texts = []
    for path in STORE.glob("*.h5"):
        content = path.read_bytes()
        texts.append(content[SEAL_BYTES:SEAL_BYTES + int(content[len(MAGIC):len(MAGIC) + 8])])
    return texts


def read_results(folder: Path) -> None:
    run = read_run(folder)
    _ = run.metrics, run.predictions, run.history


def checkpoint_seeds(**options: object) -> list[bytes]:
    state = {"epoch": 3, "best_acc": torch.tensor(0.5), "names": ("a", b"b", 2**70, 1.5, None, True),
             "state_dict": {"module.w": torch.ones(2, 3), "module.b": torch.nn.Parameter(torch.zeros(3))},
             "array": np.arange(3.0), "scalar": np.float64(2.0), "optimizer": {"state": {0: {"step": 1}}}}
    file = io.BytesIO()
    torch.save(state, file, **options)
    return [file.getvalue()]


def safetensors_seeds() -> list[bytes]:
    from safetensors.torch import save

    return [save({"module.w": torch.ones(2, 3), "b": torch.zeros(3, dtype=torch.float16)}, {"classes": "a,b"}),
            (run() / "head.safetensors").read_bytes()]


def image_seeds() -> list[bytes]:
    picture, seeds = Image.effect_noise((16, 12), 90), []
    for kind, mode in (("JPEG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("BMP", "RGB"), ("GIF", "P"), ("TIFF", "CMYK"),
                       ("WEBP", "RGBA"), ("PPM", "L"), ("JPEG2000", "RGB"), ("PNG", "I;16")):
        file = io.BytesIO()
        turned = Image.Exif()
        turned[274] = 6
        image = Image.new(mode, (16, 12)) if mode == "I;16" else picture.convert("RGB").convert(mode)
        image.save(file, kind, **({"exif": turned} if kind in ("JPEG", "PNG", "WEBP") else {}))
        seeds.append(file.getvalue())
    return seeds


def onnx_seeds() -> list[bytes]:
    """A graph with a node of a subgraph and a tensor that lies in a file, in protobuf by hand."""
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    entry = field(1, b"location") + field(2, b"weights.bin")
    tensor = bytes([1 << 3, 4]) + field(8, b"w") + field(13, entry)
    graph = field(1, field(5, field(6, field(5, tensor)))) + field(5, tensor)
    return [bytes([1 << 3, 8]) + field(7, graph), bytes([1 << 3, 8]) + field(7, field(1, b""))]


MANIFEST = (b"key,split,basic,compound,group,note\na/1.png,train,happiness,,p1,x\n"
            b"'-b.png,test,,sadly_angry,p2,\"y,\"\n")
TAXONOMY = (b'name = "blends"\ntarget = "blend"\nnumbers = [3, 1]\nclasses = ["bittersweet", "angrily_surprised"]\n'
            b'[pairs]\nbittersweet = ["happiness", "sadness"]\n', b'classes = ["neutral", "sadly_angry"]\n')
SWEEP = b'heads = ["mlp"]\nseeds = 2\nbackbones = "all"\n[settings]\nlr = 1e-3\n[grid]\nhidden = [8, 16]\n'

TARGETS = {
    "feature-file": Target(in_file("features.h5", read_features),
                           lambda: [path.read_bytes() for path in STORE.glob("*.h5")]),
    "feature-header": Target(sealed_header, header_seeds, is_json=True),
    "catalogue": Target(lambda data: parse(data, Catalogue, "there"),
                        lambda: [catalogue_of(Store(STORE)).json()], is_json=True),
    "run-json": Target(in_run("run.json", read_run),
                       of_run("run.json"), is_json=True),
    "run-head": Target(in_run("head.safetensors", read_run), of_run("head.safetensors")),
    "run-seen": Target(in_run("seen.csv", read_run), of_run("seen.csv")),
    "run-metrics": Target(in_run("metrics.json", read_results), of_run("metrics.json"), is_json=True),
    "run-predictions": Target(in_run("predictions.csv", read_results), of_run("predictions.csv")),
    "run-history": Target(in_run("history.csv", read_results), of_run("history.csv")),
    "checkpoint-zip": Target(in_file("w.pth", read_checkpoint), checkpoint_seeds),
    "checkpoint-pickle": Target(in_file("w.pth", read_checkpoint),
                                lambda: checkpoint_seeds(_use_new_zipfile_serialization=False)),
    "safetensors": Target(in_file("w.safetensors", read_checkpoint), safetensors_seeds),
    "manifest": Target(in_file("faces.csv", read_manifest), lambda: [MANIFEST, MANIFEST.replace(b",", b";"),
                                                                     MANIFEST.decode().encode("utf-16")]),
    "toml": Target(in_file("sweep.toml", lambda path: read_toml(path, "settings of a sweep")), lambda: [SWEEP]),
    "taxonomy": Target(in_file("classes.toml", lambda path: load_taxonomy(str(path))), lambda: list(TAXONOMY)),
    "image": Target(lambda data: decode(data, FACE_LIMITS.scaled_to(4_000_000)), image_seeds),
    "onnx": Target(in_file("model.onnx", lambda path: external_files(path, read_model(path))), onnx_seeds),
}


def parses(target: Target, data: bytes) -> bool:
    """True if the bytes are taken, False if a sentence refuses them; any other error comes through."""
    try:
        target.parse(data)
    except SENTENCES as error:
        assert len(str(error)) < 20_000, "a message without end"
        return False
    return True
