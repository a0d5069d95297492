"""Verbs where things do not work; run as a program by `test_odd_places.py`, which makes the place for it.

    places.py FOLDER

It has file systems mounted for itself, and root without the right to read what its mode forbids. Prints, as JSON, code
and output of each run by its name.
"""

import contextlib
import io
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NETWORK = "timm:test_vit"
FILES = 64


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"], check=True)
    verbs, shared = Verbs(folder), folder / "shared"
    verbs.extract("few files and no shared memory", "few.csv")
    verbs.run("verify", "cache", "verify", verbs.store, "--root", verbs.faces)
    with read_only(verbs.store):
        verbs.extract("read-only, complete", "few.csv")
        verbs.extract("read-only, incomplete", "all.csv")
        for verb, *more in (("ls",), ("show",), ("verify",), ("push", shared), ("card",)):
            verbs.run(f"read-only, {verb}", "cache", verb, verbs.store, *more)
    (file,) = verbs.store.glob("*.h5")
    with without_permission(file):
        verbs.extract("no permission for the file", "few.csv")
        verbs.run("no permission for the file, verify", "cache", "verify", verbs.store)
    with without_permission(verbs.store, 0o555):
        verbs.extract("no permission to write", "all.csv")
    with without_permission(verbs.store):
        verbs.extract("no permission for the store", "few.csv")
        verbs.run("no permission for the store, ls", "cache", "ls", verbs.store)
        verbs.run("no permission for the store, pull", "cache", "pull", shared, verbs.store)
    with without_permission(shared, 0o555):
        verbs.run("no permission to push", "cache", "push", verbs.store, shared / "there")
    verbs.extract("as before", "few.csv")
    with without_permission(verbs.faces / "5.png"):
        verbs.extract("no permission for an image", "all.csv")
    verbs.extract("permission is back", "all.csv", "--retry-failures")
    print(json.dumps(verbs.results))


class Verbs:
    """Runs of the command line, and what came of each."""

    def __init__(self, folder: Path):
        self.faces, self.store, self.folder, self.results = folder / "faces", folder / "store", folder, {}

    def extract(self, name: str, manifest: str, *more: str) -> None:
        self.run(name, "extract", self.folder / manifest, "--root", self.faces, "--store", self.store, "--backbones",
                 NETWORK, "--weights", f"{NETWORK}=random:0", "--device", "cpu", "--precision", "fp32",
                 "--batch-size", "4", "--workers", "4", *more)

    def run(self, name: str, *words: object) -> None:
        from twofold import pipeline

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = pipeline.main([str(word) for word in words])
        self.results[name] = [code, out.getvalue(), err.getvalue()]


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def without_permission(path: Path, mode: int = 0) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
