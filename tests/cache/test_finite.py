import numpy as np
import pytest

from twofold.cache.format.finite import first_not_finite


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_only_infinities_and_nans_are_no_numbers(dtype):
    everything = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(dtype)  # all halves there are
    for row, value in enumerate(everything):
        expected = None if np.isfinite(value) else 0
        if first_not_finite(np.full((1, 1), value)) != expected:
            pytest.fail(f"half number {row:#06x}: {value}")


def test_the_first_row_counts():
    rows = np.zeros((5, 3), np.float16)
    assert first_not_finite(rows) is None
    rows[2, 1], rows[4, 0] = -np.inf, np.nan
    assert first_not_finite(rows) == 2
    assert first_not_finite(rows[:0]) is None
    assert first_not_finite(rows[:, ::2]) == 4
