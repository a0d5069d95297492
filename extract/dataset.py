"""Whether the faces of a manifest are those of a store: the same keys, and the same bytes under them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from twofold.cache.errors import CacheError
from twofold.cache.feature_file import FeatureFile
from twofold.cache.recipe import Recipe
from twofold.cache.shards import CachedRows, cached_rows, shard_paths
from twofold.cache.store import Store
from twofold.data.images.sources import ImageSource, hash_images
from twofold.extract.plan import ExtractOptions, WantedFile

COMPARED = 32  #: images that every run compares, spread over the faces that are cached


def compared_with_store(store: Store, keys: Sequence[str], faces: ImageSource, wanted: Sequence[WantedFile],
                        options: ExtractOptions) -> Mapping[str, str] | None:
    """SHA-256 of each image as it is now, where all are to be compared with what is cached; else None.

    Raises CacheError for a store of another dataset: none of its keys is in the manifest, or none of the images that
    both have is the same; and, unless changed images are to be computed again, where a sample shows that any is not.
    """
    if options.replace_manifest:
        return hash_images(faces, keys, workers=options.workers)
    store.require_same_dataset(keys)
    hashes = hash_images(faces, keys, workers=options.workers) if options.recheck else None
    stored = _stored_rows(store, wanted)
    cached = [key for key in keys if any(key in rows.place for rows in stored)]
    sample = hashes or hash_images(faces, cached[::-(-len(cached) // COMPARED) or 1], workers=options.workers)
    compared = [key for key in cached if key in sample]
    differing = [key for key in compared
                 if any(key in rows.place and rows.sha256(key) != sample[key] for rows in stored)]
    if differing and len(differing) == len(compared):
        raise CacheError(f"{store.path} is the store of another dataset: it has {_other_images(differing, compared)}; "
                         "give another --store, or say --replace-manifest, which computes them again")
    if differing and not options.recheck:
        raise CacheError(f"{store.path} has {_other_images(differing, compared)}: say --recheck to compute changed "
                         "images again; another dataset belongs into another --store")
    return hashes


def _other_images(differing: Sequence[str], compared: Sequence[str]) -> str:
    return (f"the features of other images under {len(differing)} of the {len(compared)} keys that were compared "
            f"(the first is {differing[0]!r})")


def _stored_rows(store: Store, wanted: Sequence[WantedFile]) -> list[CachedRows]:
    """What the store has of each wanted file; where it has no rows of any yet, what it has of its others."""
    rows = [_rows_of(store, file.recipe) for file in wanted]
    return rows if any(cached.place for cached in rows) else [_rows_of(store, recipe) for recipe in _recipes(store)]


def _rows_of(store: Store, recipe: Recipe) -> CachedRows:
    """By keys and hashes alone: what is damaged, or has just gone into another file, says nothing of images."""
    files = []
    for path in (store.path_of(recipe), *shard_paths(store, recipe)):
        with suppress(CacheError):
            file = FeatureFile(path)
            _ = file.keys
            files.append(file)
    return cached_rows(files)


def _recipes(store: Store) -> list[Recipe]:
    recipes: dict[str, Recipe] = {}
    for file in [*store.files(), *store.shards()]:
        with suppress(CacheError):
            recipes[file.fingerprint] = file.recipe
    return list(recipes.values())
