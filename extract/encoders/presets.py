"""Where a backbone of any name comes from, and the paper's encoders (arXiv 2407.12257, section 3) by their own names.

One entry of PRESETS holds all about one of them. Imports torch only for a source that needs it.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import CLASS_ORDERS
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.weights.find import PublishedWeights

if TYPE_CHECKING:
    from torch import nn

    from twofold.extract.encoders.encoder import Architecture
    from twofold.extract.weights.read import Checkpoint

#: prefix of the name to the module that is a Source (ONNX models bring no network to build: see `onnx`)
SOURCES = {"timm": "twofold.extract.encoders.timm", "torchvision": "twofold.extract.encoders.torchvision",
           "hf": "twofold.extract.encoders.hf", "": "twofold.extract.encoders.presets"}
VIT_SIZE, VIT_PATCH = 224, 16  #: pixels
#: RGB bytes minus the mean of VGGFace2, as the ResNet-50 of FER+ was trained
CAFFE_PIXELS = Preprocessing(size=224, resize=256, mean=(131.0912, 103.8827, 91.4953), std=(1.0, 1.0, 1.0), scale=1.0)
#: OpenAI's names of CLIP's visual tower, and timm's
CLIP_NAMES = (("conv1.", "patch_embed.proj."), ("class_embedding", "cls_token"), ("positional_embedding", "pos_embed"),
              ("transformer.resblocks.", "blocks."), (".ln_1.", ".norm1."), (".ln_2.", ".norm2."),
              ("ln_pre.", "norm_pre."), ("ln_post.", "norm."), (".in_proj_", ".qkv."), (".out_proj.", ".proj."),
              (".c_fc.", ".fc1."), (".c_proj.", ".fc2."))
CLIP_PIXELS = Preprocessing(size=224, resize=224, interpolation="bicubic", mean=(0.48145466, 0.4578275, 0.40821073),
                            std=(0.26862954, 0.26130258, 0.27577711))
Builder = Callable[["Preset", "Checkpoint | None", int, float], "Architecture"]


class Source(Protocol):
    """A module of backbones; `name` is what stands behind the prefix.

    check_name raises InputError for a name that it does not have; build makes the network without its classifier
    (checkpoint: what will be loaded, None for random weights; size: another side of its input, 0 for its own);
    published says where its weights come from and under which licence.
    """

    def check_name(self, name: str) -> object: ...

    def build(self, name: str, *, checkpoint: "Checkpoint | None", size: int, drop_path: float) -> "Architecture": ...

    def published(self, name: str) -> PublishedWeights: ...


def source_of(backbone: str) -> tuple[Source, str]:
    """The source of a backbone's name, and the name that it has there. Options behind the name are left out."""
    plain = backbone.partition("?")[0]
    kind, colon, name = plain.partition(":")
    kind, name = (kind, name) if colon and kind in SOURCES else ("", plain)
    module: Source = importlib.import_module(SOURCES[kind])  # type: ignore[assignment]
    return module, name


def recorded_name(backbone: str) -> str:
    """The name as a recipe has it: a folder without its path, which is found again below the weights folder."""
    kind, _, name = backbone.partition(":")
    return f"hf:{Path(name).resolve().name}" if kind == "hf" and Path(name).is_dir() else backbone


def published_weights(backbone: str) -> PublishedWeights:
    """Where the weights of a backbone come from. Raises InputError for an unknown name."""
    source, name = source_of(backbone)
    return source.published(name)


def licences(backbones: Iterable[str]) -> dict[str, str]:
    """The licence of each backbone for which one is stated."""
    stated = {}
    for backbone in backbones:
        try:
            weights = published_weights(backbone)
        except InputError:  # an ONNX model
            continue
        if licence := weights.licence or weights.read_licence():
            stated[backbone] = licence
    return stated


