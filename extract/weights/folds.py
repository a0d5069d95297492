"""The files of encoders that were fine-tuned one a fold."""

import re
from pathlib import Path

from twofold.data.utils.errors import InputError


def fold_path(out: Path, fold: int, folds: int) -> Path:
    """Where the encoder of a fold is written, counted from 1 in the name. out: what `finetune --out` names."""
    return out.parent / f"{out.stem}.fold{fold + 1}of{folds}.safetensors"


def fold_paths(out: Path) -> list[Path]:
    """The encoders of every fold that `finetune --folds --out` wrote, in order; none where there are no folds of it.

    Raises InputError where a fold is missing, or where there are several sets of folds.
    """
    pattern = re.compile(re.escape(out.stem) + r"\.fold\d+of(\d+)\.safetensors")
    names = [path.name for path in out.parent.iterdir()] if out.parent.is_dir() else []
    counts = sorted({int(match[1]) for match in map(pattern.fullmatch, names) if match})
    if len(counts) > 1:
        raise InputError(f"{out}: there are encoders of {' and of '.join(map(str, counts))} folds: name their files")
    paths = [fold_path(out, fold, folds) for folds in counts for fold in range(folds)]
    missing = [path.name for path in paths if path.name not in names]
    if missing:
        raise InputError(f"{out}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: fine-tune "
                         "every fold first, or name the files that are there")
    return paths
