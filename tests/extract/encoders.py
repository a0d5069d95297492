"""Encoders as the tests load them, and what is in published checkpoints."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch

from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.registry import build, load_encoder, load_weights

WEIGHTS = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "bn.running_mean": torch.tensor([1.0, -2.0]),
           "bn.num_batches_tracked": torch.tensor(7), "half.weight": torch.ones(3, dtype=torch.float16)}


class RecorderMeter:
    """As in the training scripts of POSTER++ and MA-Net: pickled by name, with numpy arrays inside."""

    def __init__(self) -> None:
        self.epoch_losses = np.zeros((200, 2), np.float32)
        self.current_epoch = 12
        self.best = torch.tensor([92.2])


def load(name: str, weights: object, *, precision: str = "fp32", **more) -> Encoder:
    return load_encoder(name, weights=str(weights), device="cpu", precision=precision, **more)


def load_network(name: str, *, weights: str | None = None) -> torch.nn.Module:
    """The network as its library builds it, with its weights: what `load_encoder` makes fast."""
    built = load_weights(name, weights, folder=Path("weights"), build=partial(build, name)).architecture
    return built.trim(built.network).eval().requires_grad_(False)


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def logits(encoder: Encoder, features: np.ndarray) -> np.ndarray:
    """Of the classifier that the weights brought along."""
    return features @ encoder.classifier.weight + encoder.classifier.bias


def assert_whole(tensors: dict[str, torch.Tensor]) -> None:
    """These are WEIGHTS, in their order."""
    assert list(tensors) == list(WEIGHTS)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, WEIGHTS[name]) and tensor.dtype == WEIGHTS[name].dtype


def noisy(shapes: dict[str, torch.Tensor], seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict in which nothing is at its starting value, norms' statistics and scales included."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in shapes.items():
        normal = torch.randn(tensor.shape, generator=draw)
        if not tensor.is_floating_point():
            state[name] = tensor
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(tensor.shape, generator=draw)
        elif "gamma" in name or (tensor.ndim == 1 and name.endswith("weight")):
            state[name] = 0.75 + 0.25 * normal
        elif tensor.ndim >= 2 and name.endswith("weight"):
            state[name] = normal * tensor[0].numel() ** -0.5
        else:
            state[name] = 0.1 * normal
    return state


def keys_digest(lines: list[str]) -> str:
    """SHA-256 over the lines "name<TAB>shape<TAB>dtype" of a checkpoint, sorted."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def save_onnx(path: Path, nodes: list, arrays: dict[str, np.ndarray], *, shape: list, outputs: tuple[str, ...],
              kind: int = 1, metadata: dict[str, str] | None = None, **more) -> Path:
    """A model of these nodes, from `pixels` (of float32, or another kind of number) to the outputs.

    nodes: (operator, inputs, output, attributes).
    """
    import onnx

    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node(operator, inputs.split(), [output], **(options or {}))
         for operator, inputs, output, options in nodes], "tiny",
        [helper.make_tensor_value_info("pixels", kind, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for key, value in (metadata or {}).items():
        made.metadata_props.add(key=key, value=value)
    onnx.save(made, path, **more)
    return path
