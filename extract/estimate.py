"""How long a planned extraction will take: a few of its faces are computed, into a store that is thrown away."""

import tempfile
from dataclasses import replace
from pathlib import Path

from twofold.extract.assignment import Assignment
from twofold.extract.engine.processes import carry_out
from twofold.extract.streams import Encoders

TRIES = 2  #: the first one also pays for what a process does only once


def estimate(assignment: Assignment, encoders: Encoders) -> float:
    """Seconds on this machine for all rows of it; 0 if there are none, or no face tried can be encoded."""
    rows = sum(len(file.rows) for file in assignment.files)
    count = max((encoders.load(file.source).batch_size for file in assignment.files), default=0)
    first = [replace(file, rows=file.rows[:count]) for file in assignment.files]
    seconds = 0.0
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        for _ in range(TRIES):
            tally = carry_out(replace(assignment, files=first, store=Path(folder)), encoders, progress=False)
            computed = sum(tally.rows.values())
            seconds = tally.seconds.wall * rows / computed if computed else 0.0
    return seconds
