"""What two processes do to one store at the same time, through the functions that the verbs call.

Faces are real files of 8 x 8 pixels, the encoder is real but tiny: what a trial costs is what the store costs.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from twofold.cache import cli as verbs
from twofold.cache.recipe import Recipe
from twofold.cache.shards import file_state
from twofold.cache.store import Store
from twofold.extract.encoders.encoder import BatchLimit, Encoder
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.engine.stats import RunStats
from twofold.extract.extract import Request, add_missing, on_devices, open_workspace, plan_all
from twofold.extract.plan import ExtractOptions, WantedFile, recipe_of
from twofold.extract.streams import Encoders, EncoderSource, Stream
from twofold.extract.views import view

KEYS = tuple(f"{letter}.png" for letter in "abcdefghijkl")
BROKEN = -1  #: the version of an image that cannot be decoded
SOURCE = EncoderSource(backbone="tiny", weights="random:0", precision="fp32")
Job = Callable[[], object]


def tiny_encoder() -> Encoder:
    """(B, 8, 8, 3) uint8 to (B, 6): one matrix product."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8 * 8 * 3, 6)).eval()
    return Encoder(name="tiny", architecture="tiny", weights="random:0", tap="all", dim=6, precision="fp32",
                   preprocessing=Preprocessing(size=8, resize=0), device=torch.device("cpu"), network=network,
                   limit=BatchLimit(4))


