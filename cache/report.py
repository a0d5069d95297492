"""What a store and a feature file hold, for a person (`text`) or a program (`record`)."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from twofold.cache.feature_file import FeatureFile
from twofold.cache.shards import is_retired
from twofold.cache.store import Store, files_at


@dataclass(frozen=True)
class Listing:
    """One line a feature file; files that cannot be read, and unfinished shards, below."""

    store: Path
    files: list[FeatureFile]
    unreadable: dict[Path, str]
    shards: dict[str, int]
    retired: dict[str, int]  #: rows of faces that have left the manifest

    def record(self) -> dict:
        return {
            "store": str(self.store),
            "files": [{"file": file.path.name, "backbone": file.backbone, "view": file.view, "rows": file.rows,
                       "failed": file.failed, "dim": file.dim, "dtype": file.recipe.dtype,
                       "precision": file.recipe.precision, "weights": file.recipe.weights,
                       "fingerprint": file.fingerprint, "bytes": file.path.stat().st_size} for file in self.files],
            "unreadable": {path.name: reason for path, reason in self.unreadable.items()},
            "unfinished_shards": self.shards, "retired_rows": self.retired,
        }

    def text(self) -> str:
        lines = feature_table(self.record()["files"]) or [f"{self.store}: no feature files"]
        lines += [f"unreadable: {reason}" for reason in self.unreadable.values()]
        lines += [f"unfinished: {count} shards of recipe {name[:8]} (the same `extract` command goes on with them)"
                  for name, count in self.shards.items()]
        lines += [f"kept aside: {count} rows of recipe {name[:8]} of faces that have left the manifest (they come back "
                  f"with them)" for name, count in self.retired.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Description:
    """How each file was made."""

    files: list[FeatureFile]

    def record(self) -> list[dict]:
        return [{"file": file.path.name, "created": file.header.created, "fingerprint": file.fingerprint,
                 "rows": file.rows, "dim": file.dim, "failed": file.failed, "recipe": asdict(file.recipe),
                 "software": json.loads(file.header.software),
                 "failures": dict(Counter(file.failures.values()))} for file in self.files]

    def text(self) -> str:
        return "\n\n".join(_described(record) for record in self.record())


@dataclass(frozen=True)
class FailedFaces:
    """The faces without features in each file, and why."""

    files: list[FeatureFile]

    def record(self) -> dict[str, dict[str, str]]:
        return {file.path.name: file.failures for file in self.files}

    def text(self) -> str:
        return "\n".join(f"{name}: {len(failures)} of its faces have no features" + "".join(
            f"\n  {key}: {reason}" for key, reason in failures.items()) for name, failures in self.record().items())


def listing(path: Path) -> Listing:
    """What a store holds. Raises CacheError if `path` is not a store."""
    store = Store(path)
    good, bad = store.readable()
    shards = [shard.path for shard in store.shards()]
    retired = Counter(path.parent.name for path in shards if is_retired(path) for _ in range(FeatureFile(path).rows))
    return Listing(store.path, good, bad, dict(Counter(path.parent.name for path in shards if not is_retired(path))),
                   dict(retired))


def description(path: Path) -> Description:
    """How a feature file, or every file of a store, was made. Raises CacheError if it cannot be read."""
    return Description(_readable_at(path))


def failed_faces(path: Path) -> FailedFaces:
    """Which faces a feature file, or every file of a store, lacks. Raises CacheError if it cannot be read."""
    return FailedFaces(_readable_at(path))


def _readable_at(path: Path) -> list[FeatureFile]:
    files = files_at(path)
    for file in files:
        _ = file.header
    return files


def feature_table(files: list[dict]) -> list[str]:
    """One line a feature file, given as `Listing.record` has them, below a header; nothing for no files."""
    header = ("backbone", "view", "faces", "failed", "dim", "stored", "computed", "weights", "recipe", "MB")
    rows = [(file["backbone"], file["view"], str(file["rows"]), str(file["failed"]), str(file["dim"]), file["dtype"],
             file["precision"], _weights(file["weights"]), file["fingerprint"][:8], f"{file['bytes'] / 1e6:.1f}")
            for file in files]
    return table([header, *rows]) if rows else []


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of left-aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _weights(text: str) -> str:
    return f"UNTRAINED {text}" if text.startswith("random:") else text.removeprefix("sha256:")[:8]


def _described(record: dict) -> str:
    pairs = {name: value for name, value in record.items() if name not in ("recipe", "software", "failures")}
    lines = [f"{name:12} {value}" for name, value in pairs.items()]
    lines += ["recipe"] + [f"  {name:14} {json.dumps(value)}" for name, value in record["recipe"].items()]
    lines += ["made with      " + ", ".join(f"{name} {version}" for name, version in record["software"].items())]
    if record["failures"]:
        lines += ["failures"] + [f"  {count:6} {reason}" for reason, count in record["failures"].items()]
    return "\n".join(lines)
