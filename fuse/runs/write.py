"""Writing a run: only a run's own files are ever replaced, all at once, and only when asked for.

A new folder appears by one rename. In a folder that exists, the new files first stand together in `.new`, which appears
by one rename, too; from then on they are the run, for every reader, and are moved to their places one by one. A crash
at any point leaves the old run or the new one, and other files in the folder untouched.
"""

import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save

from twofold.data.labels import taxonomy_record
from twofold.data.utils.atomic import fsync
from twofold.data.utils.csv_files import escape_cells
from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import Features
from twofold.fuse.core.predictions import Predictions
from twofold.fuse.core.settings import PENDING, run_file, settings_from
from twofold.fuse.core.split import SeenSamples, Split, format_seen
from twofold.fuse.core.streams import Stream
from twofold.fuse.core.task import Task, mean_calibration
from twofold.fuse.heads.head import TrainedHead, stack_heads
from twofold.fuse.runs import schema

LIBRARIES = ("torch", "numpy", "scikit-learn", "h5py", "safetensors")


def check_run_folder(out: Path) -> None:
    """Raises InputError now rather than after training if a run cannot be written to `out`."""
    if out.exists() and not run_file(out, schema.RECORD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not a run: choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = (out if out.is_dir() else out.parent) / f".tmp-{uuid.uuid4().hex}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise InputError(f"{out}: cannot write there ({error.strerror}): choose another --out") from None


def check_same_inputs(out: Path, record: Mapping[str, Any]) -> None:
    """Raises InputError if `out` holds a run of other settings, features or labels than those of `record`."""
    if not run_file(out, schema.RECORD).is_file():
        return
    try:
        old = json.loads(run_file(out, schema.RECORD).read_text(encoding="utf-8"))
        before, now = (vars(settings_from(of["settings"])) | {"labels": of["labels_sha256"], "features": [
            (each["backbone"], each["view"], each["inputs"]) for each in of["streams"]]} for of in (old, record))
        changed = [name for name in now if before[name] != now[name]]
    except (OSError, ValueError, KeyError, TypeError):
        changed = ["inputs, which cannot be read"]
    if changed:
        raise InputError(f"{out} is a run with other {', '.join(changed)}: --overwrite replaces it, or choose another "
                         "--out")


def write_run(out: Path, *, task: Task, record: dict[str, Any], metrics: dict[str, Any], trained: Sequence[TrainedHead],
              seen: SeenSamples, predictions: str) -> None:
    """Write a whole run under another name, then put it in place of the run that `out` was.

    trained: the fusion's heads, one per fold; head.safetensors holds them side by side, folds x seeds members.
    """
    temporary = (out if out.is_dir() else out.parent) / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        head = stack_heads([each.head for each in trained])
        # one entry of metadata: several have no fixed order, and the same run would give other bytes
        weights = save({name: values.contiguous() for name, values in head.state_dict().items()},
                       metadata={"format": f"twofold-head {schema.VERSION}"})
        (temporary / schema.HEAD).write_bytes(weights)  # safetensors itself writes files that no one else may read
        texts = {schema.PREDICTIONS: predictions, schema.HISTORY: _history_csv(trained, task),
                 schema.SEEN: format_seen(seen)}
        for name, content, kind in ((schema.RECORD, record, schema.RunRecord),
                                    (schema.METRICS, metrics, schema.metrics_record(task))):
            texts[name] = json.dumps(content, indent=2) + "\n"
            schema.parse_json(texts[name].encode(), kind, source=out / name)  # what is written can be read
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8", newline="")
        _put_in_place(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def inputs_record(settings: dict[str, Any], features: Features, streams: Sequence[Stream]) -> dict[str, Any]:
    """The part of run.json that a run is made of: settings, streams with the fingerprints of their files, and the
    SHA-256 of the labels, splits and groups of all samples."""
    digest = hashlib.sha256()
    for column in (features.keys, features.split, features.group, features.label, features.basic_label):
        digest.update("\0".join(map(str, column.tolist())).encode() + b"\n")
    for targets in (features.truth, features.train_target):
        digest.update(targets.tobytes())
    return {
        "settings": settings, "classes_name": features.taxonomy.name, "classes": list(features.task.outputs),
        "taxonomy": taxonomy_record(features.taxonomy),
        "streams": [{"backbone": stream.backbone, "view": stream.view, "dim": stream.dim,
                     "fingerprint": stream.recipe.fingerprint, "recipe": stream.recipe.record(),
                     "inputs": [{"fingerprint": file.fingerprint, "rows": file.rows,
                                 "index_sha256": file.header_sha256} for file in stream.files],
                     **({"folds": [file.recipe.record() for file in stream.fold_files]} if stream.fold_files else {})}
                    for stream in streams],
        "labels_sha256": digest.hexdigest(),
    }


def run_record(
    settings: dict[str, Any], features: Features, trained: Sequence[TrainedHead], parts: Sequence[Split], *,
    seconds: float, notes: Sequence[str], crops: Sequence[str],
) -> dict[str, Any]:
    """The content of run.json, as `RunRecord` has it."""
    return {
        "version": schema.VERSION, "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **inputs_record(settings, features, [features.streams[k] for k in trained[0].streams]),
        "head": asdict(stack_heads([each.head for each in trained]).spec),
        "temperature": mean_calibration([each.calibration for each in trained]).temperature,
        "temperatures": [each.temperature for each in trained],
        "thresholds": [list(each.calibration.thresholds) for each in trained],
        "faces": [{name: len(getattr(part, name)) for name in ("train", "val", "test", "extra")} for part in parts],
        "crops": list(crops), "notes": list(notes), "seconds": round(seconds, 3),
        "software": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }


def predictions_csv(tables: Sequence[Predictions]) -> str:
    """The fusion's predictions as CSV: of test, and with fixed splits of validation."""
    rows = [pd.DataFrame({
        "key": escape_cells([str(key) for key in table.key]), "split": table.role,
        "group": [group.decode() for group in table.group_digest], **table.columns()}) for table in tables]
    return pd.concat(rows).to_csv(index=False, lineterminator="\n", float_format="%.6f")


def _history_csv(trained: Sequence[TrainedHead], task: Task) -> str:
    lines = [{"fold": fold, **line.record()} for fold, each in enumerate(trained) for line in each.history]
    table = pd.DataFrame(lines, columns=[*lines[0]] if lines else [
        "fold", "member", "epoch", "loss", f"val_{task.score.key}", "lr"])
    return table.to_csv(index=False, lineterminator="\n", float_format="%.6g", na_rep="nan")


def _put_in_place(temporary: Path, out: Path) -> None:
    """Put the files of a run that stand in `temporary`, beside or in `out`, in place of those of `out`."""
    for path in (*temporary.iterdir(), temporary):
        fsync(path)
    if not out.exists():
        temporary.rename(out)
    else:
        _move_pending(out)
        temporary.rename(out / PENDING)
        fsync(out)
        _move_pending(out)
    fsync(out.parent)


def _move_pending(out: Path) -> None:
    """Move the files that this or an earlier writer has put into `.new` to their places."""
    pending = out / PENDING
    if not pending.is_dir():
        return
    for name in schema.FILES:
        if (pending / name).is_file():
            os.replace(pending / name, out / name)
    shutil.rmtree(pending)
    fsync(out)
