import numpy as np
import pytest

from twofold.data.errors import InputError
from twofold.extract.engine import value_faults
from twofold.extract.plan import parse_shard
from twofold.extract.run import parse_weights


def test_values_that_cannot_be_stored_fail_their_face():
    features = np.array([[1.0, 2.0], [np.nan, 0.0], [1e6, 0.0], [-np.inf, 0.0]], np.float32)
    assert value_faults(features, "float16") == [
        "", "embedding not finite", "embedding out of the range of float16", "embedding not finite"]
    assert value_faults(features, "float32")[2] == ""


def test_shards_partition_the_rows():
    assert parse_shard("") == (0, 1) and parse_shard("2/5") == (2, 5)
    for text in ("5/5", "a/2", "1", "-1/2", "1/0"):
        with pytest.raises(InputError, match="i/n"):
            parse_shard(text)


def test_weights_belong_to_a_backbone():
    assert parse_weights(["a=x=y", "b=hub"], ["a", "b"]) == {"a": "x=y", "b": "hub"}
    for text in ("a", "a=", "c=x"):
        with pytest.raises(InputError):
            parse_weights([text], ["a", "b"])
