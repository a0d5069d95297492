"""A training that was stopped goes on and ends as if nothing had happened."""

import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from twofold.data.utils.errors import InputError
from twofold.data.utils.terminal import explain_error
from twofold.extract.encoders import devices
from twofold.extract.finetune import loop
from twofold.extract.finetune.finetune import finetune
from twofold.extract.finetune.loop import Progress, load_state, save_state
from twofold.extract.weights.read import safetensors_metadata

CHANGES = {"mixup": 0.2, "cutmix": 0.5, "erasing": 0.25, "drop_path": 0.1, "dropout": 0.1, "ema": 0.9, "epochs": 3,
           "rand_augment": "rand-m5-mstd0.5", "balanced_sampling": 0.5}


@pytest.fixture
def stop_after(monkeypatch):
    """Send this process SIGTERM in the middle of that step of the training."""
    def arm(step: int) -> None:
        original, done = loop.Training._step, []

        def counted(self, order):
            done.append(1)
            if len(done) == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, order)

        monkeypatch.setattr(loop.Training, "_step", counted)

    return arm


@pytest.mark.parametrize("step", [2, 3, 7])
def test_a_stopped_training_ends_with_the_same_weights(request_for, stop_after, step):
    whole = load_file(finetune(request_for("whole.safetensors", target="both", **CHANGES)).request.out)
    request = request_for("resumed.safetensors", target="both", **CHANGES)
    stop_after(step)
    stopped = finetune(request)
    assert stopped.exit_code == 128 + signal.SIGTERM and "the same command goes on" in stopped.text()
    assert not request.out.exists() and request.out.with_suffix(".state").exists()
    resumed = finetune(request)
    assert resumed.exit_code == 0 and len(resumed.progress.history) == 3
    tensors = load_file(request.out)
    assert all(np.array_equal(whole[name], tensors[name]) for name in whole)
    assert not request.out.with_suffix(".state").exists()


@pytest.mark.parametrize("place", [None, 0.0001, 0.2, 0.5, 0.8])
def test_states_of_another_training_and_damaged_ones_are_refused(request_for, stop_after, place):
    stop_after(1)
    request = request_for()
    finetune(request)
    if place is None:
        with pytest.raises(InputError, match="other settings, samples or weights"):
            finetune(request_for(lr=1e-3))
        return
    state = request.out.with_suffix(".state")
    content = bytearray(state.read_bytes())
    content[int(place * len(content))] ^= 1
    for damaged in (content, b"PK\x03\x04 nothing"):
        state.write_bytes(damaged)
        with pytest.raises(InputError, match="the state of an earlier training does not read back"):
            finetune(request)


def in_child(act) -> str:
    """What a process of its own prints that does this."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        return text
    try:
        act(lambda text: os.write(writing, text.encode()))
    finally:
        os._exit(1)


def save(path: Path) -> None:
    save_state(path, Progress(best={"weight": torch.zeros(100_000)}), "training", {"network": torch.nn.Linear(2, 2)})


def test_what_a_kill_leaves_while_a_state_is_saved_is_removed_by_the_next_training(tmp_path, monkeypatch):
    def killed(say) -> None:
        original = torch.save

        def half(content, file) -> None:
            original(content, file)
            say("half")
            os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(torch, "save", half)
        save(tmp_path / "a.state")

    assert in_child(killed) == "half" and not (tmp_path / "a.state").exists()
    assert load_state(tmp_path / "a.state", "training", {}, device=torch.device("cpu")) is None
    assert os.listdir(tmp_path) == []
    save(tmp_path / "a.state")
    assert os.listdir(tmp_path) == ["a.state"]


def test_a_full_disk_is_an_error_of_the_disk(tmp_path):
    def limited(say) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save(tmp_path / "a.state")
        except OSError as error:
            say(str(explain_error(error)))

    assert "the disk is full" in in_child(limited) and os.listdir(tmp_path) == []


def test_precision_follows_from_processor_and_network_and_stays_with_a_training(request_for, stop_after, monkeypatch):
    monkeypatch.setattr(devices, "has_native_bf16", lambda device: True)
    assert finetune(request_for("deep.safetensors", backbone="torchvision:mobilenet_v3_small", precision="auto",
                                epochs=1)).precision == "fp32"  # its depth-wise convolutions are slower in bf16
    whole = finetune(request_for("whole.safetensors", precision="auto"))
    request = request_for("resumed.safetensors", precision="auto")
    stop_after(3)
    assert finetune(request).progress.stopped_by and whole.precision == "bf16"
    monkeypatch.setattr(devices, "has_native_bf16", lambda device: False)  # as if another machine went on
    resumed = finetune(request)
    assert resumed.precision == safetensors_metadata(request.out)["precision"] == "bf16"
    first, second = load_file(whole.request.out), load_file(request.out)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    again = finetune(request_for("whole.safetensors", precision="auto"))  # finished: nothing is trained anew
    assert again.precision == "bf16" and again.progress.history == whole.progress.history
