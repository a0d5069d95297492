"""One module per dataset; the verb `manifest NAME` follows from it.

Its help is the first paragraph of the module's docstring. `READER` is the function from a root to its manifest: the
verb's options are its annotated keyword arguments.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twofold.data.manifest import Manifest


def reader_help() -> dict[str, str]:
    """Every reader by name with its help, the first paragraph of its module's docstring; none is imported for it."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))}
    return {name: text.split('"""')[1].partition("\n\n")[0].replace("\n", " ") for name, text in texts.items()
            if name not in ("__init__", "common")}


def load_reader(name: str) -> "Callable[..., Manifest]":
    """The reader of a dataset."""
    return importlib.import_module(f"twofold.data.readers.{name}").READER
