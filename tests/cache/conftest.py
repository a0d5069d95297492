"""Small real feature files to look at and to damage, and places to share them through."""

import uuid
from pathlib import Path

import numpy as np
import pytest

from tests.cache.servers import Host, Site, serve_ssh, serve_web
from twofold.cache.feature_writer import write_feature_file
from twofold.cache.recipe import Recipe
from twofold.cache.share.catalogue import CATALOGUE, ENTRIES, Entry
from twofold.cache.share.transfer import push
from twofold.cache.store import Store
from twofold.data.utils.terminal import Summary


def make_recipe(**changes) -> Recipe:
    """A recipe; keyword arguments replace fields."""
    base = {
        "backbone": "timm:tiny", "architecture": "timm.tiny", "weights": "random:0", "tap": "pool",
        "preprocessing": {"size": 32, "mean": [0.5, 0.5, 0.5]}, "view": {"name": "original"}, "decoder": "pillow-rgb-1",
        "precision": "fp32", "dtype": "float16",
    }
    return Recipe(**(base | changes))


def put(path: Path, features, *, keys=None, sha256=None, failures=None, classifier=None, **changes) -> Path:
    """Write a feature file of these rows, by rule of keys a, b, c, ..., each of another image; returns its path."""
    features = np.asarray(features)
    keys = list("abcdefghij"[:len(features)] if keys is None else keys)
    write_feature_file(path, recipe=make_recipe(**changes), dim=features.shape[1], keys=keys, features=features,
                       sha256=[f"{row:064x}" for row in range(len(keys))] if sha256 is None else sha256,
                       failures=failures or {}, classifier=classifier)
    return path


@pytest.fixture
def write(tmp_path):
    """Write a feature file of random features; returns its path and the features."""

    def make(path: Path | None = None, *, rows: int = 700, dim: int = 6, seed: int = 0, failures=None, **changes):
        path = path or tmp_path / "features.h5"
        features = np.random.default_rng(seed).standard_normal((rows, dim)).astype(make_recipe(**changes).dtype)
        put(path, features, keys=[f"train/é {row:04d}.jpg" for row in range(rows)],
            failures={"train/bad.jpg": "not an image"} if failures is None else failures, **changes)
        return path, features

    return make


@pytest.fixture
def store(tmp_path, write) -> Store:
    """A store to share: `a.h5` of 3 MB, which can break off, a small `b.h5` of another backbone, and a manifest."""
    (tmp_path / "store").mkdir()
    write(tmp_path / "store" / "a.h5", rows=3000, dim=512)
    write(tmp_path / "store" / "b.h5", rows=100, backbone="timm:other")
    (tmp_path / "store" / "manifest.csv").write_text("key\ntrain/é 0000.jpg\n", encoding="utf-8")
    return Store(tmp_path / "store")


@pytest.fixture
def back(tmp_path) -> Store:
    """Where it is pulled to."""
    return Store(tmp_path / "back", new=True)


@pytest.fixture
def there(tmp_path) -> Path:
    """The folder on this machine that it is pushed to."""
    return tmp_path / "there"


@pytest.fixture
def site(there, store) -> Site:
    """A web server of the store."""
    push(store, str(there))
    yield from serve_web(there)


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory) -> Host:
    yield from serve_ssh(tmp_path_factory.mktemp("home"))


@pytest.fixture
def host(ssh_server, monkeypatch) -> Host:
    """An OpenSSH server, to which this process can log in."""
    monkeypatch.setenv("HOME", str(ssh_server.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return ssh_server


@pytest.fixture(params=["folder", "file", "memory", "ssh"])
def url(request, there):
    """The same place by each transport that can be written to."""
    if request.param == "ssh":
        return request.getfixturevalue("host").url(there / "deep")
    return {"folder": str(there / "deep"), "file": f"file://{there}/deep",
            "memory": f"memory://{uuid.uuid4().hex}/deep"}[request.param]


def moved(report: Summary, what: str = "moved") -> list[str]:
    """The names of the files that a push or pull has moved."""
    return [entry["file"] for entry in report.values[what]]


def shared_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that is shared; what only says or helps that is left out."""
    return {path.name: Entry.of(path).sha256 for path in folder.iterdir()
            if path.name not in (CATALOGUE, ENTRIES, ".lock")}
