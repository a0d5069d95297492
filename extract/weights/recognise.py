"""What a set of weights looks like, for the message that refuses it."""

from collections.abc import Mapping

import torch

RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "ResNet-18", (False, (3, 4, 6, 3)): "ResNet-34", (True, (3, 4, 6, 3)): "ResNet-50",
    (True, (3, 4, 23, 3)): "ResNet-101", (True, (3, 8, 36, 3)): "ResNet-152",
}
MARKS = (  # an entry that only this network has, and the entry of its classifier
    ("VIT.se_block.linear1.weight", "POSTER++", "VIT.head.linear.weight"),
    ("ir_back.input_layer.0.weight", "a POSTER network of another version", "VIT.head.linear.weight"),
    ("layer3_1_p1.0.conv1.weight", "MA-Net", "fc_1.weight"),
    ("decoder_embed.weight", "a masked autoencoder with its decoder (the file without `_full` is needed)", ""),
    ("conv2_1_1x1_reduce.weight", "a ResNet-50 with the names of Caffe", "classifier.weight"),
    ("conv_6_sep.conv.weight", "a MobileFaceNet", ""),
    ("body.0.res_layer.0.weight", "an IR face recogniser", ""),
    ("patch_embed.proj.weight", "a vision transformer", "head.weight"),
    ("conv_stem.weight", "a timm EfficientNet or MobileNet", "classifier.weight"),
    ("features.18.0.weight", "a torchvision MobileNetV2", "classifier.1.weight"),
    ("features.denseblock1.denselayer1.conv1.weight", "a DenseNet", "classifier.weight"),
    ("features.0.weight", "a VGG or AlexNet", "classifier.6.weight"),
)


def guess(tensors: Mapping[str, torch.Tensor]) -> str:
    """Finish the sentence "the file ..."."""
    resnet = _resnet(tensors)
    if resnet:
        return f"looks like {resnet}{_classes(tensors, 'fc.weight')}"
    for mark, name, head in MARKS:
        if mark in tensors:
            return f"looks like {_sized(name, tensors)}{_classes(tensors, head)}"
    names = ", ".join(list(tensors)[:3])
    return f"holds {len(tensors)} tensors ({names}, ...) of a network that is not recognised"


def _resnet(tensors: Mapping[str, torch.Tensor]) -> str:
    """The name of a torchvision or timm ResNet by its blocks, or nothing."""
    depths = tuple(len({name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")})
                   for stage in range(1, 5))
    if "conv1.weight" not in tensors or not all(depths):
        return ""
    model = RESNETS.get(("layer1.0.conv3.weight" in tensors, depths))
    return f"a {model}" if model else f"a network like ResNet with {sum(depths)} blocks"


def _sized(name: str, tensors: Mapping[str, torch.Tensor]) -> str:
    if name != "a vision transformer":
        return name
    depth = len({entry.split(".")[1] for entry in tensors if entry.startswith("blocks.")})
    return f"{name}, {depth} blocks of width {tensors['patch_embed.proj.weight'].shape[0]}"


def _classes(tensors: Mapping[str, torch.Tensor], head: str) -> str:
    return f" with {tensors[head].shape[0]} classes" if head in tensors else ""
