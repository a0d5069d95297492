"""What the command line itself does: printing what strangers sent, exit codes, speed of the first answer."""

import json
import logging
import tomllib

import pytest
from typer.testing import CliRunner

from tests.conftest import ROOT
from twofold import pipeline
from twofold.cache.errors import CacheError
from twofold.data.utils.terminal import PrintableFormatter


class Spoken:
    def text(self) -> str:
        return "name \x1b]0;owned\x07\x1b[31m \u202egnp.exe\tkept\nnext " + "a" * 100_000

    def record(self) -> dict:
        return {"name": "\x1b[31m"}


class Partly(Spoken):
    exit_code = 1


def broken() -> Spoken:
    raise CacheError("store \x1b[2J: " + "b" * 100_000)


@pytest.mark.parametrize(("verb", "words", "code", "stream", "starts"), [
    (Spoken, [], 0, "out", "name \\x1b]0;owned"), (Partly, [], 1, "out", "name "),
    (broken, [], 2, "err", "store \\x1b[2J")])
def test_what_reaches_the_terminal_is_printable(verb, words, code, stream, starts, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "app", lambda words, standalone_mode: verb())
    assert pipeline.main(words) == code
    text = getattr(capsys.readouterr(), stream)
    assert text.startswith(starts) and not set(text) & set("\x1b\x07\u202e")
    assert max(map(len, text.splitlines())) < 2_100 and ("\tkept\n" in text) == (stream == "out")


def test_json_stays_json_and_what_is_logged_is_printable(monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "app", lambda words, standalone_mode: Spoken())
    assert pipeline.main(["--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == {"name": "\x1b[31m"} and "\x1b" not in out
    record = logging.LogRecord("twofold", logging.INFO, "", 0, "left aside: %s", ("\x1b[31m\x9b2J",), None)
    assert PrintableFormatter().format(record) == "left aside: \\x1b[31m\\x9b2J"


def test_every_verb_that_returns_a_report_takes_json_and_the_demo_does_not():
    from typer.main import get_command

    from twofold.data.cli import reader_command
    from twofold.data.readers import reader_help

    def options(group, path=()):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from options(command, (*path, name))
            else:
                yield " ".join((*path, name)), {text for option in command.params for text in option.opts}

    app = get_command(pipeline.app)
    readers = {name: reader_command(name, text) for name, text in reader_help().items()}
    app.commands["manifest"].commands.update(readers)
    verbs = dict(options(app))
    assert len(verbs) > 35 and {name for name, texts in verbs.items() if "--json" not in texts} == {"demo"}


def test_a_log_that_is_not_utf_8(tmp_path, pipeline):
    """SLURM's logs, and PYTHONIOENCODING=ascii: what a log cannot hold is escaped."""
    (tmp_path / "Zoë✓.csv").write_text("key,basic\na✓.png,fear\n", encoding="utf-8")
    done = pipeline("manifest", "csv", tmp_path / "Zoë✓.csv", "-o", tmp_path / "é✓.csv", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "\\u2713.csv" in done.stdout, done.stderr
    done = pipeline("manifest", "csv", tmp_path / "none✓.csv", "-o", tmp_path / "x.csv", PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "\\u2713" in done.stderr


def test_the_version_is_that_of_the_package():
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert CliRunner().invoke(pipeline.app, ["--version"]).stdout == f"twofold {version}\n"
