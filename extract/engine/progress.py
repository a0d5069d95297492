"""The progress of a run on stderr."""

import sys

from tqdm import tqdm

LOG_SECONDS = 30  #: between progress lines where stderr is not a terminal


def progress_bar(total: int, *, shown: bool, doing: str = "extract", unit: str = "face", initial: int = 0) -> tqdm:
    pace = 0.5 if sys.stderr.isatty() else LOG_SECONDS  # a log of a night's run should stay readable
    return tqdm(total=total, initial=initial, unit=unit, desc=doing, dynamic_ncols=True, mininterval=pace,
                maxinterval=2 * pace, disable=not shown)
