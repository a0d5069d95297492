"""Drop path reaches the paper's ViT at the authors' rates, and is refused where there is nothing to drop."""

import pytest

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.libraries import build
from twofold.extract.finetune.settings import resolve
from twofold.extract.finetune.start import start


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_it_grows_with_depth_as_in_mae(rate):
    blocks = build("vit_mae", checkpoint=None, drop_path=rate).network.blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([rate * number / 11 for number in range(12)])


def test_a_network_without_paths_refuses_it(tmp_path):
    with pytest.raises(InputError, match="torchvision:mobilenet_v2 has no paths to drop"):
        start("torchvision:mobilenet_v2", weights="random:0", folder=tmp_path,
              settings=resolve(preset="quick", chosen={"drop_path": 0.1}))
