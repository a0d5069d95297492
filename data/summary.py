"""What a manifest holds, for a person and for a program."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from twofold.data.manifest import Manifest


@dataclass(frozen=True)
class Indexed:
    """A manifest as written to `path`. labels: the columns of labels that are counted."""

    faces: Manifest
    path: Path
    labels: tuple[str, ...] = ("basic", "compound")

    def text(self) -> str:
        """Faces by split and by class, a few lines."""
        return "\n".join([f"{len(self.faces):,} faces -> {self.path}", *lines(self.faces, self.labels)])

    def record(self) -> dict:
        """The same numbers by name."""
        table = self.faces.table
        return {"manifest": str(self.path), "faces": len(table), "notes": list(self.faces.notes),
                **{name: _counts(table[name]) for name in ("split", *self.labels)},
                "groups": int(table.loc[table["group"] != "", "group"].nunique())}


def lines(faces: Manifest, labels: tuple[str, ...] = ("basic", "compound")) -> list[str]:
    """Counts by split, class and group; a line each."""
    table = faces.table
    rows = ["split     " + _tally(table["split"])]
    for name in labels:
        labelled = table.loc[table[name] != "", name]
        if len(labelled):
            rows.append(f"{name:9} {len(labelled):,} labelled: {_tally(labelled)}")
    if "fold" in table.columns:
        rows.append("fold      " + _tally(table["fold"].sort_values()))
    grouped = table.loc[table["group"] != "", "group"]
    if len(grouped):
        rows.append(f"group     {grouped.nunique():,} groups of {len(grouped):,} faces")
    return rows


def _counts(column: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in column.value_counts().items()}


def _tally(column: pd.Series) -> str:
    return ", ".join(f"{name or '(none)'} {count:,}" for name, count in _counts(column).items())
