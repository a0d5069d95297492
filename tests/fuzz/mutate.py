"""Small random changes to bytes and to JSON, for the suite and beside what a fuzzer does by itself."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

NASTY = (None, True, False, -1, 0, 1, 2, 10**30, -(10**30), 1e400, float("nan"), 1e-300, "", "a", "\x1b[31m",
         "a" * 5_000, [], {}, [[]], ["a"], [1, 2], {"a": 1}, 65_537, 2**31, 2**63, "\ud800", "../../x", [None], 0.5)
BYTES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\0\0\0\0", b"9" * 30, b",", b'"', b"\n", b"'", b"=",
         b"\x1b[2J")


def mutated(data: bytes, dice: random.Random) -> bytes:
    """One to four changes: bits turned, pieces cut out, doubled, moved or put in."""
    content = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        start = dice.randrange(len(content) + 1)
        end = min(len(content), start + dice.choice((1, 1, 2, 4, 8, 64)))
        kind = dice.randrange(5)
        if kind == 0 and start < len(content):
            content[start] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del content[start:end]
        elif kind == 2:
            content[start:start] = content[start:end]
        elif kind == 3:
            content[start:end] = dice.choice(BYTES)
        else:
            content[start:end] = dice.randbytes(end - start)
    return bytes(content)


def mutated_json(data: bytes, dice: random.Random) -> bytes:
    """One to three values exchanged, taken out or renamed; plain bytes where it is no JSON."""
    try:
        tree = json.loads(data)
        list(_places(tree))
    except (ValueError, RecursionError):  # no JSON, or nested beyond what can be walked
        return mutated(data, dice)
    for _ in range(dice.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            break
        holder, key = dice.choice(places)
        kind = dice.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[dice.choice(("", "a", "__class__", "é" * 50))] = holder.pop(key)
        elif kind == 2:
            other, place = dice.choice(places)
            holder[key] = json.loads(json.dumps(other[place]))
        else:
            holder[key] = copy.deepcopy(dice.choice(NASTY))  # a list that stood twice could contain itself
    return json.dumps(tree).encode()


def _places(tree: object) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value in a tree."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(children):
        yield tree, key
        yield from _places(value)
