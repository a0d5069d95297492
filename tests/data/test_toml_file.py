"""TOML from strangers: one sentence, at once, whatever is in it."""

import pytest

from twofold.data.utils.errors import InputError
from twofold.data.utils.options import read_toml

CHAIN = ".".join("a" * 100_000)


@pytest.mark.parametrize(("content", "sentence"), [
    (f"{CHAIN} = 1", "nested too deep"), (f"x = {{{CHAIN} = 1}}", "nested too deep"),
    ("[" + " . ".join(["'a'"] * 20_000) + "]", "nested too deep"),
    ("x = " + "[" * 100_000, "nested too deep|not a TOML"), ("x = " + "{a=" * 50_000, "nested too deep|not a TOML"),
    *((content, "not a TOML of settings") for content in ("x = 1\n" * 2, "x = 1979-99-99", b"\xff\xfe\0")),
    ("#" * 300_000, "too large"), (None, "no such file")])
def test_hostile_files_are_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=sentence) as caught:
        read_toml(path, "settings")
    assert len(str(caught.value)) < 500


def test_a_plain_file_is_read_with_its_byte_order_mark(tmp_path):
    (tmp_path / "a.toml").write_bytes(b'\xef\xbb\xbfx = 1\r\n[pairs]\r\n"a.b" = ["c"]\r\n')
    assert read_toml(tmp_path / "a.toml", "settings") == {"x": 1, "pairs": {"a.b": ["c"]}}