# -------------------------------------------------------------------------------------------------------- presets
@dataclass(frozen=True, kw_only=True)
class Preset:
    """One encoder as declared facts; tests compare them with the networks.

    build: from (preset, checkpoint, size, drop_path) to the network; dim: length of the embedding; heads: prefixes of
    classifier entries that a weights file may hold besides; files: the names that the weights folder is searched for
    (or the same with .safetensors); hub: the repository on the Hugging Face hub, where it is published there; url: a
    stable address of the first of the files;
    class_orders: by (text in the file's name, number of classes).
    """

    name: str
    build: Builder = field(repr=False)
    architecture: str
    tap: str
    dim: int
    preprocessing: Preprocessing
    trained_on: str
    files: tuple[str, ...]
    page: str
    licence: str
    heads: tuple[str, ...] = ()
    note: str = ""  #: what a newcomer has to know about the files
    hub: str = ""
    url: str = ""
    class_orders: Mapping[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    resampled: bool = False  #: its own size is not that of the published position embeddings
    packaged: Path | None = None  #: where the file is in the package, if it comes with Twofold

    @property
    def is_onnx(self) -> bool:
        """True for one that is run by onnxruntime, and recorded as `onnx:FILE`."""
        return self.files[0].endswith(".onnx")

    def class_order(self, file: str, count: int) -> tuple[str, ...]:
        """The order of the `count` classes of a file with that name; () where it is not certain."""
        name = file.lower().replace("-", "").replace("_", "")
        orders = [order for (text, number), order in self.class_orders.items() if number == count and text in name]
        return orders[0] if len(orders) == 1 else ()

    def declared(self, network: "nn.Module", **more: Any) -> "Architecture":
        """The network with what this entry says about it."""
        from twofold.extract.encoders.encoder import Architecture

        return Architecture(name=self.architecture, network=network, tap=self.tap, preprocessing=self.preprocessing,
                            heads=self.heads, **more)


def find_preset(name: str) -> Preset | None:
    """The preset of that name, or None."""
    return next((entry for entry in PRESETS if entry.name == name), None)


def preset(name: str) -> Preset:
    """The preset of that name. Raises InputError that lists what a backbone may be called."""
    if found := find_preset(name):
        return found
    names = ", ".join(entry.name for entry in PRESETS)
    raise InputError(f"unknown backbone {name!r}: choose from {names}, timm:NAME, torchvision:NAME, hf:ORG/NAME, "
                     "hf:FOLDER, onnx:PATH")


check_name = preset


def build(name: str, *, checkpoint: "Checkpoint | None", size: int, drop_path: float) -> "Architecture":
    """The network of a preset."""
    entry = preset(name)
    return entry.build(entry, checkpoint, size, drop_path)


def published(name: str) -> PublishedWeights:
    """Where the weights of a preset come from."""
    entry = preset(name)
    return PublishedWeights(backbone=entry.name, files=entry.files, page=entry.page, licence=entry.licence,
                            hub=entry.hub, url=entry.url, packaged=entry.packaged)


# ------------------------------------------------------------------------------------------------------- builders
def _vit_mae(preset: Preset, checkpoint: "Checkpoint | None", size: int, drop_path: float) -> "Architecture":
    """ViT-B/16 whose output is the mean of the normed patch tokens, the class token left out.

    As MAE's own fine-tuning leaves it (`fc_norm`), the mean is taken first, and normed after.
    """
    import timm

    if size % VIT_PATCH:
        raise InputError(f"vit_mae does not take faces of {size} pixels: its patches have {VIT_PATCH}, so choose a "
                         "multiple of that")
    fine_tuned = checkpoint is not None and "fc_norm.weight" in checkpoint.tensors and \
        "norm.weight" not in checkpoint.tensors
    pooling: dict[str, Any] = {"global_pool": "avg", "fc_norm": True} if fine_tuned else {}
    network: Any = timm.create_model("vit_base_patch16_224", num_classes=0, drop_path_rate=drop_path,
                                     img_size=size or VIT_SIZE, **pooling)
    network.global_pool = "avg"  # set after construction: given to it, timm would drop `norm` for another layer
    built = preset.declared(network)
    return replace(built, tap="norm of the mean of patch tokens (fc_norm)") if fine_tuned else built


def _timm_vit(preset: Preset, checkpoint: "Checkpoint | None", size: int, drop_path: float) -> "Architecture":
    """A vision transformer of timm, of any size that its patches divide. What stands beside the encoder in its file, a
    projection or another pooling, is no classifier."""
    import timm

    name, side = preset.architecture.removeprefix("timm."), size or preset.preprocessing.size
    patch = int(name.partition("_patch")[2][:2])
    if side % patch:
        raise InputError(f"{preset.name} does not take faces of {side} pixels: its patches have {patch}, so choose a "
                         "multiple of that")
    network = timm.create_model(name, num_classes=0, drop_path_rate=drop_path, img_size=side)
    return preset.declared(network, classifier=lambda *_, **__: None, resized=preset.resampled)


def _clip(preset: Preset, checkpoint: "Checkpoint | None", size: int, drop_path: float) -> "Architecture":
    """The same of CLIP's visual tower, with OpenAI's names, or FaRL's, or timm's."""
    built = _timm_vit(preset, checkpoint, size, drop_path)
    return replace(built, entries=clip_entries(checkpoint.tensors)) if checkpoint else built


def clip_entries(tensors: Mapping[str, Any]) -> dict[str, Any] | None:
    """The visual tower of a CLIP with timm's names and shapes, its projection left out; None for a file without one."""
    prefix = next((prefix for prefix in ("visual.", "") if f"{prefix}class_embedding" in tensors), None)
    if prefix is None:
        return None
    entries = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix) and name != f"{prefix}proj":
            name = name.removeprefix(prefix)
            for theirs, ours in CLIP_NAMES:
                name = name.replace(theirs, ours)
            entries[name] = tensor.reshape(1, -1, tensor.shape[-1]) if name in ("cls_token", "pos_embed") else tensor
    return entries


