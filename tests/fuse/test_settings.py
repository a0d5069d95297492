"""A setting is declared once: the option, the TOML key, the check and the help follow from it."""

import math
from dataclasses import fields

import pytest

from twofold.data.utils.errors import InputError
from twofold.data.utils.options import option_name, option_of, settings_record
from twofold.fuse.core.settings import Settings, read_config, resolve, settings_from


def test_every_setting_is_an_option_with_a_help_that_is_not_clipped(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = cli("fuse", "--help").stdout
    assert "…" not in text
    flat = " ".join(text.replace("│", " ").split())
    for field in fields(Settings):
        about = option_of(field)
        assert f"--{option_name(field.name)}" in text and about.panel in text
        assert " ".join(about.help.removesuffix(".").split()) in flat, field.name
        assert all(choice in flat for choice in about.choices)


def test_a_toml_key_and_an_option_set_the_same(make_store, tmp_path, cli):
    (tmp_path / "a.toml").write_text('epochs = 1\nhidden = 5\nseeds = 1\nbackbones = ["timm:a"]\nlr = 1\n')
    settings = resolve(config=tmp_path / "a.toml")
    assert (settings.hidden, settings.lr, settings.backbones) == (5, 1.0, ("timm:a",))
    done = cli("fuse", make_store(rows=140), "--epochs", 1, "--hidden", 5, "--seeds", 1, "--backbones", "timm:a",
               "--lr", 1, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    written = settings_from(read_config(tmp_path / "run/run.json"))
    assert (written.hidden, written.lr, len(written.backbones)) == (5, 1.0, 1)


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_what_is_out_of_bounds_or_of_another_kind_is_refused_by_name(field):
    about, bad = option_of(field), [None, [1], {}]
    if isinstance(field.default, float):
        bad += ["x", math.nan, math.inf, 10**400, True, about.below, max(about.least, 0.0) - 1]
    if isinstance(field.default, int):
        bad += ["x", 1.5, True, about.least - 1, about.most + 1]
    if about.choices:
        bad.append("no such choice")
    for value in bad:
        with pytest.raises(InputError, match=f"{field.name}|{option_name(field.name)}"):
            settings_from({field.name: value})
    assert settings_from({field.name: settings_record(Settings())[field.name]}) == Settings()


@pytest.mark.parametrize(("given", "message"), [({"folds": 1}, "folds 1"), ({"colour": 1}, "unknown setting 'colour'")])
def test_settings_that_make_no_sense_are_named(given, message):
    with pytest.raises(InputError, match=message):
        resolve(changes=given)
