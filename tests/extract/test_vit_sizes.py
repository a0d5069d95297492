"""Vision transformers at another input size than that of their weights."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.weights.load import resample_position_embeddings

NAME = "timm:test_vit"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of the small network at its own size, 160 pixels in patches of 16."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file({name: value.contiguous() for name, value in timm.create_model("test_vit").state_dict().items()}, path)
    return path


def test_positions_are_interpolated_and_prefix_tokens_kept():
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", num_classes=0).state_dict()
    network = timm.create_model("test_vit", num_classes=0, img_size=96)
    ours, said = resample_position_embeddings(network, theirs)
    grid = theirs["pos_embed"][:, 1:].reshape(1, 10, 10, -1).permute(0, 3, 1, 2)
    expected = functional.interpolate(grid, (6, 6), mode="bicubic", antialias=True).flatten(2).mT
    torch.testing.assert_close(ours["pos_embed"], torch.cat([theirs["pos_embed"][:, :1], expected], 1))
    assert said == "position embeddings resampled from 10 x 10 to 6 x 6"
    network.load_state_dict(ours)
    again, nothing = resample_position_embeddings(network, ours)
    assert nothing == "" and again.keys() == ours.keys()


def test_the_recipe_says_so_and_nothing_is_resampled_unasked(file, tmp_path):
    small = load_encoder(f"{NAME}?size=96", weights=str(file), device="cpu", precision="fp32")
    assert small.preprocessing.size == 96 and "resampled from 10 x 10 to 6 x 6" in small.architecture
    usual = load_encoder(NAME, weights=str(file), device="cpu", precision="fp32")
    assert usual.architecture == "timm.test_vit" and usual.weights != small.weights
    other = timm.create_model("test_vit", img_size=96).state_dict()
    save_file({name: value.contiguous() for name, value in other.items()}, tmp_path / "small.safetensors")
    with pytest.raises(InputError, match="mis-shaped"):
        load_encoder(NAME, weights=str(tmp_path / "small.safetensors"), device="cpu")


def test_the_masked_autoencoder_takes_whole_patches_only():
    with pytest.raises(InputError, match="vit_mae does not take faces of 100 pixels"):
        load_encoder("vit_mae?size=100", weights="random:0", device="cpu")
