"""TOML from strangers: one sentence, at once, whatever is in it."""

import pytest

from twofold.data.utils.errors import InputError
from twofold.data.utils.options import read_toml


@pytest.mark.parametrize(("text", "sentence"), [
    (".".join("a" * 100_000) + " = 1", "nested too deep"),
    ("x = {" + ".".join("a" * 100_000) + " = 1}", "nested too deep"),
    ("[" + " . ".join(["'a'"] * 20_000) + "]", "nested too deep"),
    ("x = " + "[" * 100_000, "nested too deep|not a TOML"),
    ("x = " + "{a=" * 50_000, "nested too deep|not a TOML"),
    ("x = 1\n" * 2, "not a TOML of settings"),
    ("#" * 300_000, "too large"),
    ("x = 1979-99-99", "not a TOML of settings"),
])
def test_hostile_files_are_one_sentence(tmp_path, text, sentence):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match=sentence) as caught:
        read_toml(tmp_path / "a.toml", "settings")
    assert len(str(caught.value)) < 500


def test_what_is_no_text_and_what_is_not_there(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a TOML of settings"):
        read_toml(tmp_path / "a.toml", "settings")
    with pytest.raises(InputError, match="no such file"):
        read_toml(tmp_path / "b.toml", "settings")


def test_a_plain_file_is_read_with_its_byte_order_mark(tmp_path):
    (tmp_path / "a.toml").write_bytes(b'\xef\xbb\xbfx = 1\r\n[pairs]\r\n"a.b" = ["c"]\r\n')
    assert read_toml(tmp_path / "a.toml", "settings") == {"x": 1, "pairs": {"a.b": ["c"]}}
