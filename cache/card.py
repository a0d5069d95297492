"""The card of a store: a page that the Hugging Face hub shows, with its files, labels and how to fetch it."""

import html
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.cache.errors import CacheError
from twofold.cache.report import listing
from twofold.cache.store import Store
from twofold.data.utils.csv_files import read_table

CARD = "README.md"
MARK = "twofold-store"  #: the tag of our cards
LABELS = ("split", "basic", "compound")
#: what Markdown and the hub's extensions of it (tables, bare links) take for markup, but not `sadly_angry` or ` * `
MARKUP = re.compile(r"[\\`\[\]|~@!]|(?<!\w)_|_(?!\w)|(?<!\s)\*|\*(?!\s)|^[#+-]")
MAX_LABELS = 50


@dataclass(frozen=True)
class Card:
    """The page of a store, and its path."""

    path: Path
    files: int
    samples: int
    page: str

    def record(self) -> dict[str, Any]:
        return {"card": str(self.path), "files": self.files, "samples": self.samples}

    def text(self) -> str:
        return f"{self.path}: {self.files} feature files of {self.samples:,} samples; `cache push` sends it along"


def make_card(path: Path) -> Card:
    """The card of a store. Raises CacheError for one without readable feature files, InputError for its manifest."""
    store = Store(path)
    files = listing(path).record()["files"]
    if not files:
        raise CacheError(f"{path}: no feature files to describe")
    table = read_table(store.manifest_path) if store.manifest_path.exists() else {"key": []}
    counts = []
    for name in (name for name in LABELS if name in table):
        labels = Counter(label or "(none)" for label in table[name])
        if set(labels) != {"(none)"}:
            most = ", ".join(f"{escape(label)} {count:,}" for label, count in labels.most_common(MAX_LABELS))
            counts.append(f"* {name}: {most}" + (", ..." if len(labels) > MAX_LABELS else ""))
    page = "\n".join([*_metadata(store, len(table["key"])), "", *_page(store, files, len(table["key"]), counts), ""])
    return Card(store.path / CARD, len(files), len(table["key"]), page)


def is_card(text: str) -> bool:
    """True if a README.md is one of ours."""
    head = text.partition("\n---")[0]
    return head.startswith("---") and f'"{MARK}"' in head


def escape(text: str, *, most: int = 500) -> str:
    """Foreign text as Markdown that shows it literally, on one line: no heading, link, picture or HTML."""
    line = " ".join(text.split())
    line = html.escape(line if len(line) <= most else f"{line[:most]}...", quote=False)
    line = line.replace("://", "&#58;//").replace("www.", "www&#46;")
    return MARKUP.sub(lambda match: f"\\{match[0]}", line)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown; nothing in a cell can break out of it."""
    lines = [f"| {' | '.join(map(escape, row))} |" for row in (header, *rows)]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]


def _metadata(store: Store, samples: int) -> list[str]:
    """YAML whose values are JSON, which is YAML too."""
    size = next(name for most, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"),
                                        (1_000_000, "100K<n<1M"), (1 << 62, "n>1M")) if samples < most)
    values = {"license": "other", "license_name": "of-its-faces-and-encoders",
              "pretty_name": store.path.resolve().name, "size_categories": [size],
              "task_categories": ["image-classification"], "tags": [MARK, "facial-expression-recognition", "features"]}
    return ["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---"]


def _page(store: Store, files: list[dict[str, Any]], samples: int, counts: list[str]) -> list[str]:
    untrained = any(file["weights"].startswith("random:") for file in files)
    rows = [(file["backbone"] + (" * UNTRAINED" if file["weights"].startswith("random:") else ""), file["view"],
             f"{file['rows']:,}", str(file["failed"]), str(file["dim"]), file["precision"], file["weights"][:23],
             file["file"]) for file in files]
    return [
        f"# {escape(store.path.resolve().name)}: cached features of {samples:,} samples", "",
        "Embeddings of face crops by pretrained backbones, for training small heads; no images. Each file records in "
        "its attributes how it was made, and carries checksums.", "",
        *markdown_table(("backbone", "view", "samples", "failed", "dim", "computed", "weights", "file"), rows), "",
        *(["Untrained weights (`random:`) mean nothing beyond testing.", ""] if untrained else []),
        "## Labels", "", *(counts or ["No labels."]), "",
        "## Use", "", "```", "pip install twofold", "twofold cache pull URL-OF-THIS-PLACE store",
        "twofold cache verify store", "twofold fuse store", "```", "",
        "## Licence and privacy", "",
        "The licences of the images and of every backbone bind what is made with these features. Embeddings can "
        "identify people: treat them as personal data.",
    ]
