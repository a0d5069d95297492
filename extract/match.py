"""Find the encoders that make given recipes, so that new features may be used together with earlier ones."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from twofold.cache.recipe import Recipe, differences
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.registry import check_dim, check_fit
from twofold.extract.encoders.sources import published_weights
from twofold.extract.engine.loop import LoadedEncoders
from twofold.extract.plan import recipe_of
from twofold.extract.streams import Encoders, EncoderSource, parse_weights
from twofold.extract.views import view
from twofold.extract.weights.find import weights_folder

WEIGHTS_FILES = (".pth", ".pt", ".safetensors", ".bin", ".tar", ".ckpt")


def load_matching(recipes: Sequence[Recipe], *, weights: Sequence[str], device: str, dims: Sequence[int] = ()
                  ) -> LoadedEncoders:
    """Load the encoder of each recipe.

    weights: NAME=PATH, where the file is not in the weights folder; dims: features that each recipe must give, where
    known. Raises InputError where an encoder is not available.
    """
    check_widths(recipes, dims)
    files, encoders = parse_weights(weights, [recipe.backbone for recipe in recipes]), Encoders(device)
    return LoadedEncoders(tuple(recipes), tuple(
        find_encoder(recipe, files.get(recipe.backbone, []), encoders)[1] for recipe in recipes))


def check_widths(recipes: Sequence[Recipe], dims: Sequence[int]) -> None:
    """Raise InputError for a recipe whose network would not give that many features; no dims: unknown."""
    for recipe, dim in zip(recipes, dims, strict=bool(dims)):
        check_dim(recipe.backbone, dim, untrained=recipe.untrained)


def find_encoder(recipe: Recipe, weights: Sequence[str], encoders: Encoders) -> tuple[EncoderSource, Encoder]:
    """Return the first source whose encoder makes the recipe, and the encoder.

    weights: files to try first; then those in the weights folder. They are recognised by their content, whatever their
    name (ONNX models apart, whose name is in the recipe). Raises InputError that says what those tried make
    instead.
    """
    differing: dict[str, tuple[object, object]] = {}
    tried, failure = 0, None
    for source in _sources(recipe, weights):
        try:
            if source.weights and not recipe.untrained and source.weights != "hub":
                check_fit(recipe.backbone, Path(source.weights))
            encoder = encoders.load(source)
        except InputError as error:  # a file of another network; the last error tells how to get the right one
            failure = error
            continue
        differing = differences(recipe, recipe_of(encoder, view(recipe.view["name"]), dtype=recipe.dtype))
        tried += 1
        if not differing:
            return source, encoder
        encoders.drop(source)
    if not tried and failure:
        raise failure
    if "weights" in differing or not differing:
        raise InputError(f"the weights of {recipe.backbone} that the run was trained on ({recipe.weights}) are not here"
                         f"{f' ({tried} others are)' if tried else ''}: give their file with --weights "
                         f"{recipe.backbone}=PATH, or put it into {weights_folder()}")
    what = "; ".join(f"{field} {there} there, {here} here" for field, (there, here) in differing.items())
    raise InputError(f"{recipe.backbone} is computed otherwise here than what the run was trained on: {what}")


def _sources(recipe: Recipe, weights: Sequence[str]) -> Iterator[EncoderSource]:
    """Yield where the encoder of a recipe may come from, the likeliest first."""
    name, folder = recipe.backbone, weights_folder()

    def source(file: str | None, backbone: str = name) -> EncoderSource:
        return EncoderSource(backbone=backbone, weights=file).with_precision(recipe.precision)

    if name.startswith("onnx:"):
        for path in dict.fromkeys([*map(Path, weights), *sorted(folder.glob("*.onnx"))]):
            yield source(None, f"onnx:{path}?{_onnx_options(recipe)}")
    elif recipe.untrained:
        yield from map(source, weights or [recipe.weights])
    else:
        yield from map(source, weights)
        usual = {Path(file).stem for file in published_weights(name).files}
        files = [path for path in folder.glob("*") if path.suffix in WEIGHTS_FILES and str(path) not in weights]
        yield from (source(str(path)) for path in sorted(files, key=lambda path: (path.stem not in usual, path)))
        yield source("hub")


def _onnx_options(recipe: Recipe) -> str:
    """Return what the recipe says of input and output as options of `onnx:PATH?...`."""
    how = recipe.preprocessing
    options = {"size": how["size"][0], "resize": how["resize"], "rule": how["resize_rule"],
               "interpolation": how["interpolation"],
               "mean": "/".join(map(repr, how["mean"])), "std": "/".join(map(repr, how["std"])),
               "scale": repr(how["scale"]), "output": recipe.tap}
    return "&".join(f"{key}={value}" for key, value in options.items())