@cache
def image(key: str, version: int) -> bytes:
    if version == BROKEN:
        return f"{key} is no image".encode()
    pixels = np.random.default_rng([KEYS.index(key), version]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Scene:
    """A store, the images of its faces, and a folder for whatever else a trial needs."""

    folder: Path
    encoder: Encoder

    @property
    def store(self) -> Store:
        return Store(self.folder / "store", new=True)

    @property
    def recipe(self) -> Recipe:
        return recipe_of(self.encoder, view("original"), dtype="float32")

    def paint(self, keys: Iterable[str], version: int) -> None:
        (self.folder / "faces").mkdir(exist_ok=True)
        for key in keys:
            (self.folder / "faces" / key).write_bytes(image(key, version))

    def extract(self, keys: Sequence[str], *, store: str = "store", **options: bool | int | str) -> RunStats | None:
        """As the verb, with the encoder at hand; returns what was computed."""
        manifest = self.folder / f"{os.getpid()}.csv"  # of this contender only
        manifest.write_text("key,split,basic,compound,group\n" + "".join(f"{key},,,,\n" for key in keys))
        chosen = ExtractOptions(**{"workers": 1, "shard_rows": 6, **options})
        workspace = open_workspace(Request(manifest=manifest, roots=[str(self.folder / "faces")], options=chosen,
                                   store=self.folder / store, streams=[Stream(source=SOURCE)]))
        plans = plan_all(workspace, [WantedFile(self.recipe, self.encoder.dim)], chosen)
        compute = on_devices(["cpu"], Encoders("cpu", {SOURCE: self.encoder}))
        return add_missing(workspace, plans, [SOURCE], compute, chosen).stats

    def merge(self, store: str) -> None:
        verbs.cache_merge([self.folder / store], self.store.path)

    def push(self) -> None:
        verbs.cache_push(self.store.path, str(self.folder / "shared"), replace=True)

    def cached(self) -> tuple[dict[str, str], dict[str, np.ndarray]]:
        """Of each key whose row the store has, finished or in a part: the SHA-256 of its image, and its features."""
        rows = file_state(self.store, self.recipe).rows
        keys = list(rows.place)
        features = np.concatenate([np.empty((0, self.encoder.dim)), *rows.blocks(keys)])
        return {key: rows.sha256(key) for key in keys}, dict(zip(keys, features, strict=True))


@dataclass(frozen=True)
class Contest:
    """Two jobs for two processes, and for each key the version whose row the store must have when both are done."""

    jobs: tuple[Job, Job]
    versions: dict[str, int]


def rechecks(scene: Scene, rng: random.Random) -> Contest:
    """Images have changed; two runs notice, each all of it or its shard."""
    start_with(scene, KEYS)
    changed = rng.sample(KEYS, 6)
    scene.paint(changed, 1)
    return Contest(_both(scene, rng, recheck=True), dict.fromkeys(KEYS, 0) | dict.fromkeys(changed, 1))


def retries(scene: Scene, rng: random.Random) -> Contest:
    """Images that failed have been mended."""
    broken = rng.sample(KEYS, 6)
    start_with(scene, KEYS, broken)
    scene.paint(broken, 1)
    return Contest(_both(scene, rng, retry_failures=True), dict.fromkeys(KEYS, 0) | dict.fromkeys(broken, 1))


def recheck_and_merge(scene: Scene, rng: random.Random) -> Contest:
    """Images have changed, while another store's faces come in."""
    start_with(scene, KEYS[:8])
    another_store(scene, KEYS[6:])
    changed = rng.sample(KEYS[:6], 3)
    scene.paint(changed, 1)
    return Contest((partial(scene.extract, KEYS[:8], recheck=True, shard_rows=rng.randint(2, 6)),
                    partial(scene.merge, "other")), dict.fromkeys(KEYS, 0) | dict.fromkeys(changed, 1))


def manifests(scene: Scene, rng: random.Random) -> Contest:
    """Two manifests with some faces in common; what one lacks is retired by it."""
    start_with(scene, KEYS[4:8])
    parts = rng.randint(2, 6)
    return Contest((partial(scene.extract, KEYS[:8], shard_rows=parts),
                    partial(scene.extract, KEYS[4:], shard_rows=parts)), dict.fromkeys(KEYS, 0))


def extract_and_merge(scene: Scene, rng: random.Random) -> Contest:
    start_with(scene, KEYS[:4])
    another_store(scene, KEYS[6:])
    return Contest((partial(scene.extract, KEYS[:8], shard_rows=rng.randint(2, 6)), partial(scene.merge, "other")),
                   dict.fromkeys(KEYS, 0))


def extract_and_push(scene: Scene, rng: random.Random) -> Contest:
    start_with(scene, KEYS[:6])
    return Contest((partial(scene.extract, KEYS, shard_rows=rng.randint(2, 6)), scene.push), dict.fromkeys(KEYS, 0))


CONTESTS = {contest.__name__: contest for contest in (
    rechecks, retries, recheck_and_merge, manifests, extract_and_merge, extract_and_push)}


def start_with(scene: Scene, keys: Sequence[str], broken: Sequence[str] = ()) -> None:
    """A store of these faces, extracted in peace."""
    scene.paint(KEYS, 0)
    scene.paint(broken, BROKEN)
    scene.extract(keys)


def another_store(scene: Scene, keys: Sequence[str]) -> None:
    scene.extract(keys, store="other")


def _both(scene: Scene, rng: random.Random, **how: bool) -> tuple[Job, Job]:
    shards = rng.choice([("", ""), ("0/2", "1/2")])
    parts = rng.randint(2, 6)
    return (partial(scene.extract, KEYS, shard=shards[0], shard_rows=parts, **how),
            partial(scene.extract, KEYS, shard=shards[1], shard_rows=parts, **how))


def faults(scene: Scene, versions: dict[str, int]) -> list[str]:
    """What is wrong with a store once both jobs are done. Empty: nothing is lost, stale, damaged or left behind."""
    stored, features = scene.cached()
    wrong = [f"the row of {key} is lost" for key in versions if key not in stored]
    wrong += [f"{key} is of another image" for key, version in versions.items()
              if key in stored and stored[key] != sha256(image(key, version)).hexdigest()]
    wrong += [f"the features of {key} are not those of its image" for key, version in versions.items()
              if key in stored and not np.allclose(features[key], expected(scene, key, version), atol=1e-5)]
    wrong += [f"{path.name} is left behind" for path in scene.store.path.glob("**/.tmp-*")]
    wrong += [f"{path.name} is set aside" for path in scene.store.path.glob("**/*.damaged")]
    if not wrong:
        tally = scene.extract(list(versions), recheck=True, retry_failures=True)
        wrong += [f"{count} rows are computed again" for count in tally.rows.values() if count]
        (file,) = scene.store.files()
        wrong += [] if file.keys.tolist() == list(versions) else ["the finished file is not the manifest's"]
        verdict = verbs.cache_verify(scene.store.path)
        wrong += [verdict.text()] if verdict.exit_code else []
    return wrong


def faults_of_push(scene: Scene) -> list[str]:
    """What is wrong with the copy once it has been pushed again in peace: it must be the store, file by file."""
    scene.push()
    pulled = scene.folder / "pulled"
    verbs.cache_pull(str(scene.folder / "shared"), pulled)
    names = sorted(path.name for path in scene.store.path.glob("*.h5"))
    return [f"{name} of the copy differs" for name in [*names, "manifest.csv"]
            if not (pulled / name).is_file() or (pulled / name).read_bytes() != (scene.store.path / name).read_bytes()]


def expected(scene: Scene, key: str, version: int) -> np.ndarray:
    """What the encoder gives of an image, without any store."""
    pixels = np.asarray(Image.open(BytesIO(image(key, version))).convert("RGB"))
    return scene.encoder.encode(pixels[None])[0]


def copied(template: Scene, folder: Path) -> Scene:
    shutil.copytree(template.folder, folder)
    return Scene(folder, template.encoder)
