"""What a stranger may have done to a feature file of version 1, a function an attack."""

import json

import h5py
import numpy as np

from tests.cache.version1 import seal


def replace(file: h5py.File, name: str, **how) -> None:
    """Another dataset in the place of `name`."""
    del file[name]
    file.create_dataset(name, **how)


def external_link(file, pipe):
    del file["features"]
    file["features"] = h5py.ExternalLink(str(pipe), "/features")


def external_link_of_a_group(file, pipe):
    del file["failures"]
    file["failures"] = h5py.ExternalLink(str(pipe), "/failures")


def soft_link(file, pipe):
    file.move("features", "failures/keys2")
    file["features"] = h5py.SoftLink("/failures/keys2")


def soft_link_to_nowhere(file, pipe):
    del file["keys"]
    file["keys"] = h5py.SoftLink("/nowhere")


def virtual_dataset(file, pipe):
    rows, dim = file["features"].shape
    layout = h5py.VirtualLayout((rows, dim), "<f2")
    layout[:] = h5py.VirtualSource(str(pipe), "features", (rows, dim))
    del file["features"]
    file.create_virtual_dataset("features", layout, fillvalue=np.nan)


def external_storage(file, pipe):
    shape = file["features"].shape
    replace(file, "features", shape=shape, dtype="<f2", external=[(str(pipe), 0, shape[0] * shape[1] * 2)])


def bomb_by_compression(file, pipe):
    replace(file, "features", shape=(1 << 24, 6), dtype="<f2", chunks=(1 << 24, 6), compression="gzip", fillvalue=0)


def unexpected_filter(file, pipe):
    values = file["features"][...]
    replace(file, "features", data=values, chunks=(256, values.shape[1]), shuffle=True, fletcher32=True,
            fillvalue=np.nan)


def without_checksum(file, pipe):
    values = file["features"][...]
    replace(file, "features", data=values, chunks=(256, values.shape[1]), fillvalue=np.nan)


def compound_type(file, pipe):
    replace(file, "features", data=np.zeros(700, [("a", "<f2"), ("b", "<f2")]), chunks=(256,), fletcher32=True)


def object_type(file, pipe):
    replace(file, "keys", data=[file.ref] * 700, dtype=h5py.ref_dtype, chunks=(256,), fletcher32=True)


def keys_of_any_length(file, pipe):
    replace(file, "keys", data=["x" * (1 << 20)] * 700, dtype=h5py.string_dtype(), chunks=(256,))


def keys_of_absurd_length(file, pipe):
    replace(file, "keys", shape=(700,), dtype="S1000000", chunks=(1,), fletcher32=True)


def terabytes_claimed(file, pipe):
    file["features"].resize(1 << 40, axis=0)
    file.attrs["rows"] = 1 << 40


def terabytes_claimed_everywhere(file, pipe):
    for name in ("features", "keys", "sha256"):
        file[name].resize(1 << 34, axis=0)
    file.attrs["rows"] = 1 << 34


def absurd_width(file, pipe):
    replace(file, "features", shape=(700, 1 << 30), dtype="<f2", chunks=(1, 1 << 30), fletcher32=True,
            fillvalue=np.nan)
    file.attrs["dim"] = 1 << 30


def no_rows_of_a_million_numbers(file, pipe):
    replace(file, "features", shape=(0, 1 << 20), maxshape=(None, 1 << 20), dtype="<f2", chunks=(256, 1 << 20),
            fletcher32=True, fillvalue=np.nan)
    file.attrs["dim"], file.attrs["rows"] = 1 << 20, 0


def duplicate_keys(file, pipe):
    file["keys"][5] = file["keys"][6]
    seal(file)


def a_key_that_failed_and_did_not(file, pipe):
    file["keys"][5] = file["failures/keys"][0]
    seal(file)


def escaping_key(file, pipe):
    file["keys"][5] = b"../../etc/passwd"
    seal(file)


def escaping_failure(file, pipe):
    file["failures/keys"][0] = b"/etc/passwd"
    seal(file)


def keys_not_sealed(file, pipe):
    file["keys"][5] = b"other.jpg"


def later_version(file, pipe):
    file.attrs["format_version"] = 3
    seal(file)


def other_format(file, pipe):
    file.attrs["format"] = "somebody's"
    seal(file)


def recipe_of_other_weights(file, pipe):
    recipe = json.loads(file.attrs["recipe"])
    recipe["weights"] = "sha256:" + "0" * 64
    file.attrs["recipe"] = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    seal(file)


def recipe_too_deep(file, pipe):
    file.attrs["recipe"] = "[" * 30_000
    seal(file)


def recipe_of_later_version(file, pipe):
    file.attrs["recipe"] = file.attrs["recipe"].replace('"version":1', '"version":2')
    seal(file)


def other_backbone_in_front(file, pipe):
    file.attrs["backbone"] = "vit_mae"
    seal(file)


def infinite_value(file, pipe):
    file["features"][699, 5] = np.inf


def not_a_number(file, pipe):
    file["features"][300, 3] = np.nan


def many_attributes(file, pipe):
    for number in range(5_000):
        file.attrs[f"x{number}"] = number


