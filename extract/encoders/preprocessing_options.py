"""`NAME?size=112&mean=0.5`: what a person says of a backbone's preprocessing, instead of what it brings itself."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.preprocessing import INTERPOLATIONS, RULES, Preprocessing

OPTIONS = ("size", "resize", "rule", "interpolation", "mean", "std", "scale")
LARGEST_SIDE = 4096  #: pixels


def split_name(text: str, *, further: Sequence[str] = ()) -> tuple[str, dict[str, str]]:
    """`NAME?key=value&...` as the name and its options, in the order of OPTIONS and `further`.

    Raises InputError for an option that there is not, that says nothing, or that stands there twice.
    """
    name, _, query = text.partition("?")
    triples = [pair.partition("=") for pair in query.split("&") if pair]
    options = {key: value for key, _, value in triples}
    names = (*OPTIONS, *further)
    for key, value in options.items():
        if key not in names or not value:
            raise InputError(f"unknown option {key!r} of {name}: choose from {', '.join(names)}, as ?size=112")
    if len(options) != len(triples):
        raise InputError(f"an option of {name} is given twice: {query}")
    return name, {key: options[key] for key in names if key in options}


def joined(name: str, options: Mapping[str, str]) -> str:
    """What `split_name` splits, its options always in the same order."""
    return f"{name}?{'&'.join(f'{key}={value}' for key, value in options.items())}" if options else name


def with_options(how: Preprocessing, options: Mapping[str, str], *, name: str) -> Preprocessing:
    """`how`, but for what the options say. A size without `resize` is resized to directly, and nothing is cut off.

    Raises InputError for a value that cannot be, naming the backbone `name`.
    """
    size = _side(name, "size", options["size"]) if "size" in options else how.size
    resize = size if "size" in options else how.resize
    return replace(
        how, size=size, resize=_side(name, "resize", options["resize"]) if "resize" in options else resize,
        rule=_choice(name, "rule", options.get("rule", how.rule), RULES),
        interpolation=_choice(name, "interpolation", options.get("interpolation", how.interpolation), INTERPOLATIONS),
        mean=colour(name, "mean", options["mean"]) if "mean" in options else how.mean,
        std=colour(name, "std", options["std"]) if "std" in options else how.std,
        scale=_numbers(name, "scale", options["scale"], 1)[0] if "scale" in options else how.scale,
    )


def colour(name: str, key: str, text: str) -> tuple[float, float, float]:
    """Three numbers with commas, slashes or blanks between; one stands for all. Raises InputError."""
    red, green, blue = _numbers(name, key, text, 3)
    return red, green, blue


def _numbers(name: str, key: str, text: str, count: int) -> list[float]:
    try:
        values = [float(part) for part in re.split(r"[,/;\s]+", text.strip(" []()"))]
    except ValueError:
        values = []
    usable = all(abs(value) < float("inf") and (key == "mean" or value > 0) for value in values)
    if len(values) not in (1, count) or not usable:
        raise InputError(f"option {key}={text} of {name} is not {count} {'number' if count == 1 else 'numbers'}"
                         f"{'' if key == 'mean' else ' above 0'}")
    return values if len(values) == count else values * count


def _side(name: str, key: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= LARGEST_SIDE and len(text) < 9):
        raise InputError(f"option {key}={text} of {name} is not a side of 1 to {LARGEST_SIDE} pixels")
    return int(text)


def _choice(name: str, key: str, text: str, choices: Sequence[str] | Mapping[str, object]) -> str:
    if text not in choices:
        raise InputError(f"option {key}={text} of {name}: choose from {', '.join(choices)}")
    return text
