"""The paper's encoders: what each gives, what it wants, and where its weights are published. Light: no torch."""

from dataclasses import dataclass, replace

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One encoder of the paper (arXiv 2407.12257, section 3) as declared facts; tests hold them against reality.

    dim: length of the embedding; heads: prefixes of classifier entries that a weights file may hold besides;
    file: the name that the weights folder is searched for (or the same with .safetensors), or one of `also`;
    hub: the repository on the Hugging Face hub, where it is published there.
    """

    name: str
    architecture: str
    tap: str
    dim: int
    preprocessing: Preprocessing
    trained_on: str
    file: str
    page: str
    licence: str
    heads: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    note: str = ""  #: what a newcomer has to know about the files
    hub: str = ""


#: RGB bytes minus the mean of VGGFace2, as the ResNet-50 of FER+ was trained
CAFFE_PIXELS = Preprocessing(size=224, resize=256, mean=(131.0912, 103.8827, 91.4953), std=(1.0, 1.0, 1.0), scale=1.0)

_RESNET50 = Preset(
    name="resnet50", architecture="torchvision.resnet50", tap="global average pool", dim=2048,
    preprocessing=Preprocessing(size=224, resize=256), trained_on="expressions, FER2013 / FER+",
    file="resnet50_ferplus_dag.pth", also=("resnet50_fer2013.pth",),
    page="https://www.robots.ox.ac.uk/~albanie/pytorch-models.html", licence="not stated (research use)",
    note="the second is for any torchvision or timm ResNet-50 trained on FER2013",
    heads=("fc.", "classifier.", "head."),
)

PRESETS: tuple[Preset, ...] = (
    Preset(
        name="vit_mae", architecture="timm.vit_base_patch16_224", tap="mean of patch tokens after the final norm",
        dim=768, preprocessing=Preprocessing(size=224, resize=256, interpolation="bicubic"),
        trained_on="masked autoencoding, ImageNet-1k", file="mae_pretrain_vit_base.pth",
        page="https://github.com/facebookresearch/mae", licence="CC-BY-NC-4.0", heads=("head.",),
        hub="timm/vit_base_patch16_224.mae",
    ),
    Preset(
        name="posterv2", architecture="twofold.posterv2", tap="VIT.se_block", dim=768,
        preprocessing=Preprocessing(size=224, resize=224, rule="both"),
        trained_on="expressions, RAF-DB or AffectNet", file="posterv2_rafdb.pth",
        also=("posterv2_affectnet7.pth", "posterv2_affectnet8.pth", "posterv2_caers.pth"),
        note="name it after its data set, which says the order of the classes; CAER-S needs --classes-of",
        page="https://github.com/Talented-Q/POSTER_V2", licence="MIT",
    ),
    Preset(
        name="resnet18", architecture="torchvision.resnet18", tap="global average pool", dim=512,
        preprocessing=Preprocessing(size=224, resize=224, rule="both"), trained_on="identities, MS-Celeb-1M",
        file="resnet18_msceleb.pth",
        page="https://github.com/zyh-uaiaaaa/Relative-Uncertainty-Learning", licence="not stated (research use)",
        heads=("fc.", "classifier.", "head."),
    ),
    _RESNET50,
    replace(_RESNET50, name="resnet50_conv5", tap="mean of layer4.2.conv2 after norm and ReLU", dim=512,
            preprocessing=CAFFE_PIXELS),
    Preset(
        name="manet", architecture="twofold.manet", tap="means of the local and of the global branch", dim=1024,
        preprocessing=Preprocessing(size=224, resize=224, rule="both", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        trained_on="expressions, RAF-DB or AffectNet", file="manet_rafdb.pth",
        also=("manet_affectnet7.pth", "manet_affectnet8.pth", "manet_caers.pth"),
        note="the file does not say the order of its classes: --classes-of manet=ORDER, affectnet7 where its authors' "
             "instructions were followed",
        page="https://github.com/zengqunzhao/MA-Net", licence="not stated (research use)", heads=("fc_1.", "fc_2."),
    ),
)


def preset(name: str) -> Preset:
    """The preset of that name. Raises InputError listing what a backbone may be called."""
    for backbone in PRESETS:
        if backbone.name == name:
            return backbone
    names = ", ".join(backbone.name for backbone in PRESETS)
    raise InputError(f"unknown backbone {name!r}: choose from {names}, timm:NAME, torchvision:NAME, onnx:PATH")
