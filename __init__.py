"""Compound facial expressions from cached features."""

from typing import Any, Protocol

from twofold.data.machine import spin_briefly

spin_briefly()  # before anything imports torch, in every entry and every worker process


class Report(Protocol):
    """What a verb returns and the command line prints: for a person, for a program, and how it went.

    A report may have `exit_code` too: 1 where the verb ran and some of its work failed.
    """

    def text(self) -> str: ...

    def record(self) -> dict[str, Any]: ...
