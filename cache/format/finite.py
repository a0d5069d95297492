"""Are all of these features numbers."""

import numpy as np

_EXPONENT = 0x7C00  #: the bits of a half that are all set in an infinity and in a NaN, and in nothing else


def first_not_finite(rows: np.ndarray) -> int | None:
    """The first of the rows (N, D) with an infinity or a NaN; None if there is none."""
    if rows.dtype == np.float16 and rows.size and (rows.view(np.uint16) & 0x7FFF).max() < _EXPONENT:
        return None  # asked by their bits: numpy would convert each half, which takes ten times as long
    finite = np.isfinite(rows).all(axis=1)
    return None if finite.all() else int(finite.argmin())
