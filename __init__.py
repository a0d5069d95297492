"""Compound facial expressions from cached features."""

from typing import Any, Protocol


class Report(Protocol):
    """What a verb returns and the command line prints: for a person, for a program, and how it went.

    A report may have `exit_code` too: 1 where the verb ran and some of its work failed.
    """

    def text(self) -> str: ...

    def record(self) -> dict[str, Any]: ...
