"""One module per dataset, each with a registry entry `READER` (common.py); the verb `manifest NAME` follows from it.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twofold.data.readers.common import Reader


def reader_help() -> dict[str, str]:
    """Every reader by name with its help, the first paragraph of its module's docstring; none is imported for it."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))}
    return {name: text.split('"""')[1].partition("\n\n")[0].replace("\n", " ") for name, text in texts.items()
            if name not in ("__init__", "common")}


def load_reader(name: str) -> "Reader":
    """The registry entry of a dataset."""
    return importlib.import_module(f"twofold.data.readers.{name}").READER
