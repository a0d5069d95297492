"""Extraction with exactly the recipes that features were made with before, so that they may be used together."""

from collections.abc import Sequence
from pathlib import Path

from cache.recipe import Recipe, differences
from data.errors import InputError
from extract.encoder import Encoder
from extract.plan import Settings, recipe_of
from extract.report import Report
from extract.run import Request, extract, load_encoders, parse_weights
from extract.views import view


def extract_again(recipes: Sequence[Recipe], *, manifest: Path, roots: Sequence[str], store: Path,
                  weights: Sequence[str], device: str, reused: bool) -> list[Report]:
    """Extract the faces with these recipes, and nothing else, into the store; a report for each kind of recipe.

    weights: NAME=PATH for what is not in the weights folder. reused: the store may hold what images no longer are.
    Raises InputError, before any face is read, where what is here would make another recipe.
    """
    parse_weights(weights, [recipe.backbone for recipe in recipes])
    requests = [_request(group, manifest, roots, store, weights, device, reused) for group in _groups(recipes)]
    loaded = [_load(request, group) for request, group in zip(requests, _groups(recipes), strict=True)]
    reports = []
    for request, encoders in zip(requests, loaded, strict=True):
        reports.append(extract(request, encoders=encoders))
        if reports[-1].work.stopped_by:
            break
    return reports


def _groups(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """Recipes that one request can make: the same view, precision and dtype."""
    groups: dict[tuple[str, str, str], list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault((recipe.view["name"], recipe.precision, recipe.dtype), []).append(recipe)
    return list(groups.values())


def _request(group: list[Recipe], manifest: Path, roots: Sequence[str], store: Path, weights: Sequence[str],
             device: str, reused: bool) -> Request:
    names = [recipe.backbone for recipe in group]
    given = {text.partition("=")[0]: text for text in weights}
    chosen = [given.get(recipe.backbone) or f"{recipe.backbone}={recipe.weights}" for recipe in group
              if recipe.backbone in given or recipe.untrained]
    return Request(manifest=manifest, roots=roots, store=store, backbones=names, views=[group[0].view["name"]],
                   weights=chosen, device=device, precision=group[0].precision,
                   settings=Settings(dtype=group[0].dtype, recheck=reused, retry_failures=reused))


def _load(request: Request, group: list[Recipe]) -> list[Encoder]:
    """The encoders of a request, each of which makes what its recipe says."""
    encoders = {encoder.name: encoder for encoder in load_encoders(request, device=request.device.split(",")[0])}
    for wanted in group:
        name = wanted.backbone
        apart = differences(wanted, recipe_of(encoders[name], view(request.views[0]), dtype=request.settings.dtype))
        if "weights" in apart:
            raise InputError(f"the weights of {name} here are {apart['weights'][1]}, and the run was trained on "
                             f"{wanted.weights}: give that file with --weights {name}=PATH")
        if apart:
            what = "; ".join(f"{field} {there} there, {here} here" for field, (there, here) in apart.items())
            raise InputError(f"{name} is computed otherwise here than what the run was trained on: {what}")
    return list(encoders.values())
