"""Extraction with exactly the recipes that features were made with before, so that they may be used together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.cache.recipe import Recipe, differences
from twofold.data.errors import InputError
from twofold.extract.networks.encoder import Encoder
from twofold.extract.networks.registry import load_encoder
from twofold.extract.plan import Settings, recipe_of
from twofold.extract.report import Report
from twofold.extract.run import Request, extract, parse_weights
from twofold.extract.views import view
from twofold.extract.weights.find import file_names, weights_folder

WEIGHTS_FILES = (".pth", ".pt", ".safetensors", ".bin", ".tar", ".ckpt")


@dataclass(frozen=True)
class Source:
    """An encoder as `extract` would be asked for it: the name of the backbone, and its weights (None: as found)."""

    backbone: str
    weights: str | None


def extract_again(recipes: Sequence[Recipe], *, manifest: Path, roots: Sequence[str], store: Path,
                  weights: Sequence[str], device: str, reused: bool) -> list[Report]:
    """Extract the faces with these recipes, and nothing else, into the store; a report for each kind of recipe.

    weights: NAME=PATH for what is not in the weights folder, where they are known by their content, whatever the file
    is called (but for ONNX models, whose name is in the recipe). reused: the store may hold what images no longer are.
    Raises InputError, before any face is read, where what is here would make another recipe.
    """
    found = _find_all(recipes, weights, device)
    reports = []
    for group in groups(recipes):
        some = [found[recipes.index(recipe)] for recipe in group]
        request = _request(group[0], [source for _, source in some], manifest, roots, store, device, reused)
        reports.append(extract(request, encoders=[encoder for encoder, _ in some]))
        if reports[-1].work.stopped_by:
            break
    return reports


def find_encoders(recipes: Sequence[Recipe], *, weights: Sequence[str], device: str) -> list[Encoder]:
    """The encoder of each recipe, found as `extract_again` finds it. Raises InputError where one cannot be made."""
    return [encoder for encoder, _ in _find_all(recipes, weights, device)]


def _find_all(recipes: Sequence[Recipe], weights: Sequence[str], device: str) -> list[tuple[Encoder, Source]]:
    files = parse_weights(weights, [recipe.backbone for recipe in recipes])
    return [_find(recipe, files.get(recipe.backbone, []), device.split(",")[0]) for recipe in recipes]


def groups(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """Recipes that one request can make: the same view, precision and dtype."""
    alike: dict[tuple[str, str, str], list[Recipe]] = {}
    for recipe in recipes:
        alike.setdefault((recipe.view["name"], recipe.precision, recipe.dtype), []).append(recipe)
    return list(alike.values())


def _request(recipe: Recipe, sources: Sequence[Source], manifest: Path, roots: Sequence[str], store: Path,
             device: str, reused: bool) -> Request:
    return Request(manifest=manifest, roots=roots, store=store, backbones=[source.backbone for source in sources],
                   views=[recipe.view["name"]],
                   weights=[f"{source.backbone}={source.weights}" for source in sources if source.weights],
                   device=device, precision=recipe.precision,
                   settings=Settings(dtype=recipe.dtype, recheck=reused, retry_failures=reused))


def _find(recipe: Recipe, given: Sequence[str], device: str) -> tuple[Encoder, Source]:
    """The first source that makes the recipe. Raises InputError that says what those tried would make instead."""
    apart: dict[str, tuple[object, object]] = {}
    tried, failure = 0, None
    for source in _sources(recipe, given):
        try:
            encoder = load_encoder(source.backbone, weights=source.weights, device=device, precision=recipe.precision)
        except InputError as error:  # a file of another network; the last one tells how to get the right one
            failure = error
            continue
        apart = differences(recipe, recipe_of(encoder, view(recipe.view["name"]), dtype=recipe.dtype))
        tried += 1
        if not apart:
            return encoder, source
    if not tried and failure:
        raise failure
    if "weights" in apart or not apart:
        raise InputError(f"the weights of {recipe.backbone} that the run was trained on ({recipe.weights}) are not here"
                         f"{f' ({tried} others are)' if tried else ''}: give their file with --weights "
                         f"{recipe.backbone}=PATH, or put it into {weights_folder()}")
    what = "; ".join(f"{field} {there} there, {here} here" for field, (there, here) in apart.items())
    raise InputError(f"{recipe.backbone} is computed otherwise here than what the run was trained on: {what}")


def _sources(recipe: Recipe, given: Sequence[str]) -> Iterator[Source]:
    """Where the encoder of a recipe may come from, the likeliest first."""
    name, folder = recipe.backbone, weights_folder()
    if name.startswith("onnx:"):
        for path in map(Path, given) if given else sorted(folder.glob("*.onnx")):
            yield Source(f"onnx:{path}?{_onnx_options(recipe)}", None)
    elif given or recipe.untrained:
        yield from (Source(name, weights) for weights in given or [recipe.weights])
    else:
        usual = {Path(file).stem for file in file_names(name)}
        files = [path for path in folder.glob("*") if path.suffix in WEIGHTS_FILES]
        yield from (Source(name, str(path)) for path in sorted(files, key=lambda path: (path.stem not in usual, path)))
        yield Source(name, "hub")


def _onnx_options(recipe: Recipe) -> str:
    """What the recipe says of the input and output, in the words of `onnx:PATH?...`."""
    how = recipe.preprocessing
    options = {"size": how["size"][0], "resize": how["resize"], "interpolation": how["interpolation"],
               "mean": "/".join(map(repr, how["mean"])), "std": "/".join(map(repr, how["std"])),
               "scale": repr(how["scale"]), "output": recipe.tap}
    return "&".join(f"{key}={value}" for key, value in options.items())
