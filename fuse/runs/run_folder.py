"""The folder of a run: only a run's own files are ever replaced, all at once, and only when asked for.

A new folder appears by one rename. In a folder that exists, the new files first stand together in `.new`, which appears
by one rename, too; from then on they are the run, for every reader, and are moved to their places one by one. A crash
at any point leaves the old run or the new one, and what else lies in the folder where it is.
"""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from twofold.cache.atomic import sync
from twofold.data.utils.errors import InputError
from twofold.fuse.settings import settings_from

RECORD, HEAD, SEEN = "run.json", "head.safetensors", "seen.csv"
OWN = (RECORD, HEAD, "metrics.json", "predictions.csv", "history.csv", SEEN)
PENDING = ".new"


def run_file(folder: Path, name: str) -> Path:
    """Where a run's file stands: in `.new` if a writer was stopped before it had moved all files."""
    pending = folder / PENDING / name
    return pending if pending.is_file() else folder / name


def check_out(out: Path) -> None:
    """Raises InputError now rather than after training if a run cannot be written to `out`."""
    if out.exists() and not run_file(out, RECORD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not a run: choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = (out if out.is_dir() else out.parent) / f".tmp-{uuid.uuid4().hex}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise InputError(f"{out}: cannot write there ({error.strerror}): choose another --out") from None


def check_replaceable(out: Path, record: Mapping) -> None:
    """Raises InputError if `out` holds a run of other settings, features or labels than those of `record`."""
    if not run_file(out, RECORD).is_file():
        return
    try:
        old = json.loads(run_file(out, RECORD).read_text(encoding="utf-8"))
        before, now = settings_from(old["settings"]), settings_from(record["settings"])
        changed = [name for name in vars(now) if getattr(before, name) != getattr(now, name)]
        changed += ["features"] if _inputs(old) != _inputs(record) else []
        changed += ["labels"] if old.get("labels_sha256") != record["labels_sha256"] else []
    except (OSError, ValueError, KeyError, TypeError):
        changed = ["what it was made of, which does not read back"]
    if changed:
        raise InputError(f"{out} is a run with other {', '.join(changed)}: --overwrite replaces it, or choose another "
                         "--out")


def place(temporary: Path, out: Path) -> None:
    """Put the files of a run that stand in `temporary`, beside or in `out`, in place of those of `out`."""
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    if not out.exists():
        temporary.rename(out)
    else:
        finish(out)
        temporary.rename(out / PENDING)
        sync(out)
        finish(out)
    sync(out.parent)


def finish(out: Path) -> None:
    """Move what an earlier writer had not moved yet."""
    pending = out / PENDING
    if not pending.is_dir():
        return
    for name in OWN:
        if (pending / name).is_file():
            os.replace(pending / name, out / name)
    shutil.rmtree(pending)
    sync(out)


def _inputs(record: Mapping) -> list:
    return [(stream["backbone"], stream["view"], stream["inputs"]) for stream in record["streams"]]
