"""What only a CUDA device can show. These run where there is one; how fast it is, `bench extract` says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.extract.stores import assert_equal_stores
from twofold.extract.encoders.encoder import BatchLimit
from twofold.extract.encoders.presets import PRESETS
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.engine.runners import CudaRunner

CARD = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


def pictures(encoder, count: int) -> np.ndarray:
    """(count, S, S, 3) uint8 noise of many scales."""
    side = encoder.preprocessing.size // 16
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8).repeat(16, 1).repeat(16, 2)


@pytest.mark.parametrize("name", [preset.name for preset in PRESETS if not preset.is_onnx])
def test_every_precision_gives_what_the_cpu_gives_in_fp32(name):
    host = load_encoder(name, weights="random:0", device="cpu", precision="fp32")
    faces = pictures(host, 4)
    exact, *others = (load_encoder(name, weights="random:0", device=CARD, precision=precision).encode(faces)
                      for precision in ("fp32", "bf16", "fp16"))
    wanted = host.encode(faces)
    np.testing.assert_allclose(exact, wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())
    for features in others:
        cosines = (features * exact).sum(axis=1) / np.linalg.norm(features, axis=1) / np.linalg.norm(exact, axis=1)
        assert cosines.min() > 0.98 and (features != exact).any()


def test_out_of_memory_halves_the_batch_and_changes_nothing():
    encoder = load_encoder("resnet18", weights="random:0", device=CARD, precision="fp32", batch_size=32)
    faces = pictures(encoder, 4096)
    wanted = encoder.encode(faces[:64])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_allocated() + 3e9) / total))
    try:
        large = replace(encoder, limit=BatchLimit(4096))  # its pixels alone take 2.5 GB as fp32, the first layer 13
        features = large.encode(faces)
        assert 1 <= large.batch_size < 4096
        np.testing.assert_allclose(features[:64], wanted, rtol=1e-3, atol=1e-3)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_passes_that_overlap_give_what_one_after_the_other_gives():
    device = torch.device(CARD)
    encoders = [load_encoder(name, weights="random:0", device=CARD, precision="bf16") for name in
                ("resnet18", "timm:test_vit", "vit_mae")]
    batches = {encoder: [torch.from_numpy(pictures(encoder, 16) + np.uint8(step)).pin_memory() for step in range(6)]
               for encoder in encoders}
    wanted = {encoder: [encoder.encode(batch) for batch in batches[encoder]] for encoder in encoders}
    passes = CudaRunner(device)
    under_way = [(encoder, step, passes.start(encoder, batches[encoder][step])) for step in range(6)
                 for encoder in encoders]
    for encoder, step, each in under_way:
        features, seconds = each.result()
        np.testing.assert_array_equal(features, wanted[encoder][step])
        assert seconds > 0 and each.done()
    passes.close()


@pytest.mark.slow
def test_two_processes_on_one_card_make_the_file_of_one(cli, drawn, extract_args, tmp_path):
    for name, device in (("one", CARD), ("two", f"{CARD}:0,{CARD}:0")):
        args = extract_args(drawn.manifest, drawn.root, tmp_path / name)
        args[args.index("--device") + 1] = device
        assert cli(*args).returncode == 0
    assert_equal_stores(tmp_path / "one", tmp_path / "two")
