"""What a person must mend."""


class InputError(ValueError):
    """Bad input: one sentence that says what is wrong, with which item, and what to do; exit code 2."""
