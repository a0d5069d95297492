"""A small drawn dataset and the command that extracts it with two small real networks."""

import json
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import Manifest, write_manifest
from twofold.data.synthetic.dataset import draw_dataset

NETWORKS = ("timm:test_vit", "timm:test_resnet")


@dataclass(frozen=True)
class Dataset:
    root: Path
    manifest: Path
    table: Manifest


class SimulatedRunner:
    """A device whose forward passes are done at once; features are ones. started: their number."""

    in_flight = 3
    started = 0

    def start(self, encoder, pixels) -> Future:
        self.started += 1
        done: Future = Future()
        done.set_result((np.ones((len(pixels), encoder.dim), np.float32), 0.0))
        return done

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Dataset:
    """70 drawn faces of the seven compound classes, 64 x 64, with their manifest. Read only."""
    root = tmp_path_factory.mktemp("drawn")
    table = draw_dataset(root / "faces", taxonomy=builtin_taxonomy("cexpr7"), per_class=10, size=64, seed=0)
    write_manifest(table, root / "faces.csv")
    return Dataset(root / "faces", root / "faces.csv", table)


@pytest.fixture(scope="session")
def extract_args():
    """The arguments of `extract` for a manifest, root and store, with untrained networks in fp32."""

    def make(manifest: Path, root: Path, store: Path, *more: object, networks: tuple[str, ...] = NETWORKS) -> list[str]:
        weights = [word for name in networks for word in ("--weights", f"{name}=random:0")]
        return ["extract", str(manifest), "--root", str(root), "--store", str(store), "--backbones", ",".join(networks),
                *weights, "--device", "cpu", "--precision", "fp32", "--batch-size", "8", *map(str, more)]

    return make


@pytest.fixture
def extract(cli, drawn, extract_args, tmp_path):
    """Run `extract --json` with one network, by default on the drawn faces into the store `s`; it must end with this
    code. Returns the report, or the sentence where it is refused."""

    def run(*more: object, manifest: Path = drawn.manifest, root: Path = drawn.root, store: Path = tmp_path / "s",
            networks: tuple[str, ...] = NETWORKS[:1], code: int = 0) -> Any:
        done = cli(*extract_args(manifest, root, store, *more, networks=networks), "--json")
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        return done.stderr if code == 2 else json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def whole(cli, drawn, extract_args, tmp_path_factory) -> Path:
    """A store extracted in one go, both networks, views original and flip. Read only."""
    store = tmp_path_factory.mktemp("whole") / "store"
    done = cli(*extract_args(drawn.manifest, drawn.root, store, "--views", "original,flip"))
    assert done.returncode == 0, done.stderr
    return store


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory) -> Path:
    """A classifier's checkpoint, as published: names of torchvision, `fc` of 1000 classes, under `state_dict`.
    Read only."""
    import torch
    from torchvision import models

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18_msceleb.pth"
    torch.save({"state_dict": models.resnet18(num_classes=1000).state_dict(), "epoch": 10}, path)
    return path