def _onnx(preset: Preset, *_: object) -> "Architecture":
    raise InputError(f"{preset.name} is an ONNX model: `extract` runs it, and nothing else is done with it")


def _posterv2(preset: Preset, checkpoint: "Checkpoint | None", *_: float) -> "Architecture":
    from twofold.extract.encoders.posterv2 import PosterV2

    head = checkpoint.tensors.get("VIT.head.linear.weight") if checkpoint else None
    classes = 8 if head is not None and len(head) == 8 else 7  # any other number does not load strictly
    return preset.declared(PosterV2(classes), trim=PosterV2.trimmed, own_head="VIT.head.")


def _manet(preset: Preset, *_: object) -> "Architecture":
    from twofold.extract.encoders.manet import MANet, combined_heads

    return preset.declared(MANet(), classifier=combined_heads)


def _starter(preset: Preset, *_: object) -> "Architecture":
    from twofold.extract.encoders.starter import Starter

    return preset.declared(Starter())


def _resnet18(preset: Preset, *_: object) -> "Architecture":
    from twofold.extract.encoders.torchvision import trunk

    return preset.declared(trunk("resnet18")[0])


def _resnet50(preset: Preset, checkpoint: "Checkpoint | None", *_: float) -> "Architecture":
    """torchvision's ResNet-50, with the strides, names and pixels of Caffe where the file has them."""
    from twofold.extract.encoders.torchvision import rename_from_caffe, trunk, with_caffe_strides

    built = preset.declared(trunk("resnet50")[0])
    if checkpoint and "conv2_1_1x1_reduce.weight" in checkpoint.tensors:
        return replace(built, name=f"{built.name}, strides of Caffe", network=with_caffe_strides(built.network),
                       preprocessing=CAFFE_PIXELS, rename=rename_from_caffe)
    return replace(built, preprocessing=_RESNET50.preprocessing) if checkpoint else built


def _resnet50_conv5(preset: Preset, checkpoint: "Checkpoint | None", *_: float) -> "Architecture":
    from twofold.extract.encoders.torchvision import Conv5

    return replace(_resnet50(preset, checkpoint), trim=Conv5)


