"""Writing a run: whole under another name first, then put in place."""

import csv
import io
import json
import os
import platform
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from twofold.data.errors import InputError
from twofold.fuse.features import FusedFeatures, Stream
from twofold.fuse.heads.registry import side_by_side
from twofold.fuse.partition import Partition
from twofold.fuse.run import VERSION
from twofold.fuse.scores.scored_head import ScoredHead
from twofold.fuse.seen import NAME, SeenFaces, seen_text
from twofold.fuse.training.fit import TrainedHead
from twofold.fuse.training.loop import Epoch

LIBRARIES = ("torch", "numpy", "scikit-learn", "h5py", "safetensors")


def check_out(out: Path) -> None:
    """Raises InputError now rather than after training if a run cannot be written to `out`."""
    if out.exists() and not (out / "run.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not a run: choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.parent / f".tmp-{uuid.uuid4().hex}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise InputError(f"{out}: cannot write there ({error.strerror}): choose another --out") from None


def write_run(out: Path, *, record: dict, metrics: dict, trained: Sequence[TrainedHead], seen: SeenFaces,
              predictions: str) -> None:
    """Write a whole run under another name, then put it in place of what `out` was.

    trained: the fusion's heads, one a fold; head.safetensors holds them side by side, folds x seeds members.
    """
    temporary = out.parent / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        head = side_by_side([each.head for each in trained])
        # one entry of metadata: several have no fixed order, and the same run would give other bytes
        save_file({name: values.contiguous() for name, values in head.state_dict().items()},
                  temporary / "head.safetensors", metadata={"format": f"twofold-head {VERSION}"})
        texts = {"run.json": json.dumps(record, indent=2) + "\n", "metrics.json": json.dumps(metrics, indent=2) + "\n",
                 "predictions.csv": predictions, "history.csv": _history(trained), NAME: seen_text(seen)}
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8", newline="")
        _sync(temporary)
        _replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def run_record(
    settings: dict, features: FusedFeatures, trained: Sequence[TrainedHead], parts: Sequence[Partition], *,
    seconds: float, notes: Sequence[str], crops: Sequence[str],
) -> dict:
    """run.json: enough to repeat the run, and to know what it was made from. No path, no host.

    crops: how its faces were cut out of pictures, as the column `crop` of their manifests says.
    """
    return {
        "version": VERSION, "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "settings": settings,
        "classes_name": features.taxonomy.name, "classes": list(features.taxonomy.classes),
        "head": asdict(side_by_side([each.head for each in trained]).spec),
        "temperature": float(np.mean([each.temperature for each in trained])),
        "temperatures": [each.temperature for each in trained],
        "streams": [{"backbone": stream.backbone, "view": stream.view, "dim": stream.dim,
                     "fingerprint": stream.recipe.fingerprint, "recipe": asdict(stream.recipe),
                     "inputs": [{"fingerprint": file.fingerprint, "rows": file.rows,
                                 "index_sha256": file.header["index_sha256"]} for file in stream.files],
                     **_fold_recipes(stream)}
                    for stream in (features.streams[k] for k in trained[0].streams)],
        "faces": [{name: len(getattr(part, name)) for name in ("train", "val", "test", "extra")} for part in parts],
        "crops": list(crops), "notes": list(notes), "seconds": round(seconds, 3),
        "software": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }


def _fold_recipes(stream: Stream) -> dict:
    """The recipe of each fold's own encoder, where there are such."""
    return {"folds": [asdict(file.recipe) for file in stream.fold_files]} if stream.fold_files else {}


def predictions_csv(features: FusedFeatures, fused: ScoredHead, val: tuple[np.ndarray, np.ndarray] | None) -> str:
    """The fusion's calls as CSV: of test, and with fixed splits of validation, as (rows, probabilities)."""
    classes = features.taxonomy.classes
    sides = [("test", fused.rows, fused.calibrated)] + ([("val", *val)] if val else [])
    lines: list[tuple[str, ...]] = [("key", "split", "truth", "prediction", *classes)]
    for split, rows, probabilities in sides:
        for row, shares in zip(rows, probabilities, strict=True):
            lines.append((str(features.keys[row]), split, classes[features.label[row]], classes[int(shares.argmax())],
                          *(f"{share:.6f}" for share in shares)))
    return _csv(lines)


def _history(trained: Sequence[TrainedHead]) -> str:
    names = list(Epoch.__dataclass_fields__)
    return _csv([("fold", *names), *((str(fold), *(f"{value:.6g}" if isinstance(value, float) else str(value)
                                                   for value in asdict(line).values()))
                                     for fold, each in enumerate(trained) for line in each.history)])


def _csv(lines: Sequence[tuple[str, ...]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(temporary: Path, out: Path) -> None:
    old = out.with_name(f".tmp-old-{uuid.uuid4().hex}")
    if out.exists():
        out.rename(old)
    temporary.rename(out)
    shutil.rmtree(old, ignore_errors=True)
