"""`bench extract` on real legs; no test says how fast they are."""

import json

import pytest


def bench(cli, drawn, *more: object):
    return cli("bench", "extract", drawn.manifest, "--root", drawn.root,
               "--backbones", "timm:test_vit,timm:test_resnet", "--weights", "timm:test_vit=random:0",
               "--weights", "timm:test_resnet=random:0",
               "--device", "cpu", "--precision", "fp32", "--workers", "1", *more)


def test_the_legs_the_whole_a_plain_loop_and_cards(cli, drawn):
    done = bench(cli, drawn, "--cards", "50000,1e9", "--faces", "40", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert [leg["name"] for leg in record["legs"]] == ["decode", "forward", "write"]
    assert all(leg["faces_a_second"] > 0 and leg["cpu_seconds"] > 0 for leg in record["legs"])
    assert record["faces"] == 40 and record["whole"] > 0 and record["plain"] > 0 and record["waiting"]
    assert [card["card"] for card in record["cards"]] == [50000, 1e9]
    assert all(0 < card["fed"] <= card["card"] for card in record["cards"])
    assert "is the limit" in record["limit"] or "are the limit" in record["limit"]


def test_the_text_names_the_limit(cli, drawn):
    done = bench(cli, drawn, "--cards", "", "--faces", "16", "--no-plain")
    assert done.returncode == 0, done.stderr
    assert "whole" in done.stdout and "the limit" in done.stdout.splitlines()[-1] and "plain" not in done.stdout


@pytest.mark.parametrize(("more", "sentence"), [
    (["--cards", "fast"], "--cards fast is not numbers"), (["--cards", "0"], "takes more than 0 faces"),
    (["--device", "abacus"], "unknown device 'abacus'"),
])
def test_what_makes_no_sense_is_one_sentence(cli, drawn, more, sentence):
    done = bench(cli, drawn, *more)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_manifest_wants_its_root(cli, drawn):
    done = cli("bench", "extract", drawn.manifest)
    assert done.returncode == 2 and "say with --root" in done.stderr
