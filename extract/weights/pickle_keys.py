"""How many keys of dictionaries and sets in a pickle are tuples and the like, known before the pickle is read.

Python's hash of a tuple of numbers can be chosen to collide (that of a text cannot: it is seeded), and a dictionary of
n such keys takes n^2 comparisons. A checkpoint names its entries by texts and numbers.
"""

import pickletools
from typing import Any

MOST_KEYS = 2_000  #: that are neither texts nor numbers
UNSAFE = ("TUPLE", "FROZENSET", "REDUCE", "NEWOBJ", "INST", "OBJ", "PERSID", "BINPERSID", "EXT")


class KeyCounter:
    """Follows a pickle's stack, an opcode at a time; of each value only whether its hash may be chosen.

    Raises IndexError for a pickle that takes more from its stack than is there.
    """

    def __init__(self) -> None:
        self.count = 0
        self.stack: list[bool] = []
        self.marks: list[int] = []
        self.memo: dict[int, bool] = {}

    def step(self, opcode: Any, argument: Any) -> None:
        name = opcode.name
        if name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo.get(argument, False))
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        elif name == "POP" and self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._change(opcode)

    def _change(self, opcode: Any) -> None:
        taken = self._taken(opcode.stack_before)
        if opcode.name in ("DICT", "SETITEM", "SETITEMS"):
            self.count += sum(taken[0::2])
        elif opcode.name in ("ADDITEMS", "FROZENSET"):
            self.count += sum(taken)
        self.stack += [opcode.name.startswith(UNSAFE)] * len(opcode.stack_after)

    def _taken(self, before: list[Any]) -> list[bool]:
        """Take from the stack what an opcode takes; what stands above its mark, or above its container."""
        if pickletools.stackslice in before:
            start = self.marks.pop()
            taken = self.stack[start:]
            del self.stack[start:]
            before = before[:before.index(pickletools.markobject)]
        else:
            taken = self.stack[-2:]
        for _ in before:
            self.stack.pop()
        return taken


def unsafe_keys(values: Any) -> int:
    """How many of these values, as they are handed to `set` or as the keys of pairs, are neither texts nor numbers."""
    return sum(not isinstance(value, str | bytes | int | float) for value in values)