def huge_attribute(file, pipe):
    file.attrs.create("recipe", data="x" * 60_000 + file.attrs["recipe"])


def array_for_an_attribute(file, pipe):
    file.attrs["dim"] = np.full(1000, 6)


def many_members(file, pipe):
    for number in range(3_000):
        file.create_group(f"g{number}")


def a_member_too_many(file, pipe):
    file["notes"] = "read me"


def a_group_that_holds_itself(file, pipe):
    file["failures/again"] = file["failures"]


def features_missing(file, pipe):
    del file["features"]


def rows_that_do_not_agree(file, pipe):
    file["keys"].resize(600, axis=0)


def logits_to_elsewhere(file, pipe):
    file["logits"] = h5py.ExternalLink(str(pipe), "/logits")


def logits_without_classes(file, pipe):
    file.create_dataset("logits", data=np.zeros((700, 3), "<f4"), chunks=(256, 3), fletcher32=True, fillvalue=np.nan)


def classifier_of(file, pipe, *, classes='["x", "y"]', weight=None, bias=None):
    group = file.create_group("classifier")
    group.attrs["classes"], group.attrs["sha256"] = np.bytes_(classes), np.bytes_("0" * 64)
    for name, values in (("weight", weight), ("bias", bias)):
        values = np.zeros((6, 2)[:2 - (name == "bias")], "<f4") if values is None else values
        values = np.zeros(2, "<f4") if name == "bias" and values.shape == (6,) else values
        group.create_dataset(name, data=values, chunks=(256, *values.shape[1:]), maxshape=(None, *values.shape[1:]),
                             fletcher32=True, fillvalue=np.nan)


def classifier_not_sealed(file, pipe):
    classifier_of(file, pipe)


def classifier_of_another_width(file, pipe):
    classifier_of(file, pipe, weight=np.zeros((5, 2), "<f4"))


def classifier_with_classes_of_any_length(file, pipe):
    classifier_of(file, pipe)
    del file["classifier"].attrs["classes"]
    file["classifier"].attrs["classes"] = '["x", "y"]'


def classifier_with_classes_too_deep(file, pipe):
    classifier_of(file, pipe, classes="[" * 30_000)


def classifier_elsewhere(file, pipe):
    classifier_of(file, pipe)
    del file["classifier/weight"]
    file["classifier/weight"] = h5py.ExternalLink(str(pipe), "/weight")


def classifier_of_terabytes(file, pipe):
    classifier_of(file, pipe)
    del file["classifier/weight"]
    file["classifier"].create_dataset("weight", (6, 2 ** 14), "<f4", chunks=(256, 2 ** 14), maxshape=(None, 2 ** 14),
                                      fletcher32=True, fillvalue=np.nan)
    del file["classifier/bias"]
    file["classifier"].create_dataset("bias", (2 ** 14,), "<f4", chunks=(256,), maxshape=(None,), fletcher32=True,
                                      fillvalue=np.nan)


HOSTILE = {
    external_link: "link to elsewhere", external_link_of_a_group: "link to elsewhere",
    soft_link: "link to elsewhere|list",
    soft_link_to_nowhere: "link to elsewhere", virtual_dataset: "not stored in chunks inside the file",
    external_storage: "not stored in chunks inside|not mark", bomb_by_compression: "not mark|checksum",
    unexpected_filter: "just the fletcher32 checksum", without_checksum: "just the fletcher32 checksum",
    compound_type: "neither float16 nor float32", object_type: "not a list of fixed-length texts",
    keys_of_any_length: "just the fletcher32 checksum",
    keys_of_absurd_length: "not cut into chunks of 256",
    terabytes_claimed: "more than the file", terabytes_claimed_everywhere: "more than the file",
    absurd_width: "chunks of 256 whole rows", no_rows_of_a_million_numbers: "not rows of 1 to",
    duplicate_keys: "stands in it twice", a_key_that_failed_and_did_not: "stands in it twice",
    escaping_key: "not a plain relative path", escaping_failure: "not a plain relative path",
    keys_not_sealed: "were altered", later_version: "version 3 is not", other_format: "format",
    recipe_of_other_weights: "does not match its fingerprint", recipe_too_deep: "not a recipe",
    recipe_of_later_version: "recipe version 2", other_backbone_in_front: "backbone or view is not the recipe's",
    infinite_value: "not finite", not_a_number: "not finite", many_attributes: "more attributes than the format has",
    huge_attribute: "recipe|absurdly long", array_for_an_attribute: "neither one text nor one whole number",
    many_members: "more than the format lists", a_member_too_many: "does not list|more than",
    a_group_that_holds_itself: "more than the format lists|does not list", features_missing: "lacks",
    rows_that_do_not_agree: "has shape", logits_to_elsewhere: "link to elsewhere",
    logits_without_classes: "not a whole HDF5 file",
    classifier_not_sealed: "classifier was altered", classifier_of_another_width: "for 6 features",
    classifier_with_classes_of_any_length: "were altered|was altered",
    classifier_with_classes_too_deep: "not a whole HDF5 file", classifier_elsewhere: "link to elsewhere",
    classifier_of_terabytes: "more than the file of",
}
