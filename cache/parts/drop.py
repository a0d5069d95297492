"""Removing the rows that a store keeps of faces that have left its manifest."""

from dataclasses import asdict, dataclass
from pathlib import Path

from twofold.cache.atomic import alone, remove, remove_empty_folder
from twofold.cache.parts.parts import is_retired
from twofold.cache.store import PARTS, Store


@dataclass(frozen=True)
class Dropped:
    """What was removed."""

    store: str
    rows: int
    bytes: int

    def record(self) -> dict:
        return asdict(self)

    def text(self) -> str:
        return f"{self.rows} rows that were kept aside are removed from {self.store} ({self.bytes / 1e6:.1f} MB)"


def drop_retired(path: Path) -> Dropped:
    """Remove them all; faces that come back are computed again. Raises CacheError if `path` is no store."""
    store, rows, size = Store(path), 0, 0
    if not any(is_retired(part.path) for part in store.parts()):
        return Dropped(str(path), 0, 0)
    with alone(store.lock_path):
        for part in store.parts():
            if is_retired(part.path):
                rows, size = rows + part.rows, size + part.path.stat().st_size
                remove(part.path)
                remove_empty_folder(part.path.parent)
        remove_empty_folder(store.path / PARTS)
    return Dropped(str(path), rows, size)
