"""A store as a page that the Hugging Face hub shows: what is in it, how it was made, how to fetch it."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.cache.errors import CacheError
from twofold.cache.report import listing
from twofold.cache.store import Store

CARD = "README.md"
MARK = "twofold-store"  #: a tag that tells our card from somebody's own page
COUNTED = ("split", "basic", "compound")


@dataclass(frozen=True)
class Card:
    """The page of a store, and where it belongs."""

    path: Path
    files: int
    faces: int
    page: str

    def record(self) -> dict[str, Any]:
        return {"card": str(self.path), "files": self.files, "faces": self.faces}

    def text(self) -> str:
        return f"{self.path}: {self.files} feature files of {self.faces:,} faces; `cache push` sends it along"


def card_of(path: Path) -> Card:
    """The card of a store. Raises CacheError for one without readable feature files."""
    store = Store(path)
    files = listing(path).record()["files"]
    if not files:
        raise CacheError(f"{path}: no feature files to describe")
    rows = _rows(store)
    page = "\n".join([*_metadata(store, len(rows)), "", *_page(store, files, rows), ""])
    return Card(store.path / CARD, len(files), len(rows), page)


def is_card(text: str) -> bool:
    """True if a README.md is one of ours."""
    head = text.partition("\n---")[0]
    return head.startswith("---") and f'"{MARK}"' in head


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown; nothing in a cell can break out of it."""
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in (header, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]


def _marked(file: dict[str, Any]) -> str:
    return file["backbone"] + (" * UNTRAINED" if file["weights"].startswith("random:") else "")


def _rows(store: Store) -> list[dict[str, str]]:
    if not store.manifest_path.exists():
        return []
    with store.manifest_path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _metadata(store: Store, faces: int) -> list[str]:
    """YAML whose values are JSON, which is YAML too."""
    size = next(name for most, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"),
                                        (1_000_000, "100K<n<1M"), (1 << 62, "n>1M")) if faces < most)
    values = {"license": "other", "license_name": "of-its-faces-and-encoders",
              "pretty_name": store.path.resolve().name, "size_categories": [size],
              "task_categories": ["image-classification"], "tags": [MARK, "facial-expression-recognition", "features"]}
    return ["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---"]


def _page(store: Store, files: list[dict[str, Any]], rows: list[dict[str, str]]) -> list[str]:
    tallies = {name: Counter(row.get(name) or "(none)" for row in rows) for name in COUNTED}
    counts = [f"* {name}: " + ", ".join(f"{label} {count:,}" for label, count in tally.most_common())
              for name, tally in tallies.items() if set(tally) - {"(none)"}]
    return [
        f"# {store.path.resolve().name}: cached features of {len(rows):,} faces", "",
        "Embeddings of faces by pretrained backbones, for training small heads; no pictures. Each file says in its "
        "attributes how it was made, and carries checksums.", "",
        *markdown_table(("backbone", "view", "faces", "failed", "dim", "computed", "weights", "file"),
                        [(_marked(file), file["view"], f"{file['rows']:,}", str(file["failed"]), str(file["dim"]),
                          file["precision"], file["weights"][:23], file["file"]) for file in files]), "",
        *(["Untrained weights (`random:`) mean nothing beyond testing.", ""]
          if any(file["weights"].startswith("random:") for file in files) else []),
        "## Labels", "", *(counts or ["No manifest."]), "",
        "## Use", "", "```", "pip install twofold", "twofold cache pull URL-OF-THIS-PLACE store",
        "twofold cache verify store", "twofold fuse store", "```", "",
        "## Licence and people", "",
        "The faces' licence and that of every backbone bind what is made with these features. Embeddings can tell "
        "people apart: treat them as personal data.",
    ]
