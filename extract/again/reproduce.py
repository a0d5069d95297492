"""Extraction with exactly the recipes that features were made with before, so that they may be used together."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from twofold.cache.recipe import Recipe, differences
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.registry import check_dim, check_fit
from twofold.extract.encoders.sources import published_weights
from twofold.extract.plan import ExtractOptions, WantedFile, recipe_of
from twofold.extract.report import Extraction
from twofold.extract.run import Request, add_missing, devices_engine, open_place, plan_all
from twofold.extract.streams import Encoders, EncoderSource, parse_weights
from twofold.extract.views import view
from twofold.extract.weights.find import weights_folder

WEIGHTS_FILES = (".pth", ".pt", ".safetensors", ".bin", ".tar", ".ckpt")


def reproduce(recipes: Sequence[Recipe], *, manifest: Path, roots: Sequence[str], store: Path,
              weights: Sequence[str] = (), device: str = "auto", reused: bool = False, dims: Sequence[int] = ()
              ) -> Extraction:
    """Extract the faces with these recipes, and nothing else, into the store.

    weights: NAME=PATH for what is not in the weights folder, where they are known by their content, whatever the file
    is called (but for ONNX models, whose name is in the recipe). reused: the store may hold what images no longer are.
    dims: how many features each recipe is to give, where that is known. An encoder is looked for only if the store
    lacks rows of it. Raises InputError, before any face is computed, where
    what is here would make another recipe.
    """
    files = parse_weights(weights, [recipe.backbone for recipe in recipes])
    options = ExtractOptions(recheck=reused, retry_failures=reused)
    devices = device.split(",")
    encoders = Encoders(devices[0])
    place = open_place(Request(manifest=manifest, roots=roots, store=store, streams=[], device=device))
    plans, sources = [], []
    for file in plan_all(place, [WantedFile(recipe) for recipe in recipes], options):
        source = EncoderSource(backbone=file.recipe.backbone)
        if file.missing.any():
            _check_width(file.recipe, recipes, dims)
            source, encoder = find_encoder(file.recipe, files.get(file.recipe.backbone, []), encoders)
            file = replace(file, wanted=WantedFile(file.recipe, encoder.dim, encoder.classifier))
        plans.append(file)
        sources.append(source)
    return add_missing(place, plans, sources, devices_engine(devices, encoders), options)


def find_encoders(recipes: Sequence[Recipe], *, weights: Sequence[str], device: str, dims: Sequence[int] = ()
                  ) -> list[Encoder]:
    """The encoder of each recipe, found as `reproduce` finds it. Raises InputError where one cannot be made."""
    for recipe in recipes:
        _check_width(recipe, recipes, dims)
    files, encoders = parse_weights(weights, [recipe.backbone for recipe in recipes]), Encoders(device)
    return [find_encoder(recipe, files.get(recipe.backbone, []), encoders)[1] for recipe in recipes]


def _check_width(recipe: Recipe, recipes: Sequence[Recipe], dims: Sequence[int]) -> None:
    if dims:
        check_dim(recipe.backbone, dims[list(recipes).index(recipe)], untrained=recipe.untrained)


def find_encoder(recipe: Recipe, weights: Sequence[str], encoders: Encoders) -> tuple[EncoderSource, Encoder]:
    """The first source whose encoder makes the recipe. Raises InputError that says what those tried make instead."""
    differing: dict[str, tuple[object, object]] = {}
    tried, failure = 0, None
    for source in _sources(recipe, weights):
        try:
            if source.weights and not recipe.untrained and source.weights != "hub":
                check_fit(recipe.backbone, Path(source.weights))
            encoder = encoders.load(source)
        except InputError as error:  # a file of another network; the last one tells how to get the right one
            failure = error
            continue
        differing = differences(recipe, recipe_of(encoder, view(recipe.view["name"]), dtype=recipe.dtype))
        tried += 1
        if not differing:
            return source, encoder
        encoders.forget(source)
    if not tried and failure:
        raise failure
    if "weights" in differing or not differing:
        raise InputError(f"the weights of {recipe.backbone} that the run was trained on ({recipe.weights}) are not here"
                         f"{f' ({tried} others are)' if tried else ''}: give their file with --weights "
                         f"{recipe.backbone}=PATH, or put it into {weights_folder()}")
    what = "; ".join(f"{field} {there} there, {here} here" for field, (there, here) in differing.items())
    raise InputError(f"{recipe.backbone} is computed otherwise here than what the run was trained on: {what}")


def _sources(recipe: Recipe, weights: Sequence[str]) -> Iterator[EncoderSource]:
    """Where the encoder of a recipe may come from, the likeliest first."""
    name, folder = recipe.backbone, weights_folder()

    def source(file: str | None, backbone: str = name) -> EncoderSource:
        return EncoderSource(backbone=backbone, weights=file).exactly(recipe.precision)

    if name.startswith("onnx:"):
        for path in map(Path, weights) if weights else sorted(folder.glob("*.onnx")):
            yield source(None, f"onnx:{path}?{_onnx_options(recipe)}")
    elif weights or recipe.untrained:
        yield from map(source, weights or [recipe.weights])
    else:
        usual = {Path(file).stem for file in published_weights(name).files}
        files = [path for path in folder.glob("*") if path.suffix in WEIGHTS_FILES]
        yield from (source(str(path)) for path in sorted(files, key=lambda path: (path.stem not in usual, path)))
        yield source("hub")


def _onnx_options(recipe: Recipe) -> str:
    """What the recipe says of the input and output, in the words of `onnx:PATH?...`."""
    how = recipe.preprocessing
    options = {"size": how["size"][0], "resize": how["resize"], "rule": how["resize_rule"],
               "interpolation": how["interpolation"],
               "mean": "/".join(map(repr, how["mean"])), "std": "/".join(map(repr, how["std"])),
               "scale": repr(how["scale"]), "output": recipe.tap}
    return "&".join(f"{key}={value}" for key, value in options.items())
