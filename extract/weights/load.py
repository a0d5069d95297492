"""Load exactly its weights into a network, and identify them by their content."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from torch import nn

from twofold.data.utils.errors import InputError
from twofold.extract.weights.read import PLAIN_NAME, Checkpoint, is_average

log = logging.getLogger(__name__)

UNUSED = ".num_batches_tracked"  # counted while training; old files lack it
POSITIONS = "pos_embed"
RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "a ResNet-18", (False, (3, 4, 6, 3)): "a ResNet-34", (True, (3, 4, 6, 3)): "a ResNet-50",
    (True, (3, 4, 23, 3)): "a ResNet-101", (True, (3, 8, 36, 3)): "a ResNet-152",
}
MARKS = (  # an entry that only this network has, and the entry of its classifier
    ("VIT.se_block.linear1.weight", "POSTER++", "VIT.head.linear.weight"),
    ("ir_back.input_layer.0.weight", "a POSTER network of another version", "VIT.head.linear.weight"),
    ("layer3_1_p1.0.conv1.weight", "MA-Net", "fc_1.weight"),
    ("decoder_embed.weight", "a masked autoencoder with its decoder (the file without `_full` is needed)", ""),
    ("conv2_1_1x1_reduce.weight", "a ResNet-50 with the names of Caffe", "classifier.weight"),
    ("conv_6_sep.conv.weight", "a MobileFaceNet", ""),
    ("body.0.res_layer.0.weight", "an IR face recogniser", ""),
    ("embeddings.cls_token", "a ViT of transformers, whose names are not timm's (export it to ONNX)", ""),
    ("vit.embeddings.cls_token", "a ViT of transformers, whose names are not timm's (export it to ONNX)", ""),
    ("patch_embed.proj.weight", "a vision transformer", "head.weight"),
    ("conv_stem.weight", "a timm EfficientNet or MobileNet", "classifier.weight"),
    ("features.18.0.weight", "a torchvision MobileNetV2", "classifier.1.weight"),
    ("features.denseblock1.denselayer1.conv1.weight", "a DenseNet", "classifier.weight"),
    ("features.0.weight", "a VGG or AlexNet", "classifier.6.weight"),
)


def without_wrapper(network: nn.Module, checkpoint: Checkpoint, *, heads: tuple[str, ...],
                    rename: Callable[[str], str]) -> Checkpoint:
    """The checkpoint with the names of `network`, whatever path of wrappers (Lightning's `model.`, `model.backbone.`,
    a mean teacher's `teacher.`) stands before them; as it is where no path gives all names.

    Of several such networks those of the right shapes are preferred, then averages (see `is_average`), then the first;
    `others` has the others. What lies outside of the path belongs to other modules (a loss, a queue): it is left out,
    and said, but for classifiers (entries that begin with one of `heads`). rename: from the file's names.
    """
    expected = {name: tensor.shape for name, tensor in network.state_dict().items() if not name.endswith(UNUSED)}
    anchor, tensors = next(iter(expected), ""), checkpoint.tensors
    paths = dict.fromkeys(name[:start] for name in tensors for start in (0, *_word_ends(name))
                          if rename(name[start:]) == anchor and (not start or PLAIN_NAME.fullmatch(name[:start])))
    fitting: dict[str, bool] = {}
    for path in paths:
        shapes = {rename(name.removeprefix(path)): tensor.shape for name, tensor in tensors.items()
                  if name.startswith(path)}
        if expected.keys() <= shapes.keys():
            fitting[path] = all(shapes[name] == shape for name, shape in expected.items())
    order = sorted(fitting, key=lambda path: (not fitting[path], not is_average(path)))
    if order in ([], [""]):
        return checkpoint
    chosen, *others = order
    nested = tuple(path for path in others if path and not chosen.startswith(path))
    kept = {name.removeprefix(chosen): tensor for name, tensor in tensors.items()
            if name.startswith(chosen) and not name.startswith(nested)}
    outside = [name for name in tensors if not name.startswith((chosen, *nested))]
    left_out = []
    for name in outside:  # of `model.backbone.`, `model.fc.weight` is the classifier
        parent = max((chosen[:end] for end in _word_ends(chosen) if name.startswith(chosen[:end])), key=len, default="")
        if name.removeprefix(parent).startswith(heads or ("\0",)) and "" not in others:
            kept.setdefault(name.removeprefix(parent), tensors[name])
        elif "" not in others:
            left_out.append(name)
    if left_out:
        log.info("%s: %d of its %d tensors are no part of this network and left out (%s)", checkpoint.path.name,
                 len(left_out), len(tensors), ", ".join(left_out[:3]))
    alike = tuple(path.rstrip(".") for path in others if path and fitting[path] == fitting[chosen])
    named = {"container": chosen.rstrip(".") or checkpoint.container, "others": alike} if alike else {}
    return replace(checkpoint, tensors=kept, **named)


def _word_ends(name: str) -> list[int]:
    """Where each word of a name and its dot end."""
    return [place + 1 for place, letter in enumerate(name) if letter == "."]


def load_strictly(network: nn.Module, checkpoint: Checkpoint, *, heads: tuple[str, ...]) -> list[str]:
    """Load every weight of `network`; returns the names of classifier entries that were left over.

    Raises InputError, and loads nothing, if one is missing, one is too many (unless it starts with a prefix of
    `heads`), or one has another shape, is not a number, or is of another kind.
    """
    left_over, path = check_shapes(network, checkpoint, heads=heads), checkpoint.path
    state = {}
    for name, tensor in network.state_dict().items():
        if name.endswith(UNUSED):
            continue
        value = checkpoint.tensors[name]
        if value.is_floating_point() != tensor.is_floating_point() or value.is_complex():
            raise InputError(f"{path}: {name} is {value.dtype} instead of {tensor.dtype}")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{path}: {name} holds numbers that are not finite, so the file is damaged")
        state[name] = value.to(tensor.dtype)
    network.load_state_dict(state, strict=False)
    if checkpoint.dropped:
        log.info("%s (%s) %s; objects left out, nothing of them was run: %s", path.name, checkpoint.format,
                 describe_architecture(checkpoint.tensors), ", ".join(list(checkpoint.dropped)[:5]))
    return left_over


def check_shapes(network: nn.Module, checkpoint: Checkpoint, *, heads: tuple[str, ...]) -> list[str]:
    """The same by names and shapes alone, for a network that may be on the meta device."""
    expected = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(UNUSED)}
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.endswith(UNUSED)}
    left_over = [name for name in tensors if name not in expected and name.startswith(heads or ("\0",))]
    faults = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected and name not in left_over],
        "mis-shaped": [f"{name} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
                       for name, tensor in expected.items() if name in tensors and tensors[name].shape != tensor.shape]}
    problems = [f"{len(names)} {what} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
                for what, names in faults.items() if names]
    if problems:
        raise InputError(f"{checkpoint.path}: these are not the weights of this network: {'; '.join(problems)}; the "
                         f"file {describe_architecture(tensors)}")
    return left_over


def weights_digest(network: nn.Module) -> str:
    """`sha256:<hex>` over name, type, shape and bytes of each weight that `network` uses, in order of name.

    The same weights have the same digest in whatever container they came.
    """
    state = network.state_dict()
    total = hashlib.sha256()
    for name in sorted(name for name in state if not name.endswith(UNUSED)):
        tensor = state[name].contiguous().cpu()
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{total.hexdigest()}"


def resample_position_embeddings(network: nn.Module, tensors: Mapping[str, torch.Tensor],
                                 ) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors with position embeddings (1, P + T, D) resampled to the network's grid, and what was done in words.

    P prefix tokens stay as they are, the square of T patches is resampled (bicubic, antialiased: timm's own helper).
    As they are, with an empty text, where they fit or are none of such a network: strict loading speaks then.
    """
    vit: Any = network
    theirs, ours = tensors.get(POSITIONS), getattr(network, POSITIONS, None)
    if theirs is None or ours is None or not hasattr(network, "no_embed_class") or theirs.shape == ours.shape:
        return dict(tensors), ""
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    side = isqrt(max(0, theirs.shape[1] - prefix)) if theirs.ndim == 3 else 0
    if theirs.shape[2:] != ours.shape[2:] or side < 1 or side * side + prefix != theirs.shape[1]:
        return dict(tensors), ""
    from timm.layers.pos_embed import resample_abs_pos_embed

    high, wide = vit.patch_embed.grid_size
    resampled = resample_abs_pos_embed(theirs.float(), [high, wide], num_prefix_tokens=prefix)
    return {**tensors, POSITIONS: resampled}, f"position embeddings resampled from {side} x {side} to {high} x {wide}"


# --------------------------------------------------------------------------------- what a state dict looks like
def describe_architecture(tensors: Mapping[str, torch.Tensor]) -> str:
    """Say which network a state dict looks like, to finish the sentence "the file ..."."""
    if is_quantised(tensors):
        return "holds a quantised network (int8): take the checkpoint in float32 or float16"
    blocks = tuple(_blocks(tensors, f"layer{stage}.") for stage in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in tensors
    resnet = RESNETS.get((bottleneck, blocks), f"a network like ResNet with {sum(blocks)} blocks")
    name, head = (resnet, "fc.weight") if "conv1.weight" in tensors and all(blocks) else \
        next(((name, head) for mark, name, head in MARKS if mark in tensors), ("", ""))
    if not name:
        return f"holds {len(tensors)} tensors ({', '.join(list(tensors)[:3])}, ...) of a network that is not recognised"
    if name == "a vision transformer":
        name += f", {_blocks(tensors, 'blocks.')} blocks of width {tensors['patch_embed.proj.weight'].shape[0]}"
    return f"looks like {name}{f' with {tensors[head].shape[0]} classes' if head in tensors else ''}"


def is_quantised(tensors: Mapping[str, torch.Tensor]) -> bool:
    return any(name.endswith(("zero_point", "_packed_params.dtype", ".SCB")) or tensor.dtype == torch.int8 or
               tensor.is_quantized for name, tensor in tensors.items())


def _blocks(tensors: Mapping[str, torch.Tensor], prefix: str) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith(prefix)})
