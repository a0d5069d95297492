"""What is wrong with a manifest and its faces: gone, damaged, twice, on two sides of a split, of two minds."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from twofold.data.audit.duplicates import COARSE, FINE, components, exact, near
from twofold.data.audit.fingerprints import fingerprints
from twofold.data.images.sources import Faces
from twofold.data.keys import look_alikes
from twofold.data.manifest import Manifest
from twofold.data.summary import lines

SHOWN = 3  #: examples a finding
LABELS = ("basic", "compound")


@dataclass(frozen=True)
class Fault:
    """How many sets have it, with a few examples."""

    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Sets:
    """Sets of faces that belong together, and what is wrong between the faces of a set."""

    sets: int
    faces: int
    crossing: Fault  #: sets that stand in several splits
    disagreeing: Fault  #: sets whose faces carry different labels


@dataclass(frozen=True)
class Findings:
    """The outcome of a check. `same` (N,) is the first row of each face's set of (near-)identical pictures."""

    faces: Manifest
    look_alikes: tuple[str, ...]  #: keys that some systems take for one file
    unreadable: dict[str, tuple[str, ...]]  #: reason to keys
    exact: Sets
    near: Sets
    groups: Sets
    same: np.ndarray

    @property
    def exit_code(self) -> int:
        """1 if faces cannot be read, or the splits leak; else 0."""
        return int(bool(self.unreadable) or self._leaks())

    def _leaks(self) -> bool:
        return any(sets.crossing.count for sets in (self.exact, self.near, self.groups))

    def text(self) -> str:
        """All findings, a line or a few each."""
        unreadable = [f"{len(keys):,} faces: {reason} ({_examples(keys)})" for reason, keys in self.unreadable.items()]
        return "\n".join([
            f"{len(self.faces):,} faces", *lines(self.faces, labels=()), *_class_lines(self.faces), "",
            *(unreadable or ["every face can be read"]), *self.look_alikes,
            *_set_lines("exact duplicates", "the same bytes", self.exact),
            *_set_lines("near-duplicates", f"hashes within {COARSE} of 64 and {FINE} of 256 bits", self.near),
            *_set_lines("groups", "column group", self.groups), *self._advice()])

    def record(self) -> dict:
        """The findings by name, for a program."""
        def numbers(of: Sets) -> dict[str, int]:
            return {"sets": of.sets, "faces": of.faces, "crossing_splits": of.crossing.count,
                    "different_labels": of.disagreeing.count}
        return {"faces": len(self.faces), "unreadable": {name: list(keys) for name, keys in self.unreadable.items()},
                "look_alikes": list(self.look_alikes),
                "exact_duplicates": numbers(self.exact), "near_duplicates": numbers(self.near),
                "groups": numbers(self.groups),
                "threshold": {"coarse": [COARSE, 64], "fine": [FINE, 256]}}

    def _advice(self) -> list[str]:
        if not self._leaks():
            return []
        return ["the splits leak: `manifest check ... --group-duplicates -o GROUPED.csv` writes the sets into the "
                "column group, then `manifest split GROUPED.csv` splits anew by group"]


def check(
    faces: Manifest, source: Faces, *, workers: int = 0, progress: Callable[[int], object] = lambda count: None,
) -> Findings:
    """Read every face and compare it with all others; see `fingerprints` for workers and progress."""
    prints = fingerprints(faces.keys, source, workers=workers, progress=progress)
    unreadable = {reason: tuple(key for key, why in zip(faces.keys, prints.reasons, strict=True) if why == reason)
                  for reason in sorted(Counter(prints.reasons[prints.reasons != ""]))}
    same, bytes_ = near(prints), exact(prints)
    groups = faces.table["group"]
    first = groups.drop_duplicates().reset_index().set_index("group")["index"]
    grouped = np.where(groups == "", np.arange(len(faces)), groups.map(first).to_numpy())
    return Findings(faces, look_alikes(faces.keys), unreadable, exact=_sets(faces, bytes_),
                    near=_sets(faces, same, beyond=bytes_), groups=_sets(faces, grouped, labels=()), same=same)


def group_duplicates(findings: Findings) -> Manifest:
    """The checked manifest, each set of (near-)identical faces in one group; sets that share a group are joined."""
    table = findings.faces.table
    names = table["group"].tolist()
    rows, first = np.arange(len(names)), {}
    own = np.array([first.setdefault(name, row) if name else row for row, name in enumerate(names)], int)
    joined = components(len(names), np.concatenate([rows, rows]), np.concatenate([findings.same, own]))
    size = np.bincount(joined, minlength=len(names))
    name_of: dict[int, str] = {}
    for row, name in enumerate(names):
        if name:
            name_of.setdefault(joined[row], name)
    groups = [name_of.get(head, f"same{head:07d}") if size[head] > 1 else names[row] for row, head in enumerate(joined)]
    return Manifest(table.assign(group=groups))


def _sets(
    faces: Manifest, heads: np.ndarray, *, beyond: np.ndarray | None = None, labels: tuple[str, ...] = LABELS,
) -> Sets:
    """The sets with more than one face (more than one of `beyond`, where given) and what is wrong in them."""
    table = faces.table[["key", "split", "basic", "compound"]].assign(head=heads)
    table["part"] = np.arange(len(table)) if beyond is None else beyond
    table = table[table.groupby("head")["part"].transform("nunique") > 1]
    return Sets(int(table["head"].nunique()), len(table), _fault(table, ("split",)), _fault(table, labels))


def _fault(table: pd.DataFrame, columns: tuple[str, ...]) -> Fault:
    """The sets whose faces have two values in one of the columns, empty ones aside."""
    heads: dict[int, str] = {}
    for column in columns:
        kinds = table[table[column] != ""].groupby("head")[column].nunique()
        heads.update({head: column for head in kinds[kinds > 1].index if head not in heads})
    shown = [_example(table[table["head"] == head], heads[head]) for head in sorted(heads)[:SHOWN]]
    return Fault(len(heads), tuple(shown))


def _example(rows: pd.DataFrame, column: str) -> str:
    """Two faces of a set that differ in a column."""
    first = rows[rows[column] != ""].drop_duplicates(column)[:2]
    return " = ".join(f"{key} ({value})" for key, value in zip(first["key"], first[column], strict=True))


def _set_lines(name: str, meaning: str, sets: Sets) -> list[str]:
    if not sets.sets:
        return [f"{name}: none ({meaning})"]
    rows = [f"{name}: {sets.sets:,} sets of {sets.faces:,} faces ({meaning})"]
    for what, fault in (("stand in several splits", sets.crossing), ("carry different labels", sets.disagreeing)):
        if fault.count:
            rows += [f"  {fault.count:,} sets {what}", *(f"    {example}" for example in fault.examples)]
    return rows


def _examples(keys: tuple[str, ...]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


def _class_lines(faces: Manifest) -> list[str]:
    """Faces by class and split, a line a class."""
    rows = []
    for name in ("basic", "compound"):
        table = faces.table[faces.table[name] != ""]
        if len(table):
            cross = pd.crosstab(table[name], table["split"].replace("", "(none)"))
            rows += ["", *cross.rename_axis(index=None, columns=name).to_string().splitlines()]
    return rows
