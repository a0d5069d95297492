"""Where the weights of a backbone are."""

from pathlib import Path

from data.errors import InputError


def find_weights(name: str, *, weights: str | None, folder: Path) -> Path:
    """The weights file of a backbone. Raises InputError that says what to fetch, from where, and where to put it."""
    if weights is None:
        raise InputError(f"no weights for {name}: give --weights {name}=PATH")
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"weights of {name}: {path} is not a file")
    return path
