"""Where weights are looked for, and the verbs `weights ls`, `show` and `convert`."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.extract.encoders import RecorderMeter, load, state_of
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.presets import PRESETS, published_weights
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.encoders.report import convert, description, listing
from twofold.extract.weights.find import find_in_folder, find_weights, weights_folder
from twofold.extract.weights.read import read_checkpoint


# ---------------------------------------------------------------------------------------------------- where they are
def test_a_path_then_the_folder_then_an_error_that_says_it_all(resnet18, tmp_path, monkeypatch):
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path / "mine"))
    assert weights_folder() == tmp_path / "mine"
    with pytest.raises(InputError) as refused:
        load_encoder("resnet18", device="cpu")
    wanted = str(tmp_path / "mine/resnet18_msceleb.pth")
    for part in ("no weights for resnet18", "Relative-Uncertainty-Learning", "licence", wanted,
                 "--weights resnet18=PATH", "resnet18=random:0"):
        assert part in str(refused.value)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/resnet18_msceleb.pth").hardlink_to(resnet18)
    assert load_encoder("resnet18", device="cpu", precision="fp32").weights == load("resnet18", resnet18).weights
    with pytest.raises(InputError, match="is not a file"):
        load("resnet18", tmp_path / "gone.pth")


def test_the_folder_may_hold_the_converted_file_but_not_two_different_ones(tmp_path):
    (tmp_path / "posterv2_rafdb.pth").touch()
    (tmp_path / "posterv2_rafdb.safetensors").touch()
    assert find_in_folder(published_weights("posterv2"), tmp_path) == tmp_path / "posterv2_rafdb.safetensors"
    (tmp_path / "posterv2_affectnet8.pth").touch()
    with pytest.raises(InputError, match=r"both there: choose with --weights posterv2=PATH"):
        find_in_folder(published_weights("posterv2"), tmp_path)
    (tmp_path / "timm-resnet18.a1_in1k.pth").touch()
    assert find_in_folder(published_weights("timm:resnet18.a1_in1k"), tmp_path).name == "timm-resnet18.a1_in1k.pth"


def test_offline_the_hub_is_not_asked(pipeline, tmp_path, drawn):
    done = pipeline("extract", drawn.manifest, "--root", drawn.root, "--store", tmp_path / "s",
                    "--backbones", "vit_mae",
                    HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), TWOFOLD_WEIGHTS=str(tmp_path))
    assert done.returncode == 2 and "no weights for vit_mae: the hub could not give them" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and str(tmp_path / "mae_pretrain_vit_base.pth") in done.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_other_names_say_where_their_file_may_be_put_and_use_what_is_cached(name, tmp_path, monkeypatch, resnet18):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=f"no weights for {name}: the hub could not give them") as refused:
        find_weights(published_weights(name), weights=None, folder=tmp_path)
    assert str(tmp_path / f"{name.replace(':', '-')}.pth") in str(refused.value)
    if name.startswith("torchvision"):  # its cache, as its own download leaves it
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints/resnet18-f37072fd.pth").hardlink_to(resnet18)
        found = find_weights(published_weights(name), weights="hub", folder=tmp_path)
        assert found.name == "resnet18-f37072fd.pth"


# ------------------------------------------------------------------------------------------------------------- verbs
def test_a_newcomer_is_told_exactly_what_to_fetch(pipeline, tmp_path):
    done = pipeline("weights", "ls", cwd=tmp_path, HF_HOME=str(tmp_path), TWOFOLD_WEIGHTS="")
    assert done.returncode == 0 and not done.stderr
    for known in PRESETS:
        what = f"get it from {known.page} and save it as weights/{known.files[0]}"
        what = f"`twofold weights get {known.name}` downloads it, or {what}" if known.hub or known.url else what
        what = "is here, nothing to do" if known.packaged and known.packaged.is_file() else what
        assert f"{known.name}: {what}" in done.stdout
        assert known.licence in done.stdout and str(known.dim) in done.stdout
    assert "CC-BY-NC" in done.stdout and "downloads timm/vit_base_patch16_224.mae" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:6])) <= 160


def test_the_listing_finds_what_is_there(resnet18, tmp_path):
    (tmp_path / "resnet18_msceleb.pth").hardlink_to(resnet18)
    found = {row["backbone"]: row["found"] for row in listing(tmp_path).record()}
    assert found["resnet18"] == str(tmp_path / "resnet18_msceleb.pth") and not found["posterv2"]
    lines = listing(tmp_path).text().splitlines()
    assert "resnet18: is here, nothing to do" in lines  # one line each says what to do
    assert [sum(line.startswith(f"{known.name}: ") for line in lines) for known in PRESETS] == [1] * len(PRESETS)


def test_show_describes_a_preset_and_checks_its_file(cli, resnet18, tmp_path):
    assert "file: none found" in description("resnet18", folder=tmp_path).text()
    assert "dim: 512" in description("resnet18", folder=tmp_path).text()
    state = read_checkpoint(resnet18).tensors
    torch.save({"model": state, "old": {name: value * 2 for name, value in state.items()}}, tmp_path / "two.pth")
    taken = {entry: description(f"resnet18?entry={entry}", folder=tmp_path, weights=tmp_path / "two.pth").values["file"]
             for entry in ("model", "old")}
    assert [file["container"] for file in taken.values()] == ["model", "old"]
    assert taken["model"]["weights"] != taken["old"]["weights"]
    done = cli("weights", "show", "resnet18", "--weights", resnet18, "--json")
    described = json.loads(done.stdout)["file"]
    assert described["weights"] == load("resnet18", resnet18).weights and described["container"] == "state_dict"
    with pytest.raises(InputError, match="looks like a ResNet-18 with 1000 classes"):
        description("resnet50", folder=tmp_path, weights=resnet18)
    with pytest.raises(InputError, match="unknown backbone 'resnet19'"):
        description("resnet19", folder=tmp_path)
    with pytest.raises(InputError, match="describes presets"):
        description("timm:resnet18", folder=tmp_path)


def test_convert_keeps_the_weights_and_says_what_was_there(cli, resnet18, tmp_path):
    torch.save(torch.load(resnet18) | {"recorder": RecorderMeter()}, tmp_path / "w.pth")
    done = convert(tmp_path / "w.pth", tmp_path / "out.safetensors")
    before, after = state_of(resnet18), load_file(tmp_path / "out.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    for part in ("122 tensors, 11,699,112 parameters, looks like a ResNet-18 with 1000 classes", "entry epoch: 10",
                 "entry state_dict: 122 tensors", "not run: tests.extract.encoders.RecorderMeter x 1", str(tmp_path)):
        assert part in done.text()
    again = cli("weights", "convert", tmp_path / "w.pth", "-o", tmp_path / "out.safetensors", "--json")
    assert again.returncode == 0 and json.loads(again.stdout) == done.record()


def test_convert_half_rounds_to_float16_and_refuses_what_it_cannot_hold(cli, tmp_path):
    number, counts = torch.tensor([[1 + 2**-12, -3e-3, 60_000.0]]), torch.tensor([70_000])
    save_file({"a.weight": number, "a.counts": counts}, tmp_path / "w.safetensors")
    done = cli("weights", "convert", tmp_path / "w.safetensors", "-o", tmp_path / "half.safetensors", "--half")
    assert done.returncode == 0, done.stderr
    after = load_file(tmp_path / "half.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "half.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert after["a.weight"].dtype == torch.float16 and torch.equal(after["a.counts"], counts)
    np.testing.assert_array_equal(after["a.weight"].numpy(), number.numpy().astype(np.float16))
    save_file({"a.weight": 2 * number}, tmp_path / "large.safetensors")
    with pytest.raises(InputError, match=r"a\.weight has values that float16 cannot hold"):
        convert(tmp_path / "large.safetensors", tmp_path / "no.safetensors", half=True)
    assert not (tmp_path / "no.safetensors").exists()


@pytest.mark.parametrize("out, message", [("out.pth", "give it that suffix"),
                                          ("no/where.safetensors", "its folder is missing")])
def test_convert_refuses_and_leaves_nothing(resnet18, tmp_path, out, message):
    with pytest.raises(InputError, match=message):
        convert(resnet18, tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_a_converted_torchvision_file_keeps_its_preprocessing(real, tmp_path):
    """V1 and V2 of MobileNetV2 were trained with other transforms; the file's hash tells which it is, then metadata."""
    published = real / "weights/imagenet/mobilenet_v2-b0353104.pth"
    renamed = tmp_path / "weights.pth"
    renamed.write_bytes(published.read_bytes())
    convert(renamed, tmp_path / "c.safetensors")
    encoders = [load("torchvision:mobilenet_v2", path) for path in (published, renamed, tmp_path / "c.safetensors")]
    assert len({(encoder.weights, encoder.preprocessing) for encoder in encoders}) == 1
    assert encoders[0].preprocessing.resize == 256
