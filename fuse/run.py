"""A run: the folder that a fusion leaves behind, and reading it back. Text and safetensors only."""

import csv
import io
import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from twofold.cache.recipe import Recipe
from twofold.data.errors import InputError
from twofold.data.labels import Taxonomy, taxonomy
from twofold.fuse.features import FusedFeatures
from twofold.fuse.heads.registry import Classifier, side_by_side
from twofold.fuse.heads.spec import Spec
from twofold.fuse.partition import Partition
from twofold.fuse.scores.scored_head import System
from twofold.fuse.settings import Settings, settings_from
from twofold.fuse.training.fit import Fitted
from twofold.fuse.training.loop import Epoch

VERSION = 1


@dataclass(frozen=True)
class Run:
    """A trained run. streams: (backbone, view, recipe) in the order of the head's columns."""

    path: Path
    settings: Settings
    taxonomy: Taxonomy
    streams: tuple[tuple[str, str, Recipe], ...]
    head: Classifier
    temperature: float
    record: dict

    @torch.inference_mode()
    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(N, C) calibrated probabilities of raw features (N, D) float32, streams side by side in `streams`' order."""
        from twofold.fuse.scores.metrics import tempered

        found = self.head(torch.from_numpy(np.ascontiguousarray(features, np.float32))).logits.float().softmax(dim=-1)
        return tempered(found.mean(dim=0).numpy(), self.temperature)


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


def write_run(out: Path, *, record: dict, metrics: dict, fitted: Sequence[Fitted], predictions: str) -> None:
    """Write a whole run under another name, then put it in place of what `out` was.

    fitted: the fusion's heads, one a fold; head.safetensors holds them side by side, folds x seeds members.
    """
    temporary = out.parent / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        head = side_by_side([one.head for one in fitted])
        # one entry of metadata: several have no fixed order, and the same run would give other bytes
        save_file({name: values.contiguous() for name, values in head.state_dict().items()},
                  temporary / "head.safetensors", metadata={"format": f"twofold-head {VERSION}"})
        texts = {"run.json": json.dumps(record, indent=2) + "\n", "metrics.json": json.dumps(metrics, indent=2) + "\n",
                 "predictions.csv": predictions, "history.csv": _history(fitted)}
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8", newline="")
        _sync(temporary)
        _replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_run(path: Path) -> Run:
    """Read a run back. Raises InputError if it is not one, or not whole."""
    try:
        record = json.loads((path / "run.json").read_text(encoding="utf-8"))
        if record["version"] != VERSION:
            raise InputError(f"{path}: a run of version {record['version']}, not {VERSION}: train it again")
        spec = record["head"]
        spec = Spec(**{**spec, "dims": tuple(spec["dims"]), "classes": tuple(spec["classes"])})
        head = Classifier(spec)
        head.load_state_dict(load_file(path / "head.safetensors"))
        streams = tuple((one["backbone"], one["view"], Recipe.from_json(json.dumps(one["recipe"])))
                        for one in record["streams"])
        return Run(path, settings_from(record["settings"]), taxonomy(record["classes_name"]), streams, head.eval(),
                   float(record["temperature"]), record)
    except FileNotFoundError as error:
        missing = Path(error.filename or "head.safetensors").name
        raise InputError(f"{path}: not a run (no {missing}): give a folder that `fuse` made") from None
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, OSError) as error:
        raise InputError(f"{path}: the run does not read back ({str(error).splitlines()[0]}): train it again") from None


def run_record(
    settings: dict, features: FusedFeatures, fitted: Sequence[Fitted], parts: Sequence[Partition], *, seconds: float,
    notes: Sequence[str],
) -> dict:
    """run.json: enough to repeat the run, and to know what it was made from. No path, no host."""
    import platform
    from datetime import UTC, datetime
    from importlib.metadata import version

    head = side_by_side([one.head for one in fitted]).spec
    return {
        "version": VERSION, "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "settings": settings,
        "classes_name": features.taxonomy.name, "classes": list(features.taxonomy.classes), "head": asdict(head),
        "temperature": float(np.mean([one.temperature for one in fitted])),
        "streams": [{"backbone": stream.backbone, "view": stream.view, "dim": stream.dim,
                     "fingerprint": stream.recipe.fingerprint, "recipe": asdict(stream.recipe),
                     "inputs": [{"fingerprint": file.fingerprint, "rows": file.rows,
                                 "index_sha256": file.header["index_sha256"]} for file in stream.files]}
                    for stream in (features.streams[k] for k in fitted[0].streams)],
        "faces": [{name: len(getattr(part, name)) for name in ("train", "val", "test", "extra")} for part in parts],
        "notes": list(notes), "seconds": round(seconds, 3),
        "software": {"python": platform.python_version()} | {name: version(name) for name in
                                                            ("torch", "numpy", "scikit-learn", "h5py", "safetensors")},
    }


def predictions_csv(features: FusedFeatures, fused: System, val: tuple[np.ndarray, np.ndarray] | None) -> str:
    """The fusion's calls as CSV: of test, and with fixed splits of validation, given as (rows, probabilities)."""
    classes = features.taxonomy.classes
    blocks = [("test", fused.rows, fused.calibrated)] + ([("val", *val)] if val else [])
    lines = [("key", "split", "truth", "prediction", *classes)]
    for split, rows, found in blocks:
        for row, shares in zip(rows, found, strict=True):
            lines.append((features.keys[row], split, classes[features.label[row]], classes[int(shares.argmax())],
                          *(f"{share:.6f}" for share in shares)))
    return _csv(lines)


def _history(fitted: Sequence[Fitted]) -> str:
    names = list(Epoch.__dataclass_fields__)
    return _csv([("fold", *names), *((fold, *(f"{value:.6g}" if isinstance(value, float) else value
                                              for value in asdict(line).values()))
                                     for fold, one in enumerate(fitted) for line in one.history)])


def _csv(lines: Sequence[tuple]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def _sync(folder: Path) -> None:
    import os

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
