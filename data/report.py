"""What a manifest holds, in a few lines."""

from pathlib import Path

from data.manifest import Manifest


def counts(faces: Manifest, path: Path) -> str:
    """Faces by split and by class, as lines to print."""
    table = faces.table
    groups = table["group"]
    lines = [f"{len(faces)} faces -> {path}", "split     " + _tally(table["split"].replace("", "(none)"))]
    for name in ("basic", "compound"):
        labelled = table.loc[table[name] != "", name]
        if len(labelled):
            lines.append(f"{name:9} {len(labelled)} labelled: {_tally(labelled)}")
    if (groups != "").any():
        lines.append(f"group     {groups[groups != ''].nunique()} groups of {int((groups != '').sum())} faces")
    return "\n".join(lines)


def _tally(column) -> str:
    return ", ".join(f"{name} {count}" for name, count in column.value_counts().items())
