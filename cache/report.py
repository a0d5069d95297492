"""What a store and a feature file hold, for a person (`text`) or a program (`record`)."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twofold.cache.feature_file import FeatureFile
from twofold.cache.shards import is_retired
from twofold.cache.store import Store, files_at


@dataclass(frozen=True)
class Listing:
    """Feature files, unreadable ones with the reason, number of shards and of retired rows per recipe."""

    store: Path
    files: list[FeatureFile]
    unreadable: dict[Path, str]
    shards: dict[str, int]
    retired: dict[str, int]

    def record(self) -> dict[str, Any]:
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
        lines += [f"unfinished: {count} shards of recipe {name[:8]} (the same `extract` command continues them)"
                  for name, count in self.shards.items()]
        lines += [f"kept aside: {count} rows of recipe {name[:8]} of samples that have left the manifest (they come "
                  "back with them)" for name, count in self.retired.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Description:
    """How each file was made; or, with `failures`, which of its samples have no features, and why."""

    files: list[FeatureFile]
    failures: bool

    def record(self) -> Any:
        if self.failures:
            return {file.path.name: file.failures for file in self.files}
        return [{"file": file.path.name, "created": file.header.created, "fingerprint": file.fingerprint,
                 "rows": file.rows, "dim": file.dim, "failed": file.failed, "recipe": asdict(file.recipe),
                 "software": json.loads(file.header.software), "failures": dict(Counter(file.failures.values()))}
                for file in self.files]

    def text(self) -> str:
        if self.failures:
            return "\n".join("\n  ".join([f"{name}: {len(failures)} of its samples have no features",
                                          *(f"{key}: {reason}" for key, reason in failures.items())])
                             for name, failures in self.record().items())
        return "\n\n".join("\n".join(_described(record)) for record in self.record())


def listing(path: Path) -> Listing:
    """What a store holds. Raises CacheError if `path` is not a store."""
    store = Store(path)
    good, bad = store.readable()
    shards, retired = Counter[str](), Counter[str]()
    for shard in store.shards():
        name = shard.path.parent.name
        shards[name] += not is_retired(shard.path)
        retired[name] += shard.rows if is_retired(shard.path) else 0
    return Listing(store.path, good, bad, dict(+shards), dict(+retired))


def describe(path: Path, *, failures: bool = False) -> Description:
    """How a feature file, or every file of a store, was made. Raises CacheError if one cannot be read."""
    return Description(files_at(path), failures)


def feature_table(files: list[dict[str, Any]]) -> list[str]:
    """A header and one line per feature file, given as `Listing.record` has them; nothing for no files."""
    header = ("backbone", "view", "samples", "failed", "dim", "stored", "computed", "weights", "recipe", "MB")
    rows = [(file["backbone"], file["view"], str(file["rows"]), str(file["failed"]), str(file["dim"]), file["dtype"],
             file["precision"], _weights(file["weights"]), file["fingerprint"][:8], f"{file['bytes'] / 1e6:.1f}")
            for file in files]
    return table([header, *rows]) if rows else []


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of left-aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _weights(text: str) -> str:
    return f"UNTRAINED {text}" if text.startswith("random:") else text.removeprefix("sha256:")[:8]


def _described(record: dict[str, Any]) -> list[str]:
    recipe, software, failures = (record.pop(name) for name in ("recipe", "software", "failures"))
    return [*(f"{name:12} {value}" for name, value in record.items()),
            "recipe", *(f"  {name:14} {json.dumps(value)}" for name, value in recipe.items()),
            "made with      " + ", ".join(f"{name} {version}" for name, version in software.items()),
            *(["failures"] if failures else []), *(f"  {count:6} {reason}" for reason, count in failures.items())]
