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
    packaged: Path | None = None  #: where the file is in the package, if it comes with Twofold

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
        name="starter", build=_starter, architecture="twofold.starter", tap="global average pool", dim=256,
        trained_on="expressions, votes of FER+, from random weights",
        preprocessing=Preprocessing(size=48, resize=48, rule="both", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        files=("starter.safetensors",), page="fuse/starter/README.md", licence="MIT, as Twofold; see its card",
        packaged=Path(__file__).parents[2] / "fuse/starter/encoder.safetensors", note="it comes with Twofold",
    ),
)
