"""The card of a store: a page that the Hugging Face hub shows, with its files, labels and how to fetch it."""

import html
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from twofold.cache.errors import CacheError
from twofold.cache.report import listing
from twofold.cache.store import Store
from twofold.data.utils.csv_files import read_table
from twofold.data.utils.terminal import Summary

CARD = "README.md"
MARK = "twofold-store"  #: the tag of our cards
LABELS = ("split", "basic", "compound")
#: what Markdown and the hub's extensions of it (tables, bare links) take for markup, but not `sadly_angry` or ` * `
MARKUP = re.compile(r"[\\`\[\]|~@!]|(?<!\w)_|_(?!\w)|(?<!\s)\*|\*(?!\s)|^[#+-]")
MAX_LABELS = 50
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 1 << 62: "n>1M"}


def card_page(path: Path) -> tuple[str, Summary]:
    """The page of a store. Raises CacheError for one without readable feature files, InputError for its manifest."""
    store = Store(path)
    files, name = listing(path).values["files"], store.path.resolve().name
    if not files:
        raise CacheError(f"{path}: no feature files to describe")
    table = read_table(store.manifest_path) if store.manifest_path.exists() else {"key": []}
    samples, counts = len(table["key"]), []
    for column in (column for column in LABELS if column in table):
        labels = Counter(label or "(none)" for label in table[column])
        if set(labels) != {"(none)"}:
            most = ", ".join(f"{escape(label)} {count:,}" for label, count in labels.most_common(MAX_LABELS))
            counts.append(f"* {column}: {most}" + (", ..." if len(labels) > MAX_LABELS else ""))
    metadata = {
        "license": "other", "license_name": "of-its-faces-and-encoders", "pretty_name": name,
        "size_categories": [next(size for most, size in SIZES.items() if samples < most)],
        "task_categories": ["image-classification"], "tags": [MARK, "facial-expression-recognition", "features"]}
    untrained = {file["file"]: " * UNTRAINED" if file["weights"].startswith("random:") else "" for file in files}
    page = [
        "---", *(f"{field}: {json.dumps(value)}" for field, value in metadata.items()), "---", "",  # JSON is YAML too
        f"# {escape(name)}: cached features of {samples:,} samples", "",
        "Embeddings of face crops by pretrained backbones, for training small heads; no images. Each file records in "
        "its attributes how it was made, and carries checksums.", "",
        *markdown_table(("backbone", "view", "samples", "failed", "dim", "computed", "weights", "file"), [
            (file["backbone"] + untrained[file["file"]], file["view"], f"{file['rows']:,}", str(file["failed"]),
             str(file["dim"]), file["precision"], file["weights"][:23], file["file"]) for file in files]), "",
        *(["Untrained weights (`random:`) mean nothing beyond testing.", ""] if any(untrained.values()) else []),
        "## Labels", "", *(counts or ["No labels."]), "",
        "## Use", "", "```", "pip install twofold", "twofold cache pull URL-OF-THIS-PLACE store",
        "twofold cache verify store", "twofold fuse store", "```", "",
        "## Licence and privacy", "",
        "The licences of the images and of every backbone bind what is made with these features. Embeddings can "
        "identify people: treat them as personal data.", ""]
    return "\n".join(page), Summary(
        values={"card": str(store.path / CARD), "files": len(files), "samples": samples},
        lines=[f"{store.path / CARD}: {len(files)} feature files of {samples:,} samples; `cache push` sends it along"])


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
