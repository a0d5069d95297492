"""Writing a run: whole under another name first, then put in place."""

import csv
import hashlib
import io
import json
import platform
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.torch import save

from twofold.data.labels import taxonomy_record
from twofold.data.utils.csv_files import escape_cells
from twofold.fuse.features import FusedFeatures, Stream
from twofold.fuse.heads.head import TrainedHead, side_by_side
from twofold.fuse.predictions import ScoredHead
from twofold.fuse.runs.run import VERSION
from twofold.fuse.runs.run_folder import HEAD, RECORD, SEEN, place
from twofold.fuse.split import Partition, SeenFaces, seen_text
from twofold.fuse.training.loop import Epoch

LIBRARIES = ("torch", "numpy", "scikit-learn", "h5py", "safetensors")


def write_run(out: Path, *, record: dict, metrics: dict, trained: Sequence[TrainedHead], seen: SeenFaces,
              predictions: str) -> None:
    """Write a whole run under another name, then put it in place of the run that `out` was.

    trained: the fusion's heads, one a fold; head.safetensors holds them side by side, folds x seeds members.
    """
    temporary = (out if out.is_dir() else out.parent) / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        head = side_by_side([each.head for each in trained])
        # one entry of metadata: several have no fixed order, and the same run would give other bytes
        weights = save({name: values.contiguous() for name, values in head.state_dict().items()},
                       metadata={"format": f"twofold-head {VERSION}"})
        (temporary / HEAD).write_bytes(weights)  # safetensors itself writes files that no one else may read
        texts = {RECORD: json.dumps(record, indent=2) + "\n", "metrics.json": json.dumps(metrics, indent=2) + "\n",
                 "predictions.csv": predictions, "history.csv": _history(trained), SEEN: seen_text(seen)}
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8", newline="")
        place(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def inputs_record(settings: dict, features: FusedFeatures, streams: Sequence[Stream]) -> dict:
    """What a run is made of: settings, streams with the fingerprints of their files, labels. No path, no host."""
    return {
        "settings": settings, "classes_name": features.taxonomy.name, "classes": list(features.taxonomy.classes),
        "taxonomy": taxonomy_record(features.taxonomy),
        "streams": [{"backbone": stream.backbone, "view": stream.view, "dim": stream.dim,
                     "fingerprint": stream.recipe.fingerprint, "recipe": asdict(stream.recipe),
                     "inputs": [{"fingerprint": file.fingerprint, "rows": file.rows,
                                 "index_sha256": file.header["index_sha256"]} for file in stream.files],
                     **({"folds": [asdict(file.recipe) for file in stream.fold_files]} if stream.fold_files else {})}
                    for stream in streams],
        "labels_sha256": labels_digest(features),
    }


def run_record(
    settings: dict, features: FusedFeatures, trained: Sequence[TrainedHead], parts: Sequence[Partition], *,
    seconds: float, notes: Sequence[str], crops: Sequence[str],
) -> dict:
    """run.json: enough to repeat the run, and to know what it was made from.

    crops: how its faces were cut out of pictures, as the column `crop` of their manifests says.
    """
    return {
        "version": VERSION, "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **inputs_record(settings, features, [features.streams[k] for k in trained[0].streams]),
        "head": asdict(side_by_side([each.head for each in trained]).spec),
        "temperature": float(np.mean([each.temperature for each in trained])),
        "temperatures": [each.temperature for each in trained],
        "faces": [{name: len(getattr(part, name)) for name in ("train", "val", "test", "extra")} for part in parts],
        "crops": list(crops), "notes": list(notes), "seconds": round(seconds, 3),
        "software": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }


def labels_digest(features: FusedFeatures) -> str:
    """Of what the manifests say of the faces: beside the features' fingerprints, what a run is made of."""
    digest = hashlib.sha256()
    for column in (features.keys, features.split, features.group, features.label, features.basic_label):
        digest.update("\0".join(map(str, column.tolist())).encode() + b"\n")
    return digest.hexdigest()


def predictions_csv(features: FusedFeatures, fused: ScoredHead, val: tuple[np.ndarray, np.ndarray] | None) -> str:
    """The fusion's calls as CSV: of test, and with fixed splits of validation, as (rows, probabilities)."""
    classes = features.taxonomy.classes
    sides = [("test", fused.rows, fused.calibrated)] + ([("val", *val)] if val else [])
    lines: list[tuple[str, ...]] = [("key", "split", "truth", "prediction", *classes)]
    for split, rows, probabilities in sides:
        for row, shares in zip(rows, probabilities, strict=True):
            lines.append((*escape_cells([str(features.keys[row])]), split, classes[features.label[row]],
                          classes[int(shares.argmax())], *(f"{share:.6f}" for share in shares)))
    return csv_text(lines)


def _history(trained: Sequence[TrainedHead]) -> str:
    names = list(Epoch.__dataclass_fields__)
    return csv_text([("fold", *names), *((str(fold), *(f"{value:.6g}" if isinstance(value, float) else str(value)
                                                   for value in asdict(line).values()))
                                     for fold, each in enumerate(trained) for line in each.history)])


def csv_text(lines: Iterable[Sequence[str]]) -> str:
    """Lines of cells as a CSV file has them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()

