"""Drawn faces of basics and compounds, and a small network that learns from them in seconds."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import build_manifest, write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils.errors import InputError
from twofold.extract.finetune.finetune import Request, finetune
from twofold.extract.finetune.loop import Training
from twofold.extract.finetune.settings import resolve


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> SimpleNamespace:
    """140 drawn faces, 48 x 48, of the seven basics and the seven compounds, each person in one split. Read only."""
    root = tmp_path_factory.mktemp("faces")
    tables = [draw_dataset(root / "faces", taxonomy=builtin_taxonomy(name), per_class=10, size=48, seed=0).table
              for name in ("basic7", "cexpr7")]
    table = build_manifest(pd.concat(tables, ignore_index=True), source="drawn")
    write_manifest(table, root / "faces.csv")
    return SimpleNamespace(root=root / "faces", path=root / "faces.csv", table=table)


@pytest.fixture
def request_for(faces, tmp_path):
    """A request for a tiny timm network on the drawn faces, two epochs in fp32 on the CPU."""
    def make(out: str = "weights.safetensors", *, backbone: str = "timm:test_resnet", weights: str = "random:0",
             manifest: Path = faces.path, minutes: float = 5.0, **chosen) -> Request:
        settings = {"size": 48, "epochs": 2, "batch_size": 16, "precision": "fp32"} | chosen
        return Request(manifest=manifest, roots=[str(faces.root)], backbone=backbone, weights=weights,
                       out=tmp_path / out, settings=resolve(preset="quick", chosen=settings), device="cpu",
                       progress=False, minutes=minutes)

    return make


@pytest.fixture
def loop_of(request_for, monkeypatch):
    """The loop of a request, as it stands before its first step."""
    def make(**chosen) -> Training:
        loops: list[Training] = []

        def stop(training: Training, **_: object) -> None:
            loops.append(training)
            raise InputError("enough")

        monkeypatch.setattr(Training, "run", stop)
        with pytest.raises(InputError, match="enough"):
            finetune(request_for(**chosen))
        return loops[0]

    return make


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)
