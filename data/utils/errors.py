"""What a person must mend, and errors as a person reads them."""


class InputError(ValueError):
    """Bad input: one sentence that says what is wrong, with which item, and what to do."""

    exit_code = 2


def plain_number(value: float) -> str:
    """A number as a person writes it: 4294967295, 0.1, not 4.29497e+09."""
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def first_line(error: object, *, most: int = 200) -> str:
    """The first line of a text or of what an error says, or its kind where it says nothing (as `TimeoutError()`)."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
