"""The one place where text goes out to a person: what strangers wrote is made printable, errors become sentences."""

import errno
import inspect
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from twofold.data.utils.options import with_signature

MOST_LETTERS = 2_000  #: of a line
#: control characters (C0 but tab and line end, DEL, C1), marks that change the direction of writing, lone surrogates
UNPRINTABLE = re.compile("[\0-\b\v-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Summary:
    """What a verb prints: lines of text, or the same as JSON."""

    lines: Sequence[str]
    values: Any
    exit_code: int = 0

    def text(self) -> str:
        return "\n".join(self.lines)

    def record(self) -> Any:
        return self.values


def add_json_option(app: typer.Typer) -> None:
    """Give each verb of a Typer app the option `--json`, which `run_verb` looks for."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = with_json_option(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_json_option(group.typer_instance)


def with_json_option(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb with the option `--json`; one that returns only an exit code prints as it runs, and stays as it is."""
    signature = inspect.signature(verb, eval_str=True)
    if signature.return_annotation is int:
        return verb
    parameter = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[
        bool, typer.Option("--json", help="Print machine-readable JSON instead of text.")])

    def run(*, as_json: bool, **values: Any) -> Any:
        return verb(**values)

    return with_signature(verb, run, [*signature.parameters.values(), parameter])


def run_verb(app: Callable[..., Any], words: list[str]) -> int:
    """Run a command line; returns the exit code.

    A verb returns its report, which is printed here: as text, or as JSON where `--json` stands among the words. What
    our packages log on the way (weights left aside, a download) goes to stderr; libraries only warn.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a log may be ASCII, a name is not
            stream.reconfigure(errors="backslashreplace")
    handler, logger = logging.StreamHandler(sys.stderr), logging.getLogger("twofold")
    handler.setFormatter(PrintableFormatter())
    if not any(isinstance(other.formatter, PrintableFormatter) for other in logger.handlers):
        logger.addHandler(handler)  # else one verb calls another, as `demo` does
        logger.setLevel(logging.INFO)
    try:
        report = app(words, standalone_mode=False)
        if report is None or isinstance(report, int):  # --help
            return report or 0
        print(json.dumps(report.record(), indent=2) if "--json" in words else printable(report.text()), flush=True)
        return getattr(report, "exit_code", 0)
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        explanation = explain_error(error)
        if explanation is None:
            raise
        print(printable(explanation[0]), file=sys.stderr)
        return explanation[1]
    finally:
        logger.removeHandler(handler)


def printable(text: str) -> str:
    """Text of strangers as a terminal can bear it: no control characters but tabs and line ends, no endless lines."""
    text = UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    return "\n".join(line if len(line) <= MOST_LETTERS else f"{line[:MOST_LETTERS]}... ({len(line):,} letters)"
                     for line in text.split("\n"))


class PrintableFormatter(logging.Formatter):
    """A note as a terminal can bear it."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def explain_error(error: Exception) -> tuple[str, int] | None:
    """One sentence and the exit code for an error that a person can mend; None for a defect of ours.

    Our own errors carry their `exit_code`.
    """
    if isinstance(code := getattr(error, "exit_code", None), int) and isinstance(error, ValueError):
        return str(error), code
    if callable(message := getattr(error, "format_message", None)):  # Typer's own: a wrong option, a missing argument
        return str(message()), 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk is full ({error.strerror}): make space and run the same command again; nothing is lost", 1
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}", 2
    return None
