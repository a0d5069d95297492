"""Two processes, and a CUDA device, come to what one CPU process comes to; and what a process does with memory."""

import os
import platform
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from twofold.extract.finetune.finetune import finetune

ROOT = Path(__file__).resolve().parents[3]
CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.slow
def test_two_processes_equal_one(faces, request_for, tmp_path):
    chosen = {"backbone": "timm:test_vit", "target": "both", "mixup": 0.2, "epochs": 1}
    alone = load_file(finetune(request_for("alone.safetensors", accumulate=2, **chosen)).request.out)
    words = ["finetune", faces.path, "--root", faces.root, "--backbone", "timm:test_vit", "--weights", "random:0",
             "--size", "48", "--epochs", "1", "--batch-size", "16", "--precision", "fp32", "--target", "both",
             "--mixup", "0.2", "--device", "cpu", "--out", tmp_path / "two.safetensors"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", ROOT / "pipeline.py",
         *map(str, words)], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("wrote ") == 1
    together = load_file(tmp_path / "two.safetensors")
    assert together.keys() == alone.keys()
    for name, values in alone.items():
        np.testing.assert_allclose(together[name], values, rtol=1e-3, atol=2e-5, err_msg=name)


PROGRAM = textwrap.dedent("""
    import resource
    import sys
    import numpy as np
    from twofold.extract.finetune.loop import set_allocator

    def pages_of_a_step():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(10 * 2**20)  # 80 MB, freed at once
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def megabytes_between():
        blocks = [np.ones(2**20) for _ in range(40)]  # of 8 MB
        few = blocks[9::10]
        del blocks
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) // 1024

    usual = [pages_of_a_step() for _ in range(3)][-1]
    held = [megabytes_between() for _ in range(2)][-1]
    assert set_allocator(keep_freed=False)
    given_back = megabytes_between()
    assert set_allocator(keep_freed=True)
    print(usual, [pages_of_a_step() for _ in range(3)][-1], held, given_back)
""")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told how to keep memory")
def test_freed_memory_is_kept_or_given_back():
    done = subprocess.run([sys.executable, "-c", PROGRAM], text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    usual, kept, held, given_back = map(int, done.stdout.split())
    assert usual > 30 and kept < usual / 10
    assert held > given_back + 200  # of 36 freed blocks of 8 MB


@pytest.mark.gpu
@CARD
def test_the_card_learns_what_the_host_learns(request_for):
    card, host = (finetune(replace(request_for(f"{number}.safetensors"), device=device))
                  for number, device in enumerate(("cuda", "cpu")))
    for here, there in zip(card.progress.history, host.progress.history, strict=True):
        assert here.loss == pytest.approx(there.loss, rel=0.02)
        assert here.val_loss == pytest.approx(there.val_loss, rel=0.05)


@pytest.mark.gpu
@CARD
def test_half_the_bits_learn_too(request_for):
    report = finetune(replace(request_for(precision="bf16", epochs=3), device="cuda"))
    losses = [epoch.loss for epoch in report.progress.history]
    assert losses[-1] < losses[0]
