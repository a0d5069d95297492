"""TOML that somebody else may have written: small and flat, or refused."""

import re
import tomllib
from pathlib import Path
from typing import Any

from twofold.data.errors import InputError

MOST_BYTES = 1 << 18
LONG_CHAIN = re.compile(r"""(?:[\w"'-]+\s*\.\s*){33}""")  #: a.a.a...: what is read grows with the square of its length


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The table in a file. what: it should be, such as "settings of a sweep", for messages.

    Raises InputError for a file that is not there, too large, not TOML, or nested beyond reason.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise InputError(f"{path}: too large for {what} (more than {MOST_BYTES >> 10} KB)")
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
        if LONG_CHAIN.search(text):
            raise InputError(f"{path}: nested too deep for {what}")
        return tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (a TOML of {what})") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deep for {what}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a TOML of {what}: {error}") from None
