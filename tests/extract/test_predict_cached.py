"""A store that has every face of a manifest: predictions need no weights."""

import timm
import torch
from safetensors.torch import save_file

NAME = "timm:test_vit"


def test_predict_from_a_complete_store_needs_no_weights(cli, drawn, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), weights)
    place = ("--root", drawn.root, "--store", tmp_path / "s")
    done = cli("extract", drawn.manifest, *place, "--backbones", NAME, "--weights", f"{NAME}={weights}", "--device",
               "cpu")
    assert done.returncode == 0, done.stderr
    done = cli("fuse", tmp_path / "s", "--epochs", "2", "--seeds", "1", "--out", tmp_path / "run", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    weights.unlink()
    done = cli("predict", tmp_path / "run", drawn.manifest, *place, "-o", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 70
