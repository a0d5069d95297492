"""Where weights lie that a person has fetched: the one folder that encoders and the face detector are looked for in."""

import os
from collections.abc import Mapping
from pathlib import Path


def weights_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that weights are looked for in: TWOFOLD_WEIGHTS, else `weights/` where the command runs."""
    return Path(environment.get("TWOFOLD_WEIGHTS") or "weights")
