"""A Python process of our own that can import twofold, from a plain clone too."""

import sys
from collections.abc import Sequence
from pathlib import Path

START = """
import importlib.util, sys
root = sys.argv.pop(1)
spec = importlib.util.spec_from_file_location("twofold", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["twofold"] = importlib.util.module_from_spec(spec)
"""


def child(code: str, *arguments: object) -> Sequence[str]:
    """The command line of a process that runs `code`, with these arguments from sys.argv[1] on."""
    return [sys.executable, "-c", START + code, str(Path(__file__).resolve().parents[1]), *map(str, arguments)]