# -------------------------------------------------------------------------------------------------------- entries
_RESNET50 = Preset(
    name="resnet50", build=_resnet50, architecture="torchvision.resnet50", tap="global average pool", dim=2048,
    preprocessing=Preprocessing(size=224, resize=256), trained_on="expressions, FER2013 / FER+",
    files=("resnet50_ferplus_dag.pth", "resnet50_fer2013.pth"),
    page="https://www.robots.ox.ac.uk/~albanie/pytorch-models.html", licence="not stated (research use)",
    note="the second is for any torchvision or timm ResNet-50 trained on FER2013",
    heads=("fc.", "classifier.", "head."),
    url="https://www.robots.ox.ac.uk/~albanie/models/pytorch-mcn/resnet50_ferplus_dag.pth",
)

_EMOTIEFF_B0 = Preset(
    name="emotieff_b0", build=_onnx, architecture="onnx", tap="input of the last linear layer", dim=1280,
    preprocessing=Preprocessing(size=224, resize=224, rule="both"), trained_on="expressions, AffectNet",
    files=("enet_b0_8_best_vgaf.onnx",), page="https://github.com/sb-ai-lab/EmotiEffLib",
    licence="Apache-2.0 (the code)",
    url="https://raw.githubusercontent.com/sb-ai-lab/EmotiEffLib/main/models/affectnet_emotions/onnx/"
        "enet_b0_8_best_vgaf.onnx",
    note="recorded as onnx: and the name of its file",
    class_orders={("", 8): tuple(sorted(CLASS_ORDERS["affectnet8"]))},
)

