"""Settings declared once: a frozen dataclass whose fields carry default, help and bounds; all else follows from them.

    class Settings:
        epochs: int = option(12, help="Passes over the training faces.", least=1)
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Annotated, Any, TypeVar, get_type_hints

from twofold.data.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Option:
    """What one setting may be. least: smallest value allowed; above, below: bounds that are not reached."""

    help: str
    least: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()

    def fault(self, value: Any) -> str:
        """Why `value` is not allowed, or an empty text."""
        if self.choices and value not in self.choices:
            return f"choose from {', '.join(self.choices)}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.least is not None and not value >= self.least:
                return f"it must be at least {self.least:g}"
            if self.above is not None and not value > self.above:
                return f"it must be above {self.above:g}"
            if self.below is not None and not value < self.below:
                return f"it must be below {self.below:g}"
        return ""


def option(default: Any, *, help: str, least: float | None = None, above: float | None = None,
           below: float | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field that is also an option of the command line."""
    metadata = {"option": Option(help=help, least=least, above=above, below=below, choices=choices)}
    return field(default=default, metadata=metadata)


def check_bounds(settings: Any) -> None:
    """Raises InputError for the first setting that is not allowed; for a dataclass's `__post_init__`."""
    for name, declared in _options(type(settings)):
        value = getattr(settings, name)
        fault = declared.metadata["option"].fault(value)
        if fault:
            raise InputError(f"{name.replace('_', '-')} {value!r}: {fault}")


def settings_from(kind: type[T], record: Mapping[str, Any]) -> T:
    """Settings of a plain record; what it does not name has its default.

    Raises InputError naming what is unknown, of the wrong type or not allowed.
    """
    declared = dict(_options(kind))
    unknown = [name for name in record if name not in declared]
    if unknown:
        raise InputError(f"unknown setting {unknown[0]!r}: choose from {', '.join(declared)}")
    return kind(**{name: _converted(name, value, type(declared[name].default)) for name, value in record.items()})


def _converted(name: str, value: Any, kind: type) -> Any:
    if kind is tuple and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    needed = "a list of names" if kind is tuple else kind.__name__
    raise InputError(f"setting {name!r} is {value!r}: {needed} is needed")


def parameters(kind: type, declare: Callable[..., Any]) -> list[inspect.Parameter]:
    """Each setting as a parameter of a command-line verb, None where it is not given.

    declare: makes an option of its help (and of names, for flags): `typer.Option`.
    """
    types = get_type_hints(kind)
    annotations = {name: Annotated[types[name] | None, _declared(name, declared, declare)]
                   for name, declared in _options(kind)}
    return [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in annotations.items()]


def _declared(name: str, declared: Field, declare: Callable[..., Any]) -> Any:
    rule: Option = declared.metadata["option"]
    choices = f" ({', '.join(rule.choices)})" if rule.choices else ""
    default = f" [{declared.default}]" if declared.default not in ("", ()) else ""
    flag = name.replace("_", "-")
    flags = [f"--{flag}/--no-{flag}"] if isinstance(declared.default, bool) else []
    return declare(*flags, help=f"{rule.help}{choices}{default}")


def _options(kind: type) -> Iterator[tuple[str, Field]]:
    for declared in fields(kind):
        if "option" in declared.metadata and declared.default is not MISSING:
            yield declared.name, declared
