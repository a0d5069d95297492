"""A training that was stopped goes on and ends as if nothing had happened."""

import os
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from twofold.data.utils.errors import InputError
from twofold.extract.finetune import loop
from twofold.extract.finetune.finetune import finetune

CHANGES = {"mixup": 0.2, "cutmix": 0.5, "erasing": 0.25, "drop_path": 0.1, "dropout": 0.1, "ema": 0.9, "epochs": 3,
           "rand_augment": "rand-m5-mstd0.5", "balanced_sampling": 0.5}


@pytest.fixture
def stop_after(monkeypatch):
    """Send this process SIGTERM in the middle of that step of the training."""
    def arm(step: int) -> None:
        original, done = loop.TrainingLoop._step, []

        def counted(self, order):
            done.append(1)
            if len(done) == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, order)

        monkeypatch.setattr(loop.TrainingLoop, "_step", counted)

    return arm


@pytest.mark.parametrize("step", [2, 3, 7])
def test_a_stopped_training_ends_with_the_same_weights(request_for, stop_after, step):
    whole = load_file(finetune(request_for("whole.safetensors", target="both", **CHANGES)).out)
    request = request_for("resumed.safetensors", target="both", **CHANGES)
    stop_after(step)
    stopped = finetune(request)
    assert stopped.exit_code == 128 + signal.SIGTERM and "the same command goes on" in stopped.text()
    assert not request.out.exists() and request.out.with_suffix(".state").exists()
    resumed = finetune(request)
    assert resumed.exit_code == 0 and len(resumed.outcome.progress.history) == 3
    tensors = load_file(request.out)
    assert all(np.array_equal(whole[name], tensors[name]) for name in whole)
    assert not request.out.with_suffix(".state").exists()


def test_a_state_of_another_training_is_refused(request_for, stop_after):
    stop_after(1)
    finetune(request_for())
    with pytest.raises(InputError, match="other settings, samples or weights"):
        finetune(request_for(lr=1e-3))


def test_a_damaged_state_is_named(request_for):
    request = request_for()
    request.out.with_suffix(".state").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match="does not read back"):
        finetune(request)