PRESETS: tuple[Preset, ...] = (
    Preset(
        name="vit_mae", build=_vit_mae, architecture="timm.vit_base_patch16_224",
        tap="mean of patch tokens after the final norm", dim=768,
        preprocessing=Preprocessing(size=224, resize=256, interpolation="bicubic"),
        trained_on="masked autoencoding, ImageNet-1k", files=("mae_pretrain_vit_base.pth",),
        page="https://github.com/facebookresearch/mae", licence="CC-BY-NC-4.0", heads=("head.",),
        hub="timm/vit_base_patch16_224.mae",
    ),
    Preset(
        name="posterv2", build=_posterv2, architecture="twofold.posterv2", tap="VIT.se_block", dim=768,
        preprocessing=Preprocessing(size=224, resize=224, rule="both"),
        trained_on="expressions, RAF-DB or AffectNet",
        files=("posterv2_rafdb.pth", "posterv2_affectnet7.pth", "posterv2_affectnet8.pth", "posterv2_caers.pth"),
        note="name it after its data set, which says the order of the classes; CAER-S needs --classes-of",
        page="https://github.com/Talented-Q/POSTER_V2", licence="MIT",
        class_orders={("raf", 7): CLASS_ORDERS["rafdb"], ("affectnet", 7): CLASS_ORDERS["affectnet7"],
                      ("caer", 7): (), ("", 8): CLASS_ORDERS["affectnet8"]},
    ),
    Preset(
        name="resnet18", build=_resnet18, architecture="torchvision.resnet18", tap="global average pool", dim=512,
        preprocessing=Preprocessing(size=224, resize=224, rule="both"), trained_on="identities, MS-Celeb-1M",
        files=("resnet18_msceleb.pth",), page="https://github.com/zyh-uaiaaaa/Relative-Uncertainty-Learning",
        licence="not stated (research use)", heads=("fc.", "classifier.", "head."),
    ),
    _RESNET50,
    replace(_RESNET50, name="resnet50_conv5", build=_resnet50_conv5, tap="mean of layer4.2.conv2 after norm and ReLU",
            dim=512, preprocessing=CAFFE_PIXELS),
    Preset(
        name="manet", build=_manet, architecture="twofold.manet", tap="means of the local and of the global branch",
        dim=1024, trained_on="expressions, RAF-DB or AffectNet",
        preprocessing=Preprocessing(size=224, resize=224, rule="both", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        files=("manet_rafdb.pth", "manet_affectnet7.pth", "manet_affectnet8.pth", "manet_caers.pth"),
        note="the file does not say the order of its classes: --classes-of manet=ORDER, affectnet7 where its authors' "
             "instructions were followed",
        page="https://github.com/zengqunzhao/MA-Net", licence="not stated (research use)", heads=("fc_1.", "fc_2."),
    ),
    Preset(
        name="farl", build=_clip, architecture="timm.vit_base_patch16_clip_quickgelu_224",
        tap="class token after the final norm", dim=768, preprocessing=CLIP_PIXELS,
        trained_on="20 million faces with captions",
        files=("FaRL-Base-Patch16-LAIONFace20M-ep64.pth",), page="https://github.com/FacePerceiver/FaRL", licence="MIT",
        url="https://github.com/FacePerceiver/FaRL/releases/download/pretrained_weights/"
            "FaRL-Base-Patch16-LAIONFace20M-ep64.pth",
    ),
    Preset(
        name="clip_b16", build=_clip, architecture="timm.vit_base_patch16_clip_quickgelu_224",
        tap="class token after the final norm", dim=768, preprocessing=CLIP_PIXELS,
        trained_on="400 million captioned pictures", files=("clip_vit_b16.safetensors",), heads=("head.",),
        page="https://huggingface.co/timm/vit_base_patch16_clip_224.openai", licence="MIT",
        hub="timm/vit_base_patch16_clip_224.openai",
    ),
    Preset(
        name="siglip2_b16", build=_timm_vit, architecture="timm.vit_base_patch16_siglip_gap_256",
        tap="mean of patch tokens after the final norm", dim=768, heads=("head.", "attn_pool."),
        preprocessing=Preprocessing(size=256, resize=256, rule="both", interpolation="bicubic", mean=(0.5, 0.5, 0.5),
                                    std=(0.5, 0.5, 0.5)),
        trained_on="captioned pictures, WebLI", files=("siglip2_vit_b16_gap_256.safetensors",),
        page="https://huggingface.co/timm/vit_base_patch16_siglip_gap_256.v2_webli", licence="Apache-2.0",
        hub="timm/vit_base_patch16_siglip_gap_256.v2_webli",
    ),
    Preset(
        name="dinov2_b14", build=_timm_vit, architecture="timm.vit_base_patch14_dinov2", resampled=True,
        tap="class token after the final norm", dim=768,
        preprocessing=Preprocessing(size=224, resize=256, interpolation="bicubic"),
        trained_on="142 million pictures", files=("dinov2_vit_b14.safetensors",),
        page="https://huggingface.co/timm/vit_base_patch14_dinov2.lvd142m", licence="Apache-2.0",
        hub="timm/vit_base_patch14_dinov2.lvd142m",
    ),
    Preset(
        name="dinov3_b16", build=_timm_vit, architecture="timm.vit_base_patch16_dinov3",
        tap="mean of patch tokens after the final norm", dim=768,
        preprocessing=Preprocessing(size=256, resize=256, interpolation="bicubic"),
        trained_on="1.7 billion pictures", files=("dinov3_vit_b16.safetensors",),
        page="https://huggingface.co/timm/vit_base_patch16_dinov3.lvd1689m",
        licence="DINOv3 License (Meta's own terms)",
        hub="timm/vit_base_patch16_dinov3.lvd1689m",
    ),
    _EMOTIEFF_B0,
    replace(_EMOTIEFF_B0, name="emotieff_b2", dim=1408, files=("enet_b2_8.onnx",),
            url=_EMOTIEFF_B0.url.replace("enet_b0_8_best_vgaf", "enet_b2_8"),
            preprocessing=Preprocessing(size=260, resize=260, rule="both")),
    Preset(
        name="starter", build=_starter, architecture="twofold.starter", tap="global average pool", dim=256,
        trained_on="expressions, votes of FER+, from random weights",
        preprocessing=Preprocessing(size=48, resize=48, rule="both", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        files=("starter.safetensors",), page="fuse/starter/README.md", licence="MIT, as Twofold; see its card",
        packaged=Path(__file__).parents[2] / "fuse/starter/encoder.safetensors", note="it comes with Twofold",
    ),
)
