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

from twofold.data.utils.errors import InputError, plain_number

T = TypeVar("T")
cli_option, cli_argument = typer.Option, typer.Argument  #: for functions that become verbs, where typer is not imported
NEEDED = {int: "a whole number", float: "a number", bool: "True or False", str: "a name, or a list of names",
          tuple: "a list of names"}  #: what a setting of a type has to be
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

    @property
    def bounds(self) -> str:
        """The allowed range in words."""
        words = [("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below)]
        return " and ".join(f"{word} {plain_number(value)}" for word, value in words if math.isfinite(value))


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
        value, about, advice = getattr(settings, each.name), option_of(each), ""
        if about.choices and value not in about.choices:
            advice = f"choose from {', '.join(about.choices)}"
        elif isinstance(value, float) and not math.isfinite(value):
            advice = "it must be a finite number"
        elif isinstance(value, int | float) and not (
                about.least <= value <= about.most and about.above < value < about.below):
            advice = f"it must be {about.bounds}"
        if advice:
            raise InputError(f"{option_name(each.name)} {value!r}: {advice}")


def settings_from_record(kind: type[T], record: object) -> T:
    """Settings of a plain record; what it does not name has its default. Raises InputError naming what is unknown,
    of the wrong type or not allowed; numbers of numpy, paths, and one name for a list or a list for one are taken."""
    if not isinstance(record, dict):
        raise InputError("the settings are no table of names and values")
    types = {each.name: type(each.default) for each in fields(kind)}  # type: ignore[arg-type]
    values = {}
    for name, value in record.items():
        wanted = types.get(name)
        if wanted is None:
            raise InputError(f"unknown setting {str(name)[:80]!r}: choose from {', '.join(types)}")
        value = value.tolist() if hasattr(value, "tolist") else value  # of numpy
        names = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        if wanted is tuple and (names or isinstance(value, str)):
            value = tuple(split_names(value) if isinstance(value, str) else value)
        elif wanted is str and names:
            value = ",".join(value)
        elif wanted is str and (isinstance(value, Path) or type(value).__name__ == "device"):  # torch's
            value = str(value)
        elif wanted is int and type(value) is float and value.is_integer():
            value = int(value)
        elif wanted is float and type(value) is int and abs(value) <= MAX_FLOAT:
            value = float(value)
        if type(value) is not wanted or (isinstance(value, float) and abs(value) > MAX_FLOAT):
            raise InputError(f"setting {name!r} is {str(value)[:80]!r}: give {NEEDED[wanted]}")
        values[name] = value
    return kind(**values)


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
    options = []
    for each in fields(kind):
        about, default, wanted = option_of(each), each.default, type(each.default)
        many = wanted is tuple
        usual = ",".join(default) if isinstance(default, tuple) else default
        facts = "; ".join(filter(None, [
            ", ".join(about.choices), "comma-separated" if many else about.bounds,
            f"default {usual}" if usual != "" else ""]))
        flag = option_name(each.name)
        declared = typer.Option(
            *([f"--{flag}/--no-{flag}"] if wanted is bool else []), rich_help_panel=about.panel, show_default=False,
            help=about.help.removesuffix(".") + (f" ({facts})" if facts else "") + ".",
            parser=split_names if many else None, metavar="NAMES" if many else None)
        options.append(inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=None,
                                         annotation=Annotated[wanted | None, declared]))

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


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The table in a TOML file. what: it should be, such as "settings of a sweep", for messages.

    Raises InputError for a file that is not there, too large, not TOML, or nested beyond reason.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
        if len(data) > MAX_TOML_BYTES:
            raise ValueError(f"too large (more than {MAX_TOML_BYTES >> 10} KB)")
        if LONG_CHAIN.search(text):
            raise RecursionError
        return tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (a TOML of {what})") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deep for {what}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a TOML of {what}: {error}") from None
