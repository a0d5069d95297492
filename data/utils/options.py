"""Settings declared once: a frozen dataclass whose fields carry help and bounds; options, TOML keys, checks follow.

    class Settings:
        epochs: int = option(12, "Training", "Passes over the training samples.", least=1)

        def __post_init__(self) -> None:
            check(self)
"""

import inspect
import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import Field, asdict, dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from twofold.data.utils.errors import InputError

T = TypeVar("T")
cli_option = typer.Option  #: for functions that become verbs, in packages that do not import typer
MAX_FLOAT = 1e300  #: more is a slip of the finger, or a hostile file
MAX_TOML_BYTES = 1 << 18
LONG_CHAIN = re.compile(r"""(?:[\w"'-]+\s*\.\s*){33}""")  #: a.a.a...: reading it takes the square of its length


@dataclass(frozen=True)
class Option:
    """What there is to say about a setting besides its name, type and default. above, below: not reached."""

    panel: str | None = None  #: of `--help`
    help: str = ""
    choices: tuple[str, ...] = ()
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def advice(self, value: object) -> str:
        """What to do about a value that is not allowed; empty if it is."""
        if self.choices:
            return "" if value in self.choices else f"choose from {', '.join(self.choices)}"
        if not isinstance(value, int | float) or (self.least <= value <= self.most and self.above < value < self.below):
            return ""
        return f"it must be {self.bounds or 'a finite number'}"

    @property
    def bounds(self) -> str:
        """The allowed range in words."""
        words = [("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below)]
        return " and ".join(f"{word} {value:g}" for word, value in words if math.isfinite(value))


def option(default: Any, *about: Any, **bounds: Any) -> Any:
    """A field of settings with this default; the rest is as of `Option`."""
    return field(default=default, metadata={"option": Option(*about, **bounds)})


def option_of(setting: Field) -> Option:
    """What was declared about a field of settings."""
    return setting.metadata["option"]


def option_name(name: str) -> str:
    """A setting as the command line spells it."""
    return name.replace("_", "-")


def choices_of(kind: type, name: str) -> tuple[str, ...]:
    """The values that a setting may have."""
    return next(option_of(each).choices for each in fields(kind) if each.name == name)


def check(settings: Any) -> None:
    """Raises InputError for the first setting that is not allowed."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{option_name(each.name)} {value!r}: it must be a finite number")
        if advice := option_of(each).advice(value):
            raise InputError(f"{option_name(each.name)} {value!r}: {advice}")


def settings_from_record(kind: type[T], record: object) -> T:
    """Settings of a plain record; what it does not name has its default. Raises InputError naming what is unknown,
    of the wrong type or not allowed."""
    if not isinstance(record, dict):
        raise InputError("the settings are no table of names and values")
    types = {each.name: type(each.default) for each in fields(kind)}  # type: ignore[arg-type]
    unknown = [str(name)[:80] for name in record if name not in types]
    if unknown:
        raise InputError(f"unknown setting {unknown[0]!r}: choose from {', '.join(types)}")
    return kind(**{name: _converted(name, value, types[name]) for name, value in record.items()})


def _converted(name: str, value: object, kind: type) -> object:
    if kind is tuple and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) > MAX_FLOAT:
            raise InputError(f"setting {name!r}: the number is too large")
        return float(value)
    if type(value) is kind:
        return value
    needed = "a list of names" if kind is tuple else kind.__name__
    raise InputError(f"setting {name!r} is {str(value)[:80]!r}: {needed} is needed")


def resolve(
    kind: type[T], presets: dict[str, dict[str, Any]], *, preset: str, config: dict | None = None,
    changes: dict | None = None,
) -> T:
    """Settings of a preset, over it those of `config`, over both the `changes` that are not None. Raises InputError."""
    if preset not in presets:
        raise InputError(f"unknown preset {preset!r}: choose from {', '.join(presets)}")
    options = {name: value for name, value in (changes or {}).items() if value is not None}
    return settings_from_record(kind, presets[preset] | (config or {}) | options)


def settings_record(settings: Any) -> dict[str, Any]:
    """Settings as JSON holds them; `settings_from_record` reads them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


def split_names(text: str) -> list[str]:
    """Names between commas, in order, without blanks; the commas of `onnx:PATH?mean=0.5,0.5,0.5` part no names."""
    names: list[str] = []
    for piece in filter(None, map(str.strip, text.split(","))):
        if names and "?" in names[-1] and piece[0] in "-.0123456789":
            names[-1] += f",{piece}"
        else:
            names.append(piece)
    return names


def with_options(kind: type) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """A decorator of a verb: an option for each setting of a kind; all reach the verb as the dict `changes`, None where
    an option was not used."""
    options = [_parameter(each) for each in fields(kind)]

    def decorate(verb: Callable[..., T]) -> Callable[..., T]:
        def run(**values: Any) -> T:
            changes = {each.name: values.pop(each.name) for each in options}
            return verb(**values, changes=changes)

        own = [each for each in inspect.signature(verb, eval_str=True).parameters.values() if each.name != "changes"]
        return with_signature(verb, run, [*own, *options])

    return decorate


def with_signature(verb: Callable[..., T], run: Callable[..., T], parameters: list[inspect.Parameter]
                   ) -> Callable[..., T]:
    """`run` with the name and help of `verb`, and with these parameters for Typer to read."""
    run = wraps(verb)(run)
    run.__signature__ = inspect.signature(verb, eval_str=True).replace(  # type: ignore[attr-defined]
        parameters=parameters)
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _parameter(setting: Field) -> inspect.Parameter:
    about, default, kind = option_of(setting), setting.default, type(setting.default)
    usual = ",".join(default) if isinstance(default, tuple) else default
    facts = "; ".join(filter(None, [
        ", ".join(about.choices), "comma-separated" if kind is tuple else about.bounds,
        f"default {usual}" if usual != "" else ""]))
    flag = option_name(setting.name)
    declared = typer.Option(*([f"--{flag}/--no-{flag}"] if kind is bool else []),
                            help=about.help.removesuffix(".") + (f" ({facts})" if facts else "") + ".",
                            rich_help_panel=about.panel, show_default=False,
                            parser=split_names if kind is tuple else None,
                            metavar="NAMES" if kind is tuple else None)
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None,
                             annotation=Annotated[kind | None, declared])


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The table in a TOML file. what: it should be, such as "settings of a sweep", for messages.

    Raises InputError for a file that is not there, too large, not TOML, or nested beyond reason.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
        if len(data) > MAX_TOML_BYTES:
            raise InputError(f"{path}: too large for {what} (more than {MAX_TOML_BYTES >> 10} KB)")
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
