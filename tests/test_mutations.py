"""Every deliberate bug of `tests.mutations` still fits the source, and names tests that exist."""

from pathlib import Path

import pytest

from tests.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.bug)
def test_a_mutation_fits_the_source(mutation: Mutation):
    content = (ROOT / "fuse" / mutation.file).read_text(encoding="utf-8")
    assert content.count(mutation.old) == 1 and mutation.old != mutation.new
    assert all((ROOT / "tests/fuse" / f"test_{name}.py").is_file() for name in mutation.tests.split())


def test_there_are_enough():
    assert len({mutation.old for mutation in MUTATIONS}) == len(MUTATIONS) >= 30
