"""The arrows of the imports are the arrows of the data: read from the source, not from behaviour."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "data": {"data", "numpy", "pandas", "PIL", "pillow_heif"},
    "data/utils": {"data", "numpy", "pandas", "huggingface_hub", "typer"},
    "data/images": {"data", "numpy", "pandas", "PIL", "pillow_heif"},
    "data/faces": {"data", "numpy", "pandas", "PIL", "cv2", "av", "isal", "tqdm", "huggingface_hub", "matplotlib"},
    "cache/share": {"cache", "data", "numpy", "msgspec", "fsspec", "sshfs", "aiohttp", "tqdm"},
    "cache": {"cache", "data", "numpy", "h5py", "msgspec", "xxhash", "pyarrow"},
    "extract": {"extract", "data", "cache", "numpy", "torch", "timm", "torchvision", "safetensors", "tqdm", "PIL",
                "onnx", "onnxruntime", "transformers", "huggingface_hub"},
    "extract/cluster": {"extract", "data", "cache", "numpy", "tqdm", "ray"},
    "extract/doctor.py": {"twofold", "extract", "data", "torch", "PIL", "huggingface_hub", "packaging"},
    "fuse/export": {"fuse", "data", "cache", "numpy", "torch", "onnx", "onnxruntime", "onnxscript"},
    "fuse/report": {"fuse", "data", "cache", "numpy", "pandas", "torch", "sklearn", "PIL", "matplotlib", "jinja2",
                    "markupsafe", "msgspec"},
    "fuse/serve": {"fuse", "data", "numpy", "PIL", "starlette", "uvicorn"},
    "fuse": {"fuse", "data", "cache", "numpy", "pandas", "torch", "sklearn", "safetensors", "tqdm", "scipy",
             "msgspec"},
}
ANY_CLI = {"typer", "tqdm", "data", "twofold"}  #: verbs may take the nouns of `data`, and `Report` from the root


def imported(path: Path) -> set[str]:
    """Top names of what a file imports; of twofold's own modules the package below the root."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {own_name(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names.add(own_name(node.module or ""))
    return names - set(sys.stdlib_module_names)


def own_name(module: str) -> str:
    first, _, rest = module.partition(".")
    return rest.split(".")[0] if first == "twofold" and rest else first


@pytest.mark.parametrize("package", ["data", "cache", "extract", "fuse"])
def test_a_package_imports_only_what_the_design_allows(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package}/ is empty"
    for path in files:
        place = path.relative_to(ROOT)
        wings = [folder.as_posix() for folder in (place, *place.parents) if folder.as_posix() in ALLOWED]
        allowed = ALLOWED[wings[0]]  # of the innermost that has rules of its own
        allowed = allowed | ANY_CLI if place.name == "cli.py" else allowed
        surplus = imported(path) - allowed
        assert not surplus, f"{place} imports {sorted(surplus)}"


@pytest.mark.parametrize("path", ["pipeline.py", *(f"{name}/cli.py" for name in ("data", "cache", "extract", "fuse"))])
def test_the_command_line_imports_heavy_things_inside_its_verbs(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    top = {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    top |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    top = {name for name in top if not name.endswith(".cli")}
    assert {name.split(".")[0] for name in top} <= set(sys.stdlib_module_names) | {"typer", "twofold"}
    assert {name for name in top if name.startswith("twofold.")} <= {
        f"twofold.data.utils.{name}" for name in ("errors", "options", "terminal")}  # these import Typer alone


@pytest.mark.parametrize("words", [["--help"], ["cache", "ls", str(ROOT / "tests/cache/store")]])
def test_help_and_cache_ls_load_nothing_heavy(pipeline, words):
    done = pipeline(*words, PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 0 and "typer" in loaded and not loaded & {"torch", "pandas", "h5py", "PIL", "sklearn"}


def test_no_imports_go_in_a_circle():
    files = [path for package in ("data", "cache", "extract", "fuse") for path in (ROOT / package).rglob("*.py")]
    module = {"twofold." + ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    arrows = {name: {target for target in targets(path) if target in module} for name, path in module.items()}
    while leaves := {name for name, to in arrows.items() if not to & arrows.keys()}:
        for name in leaves:
            del arrows[name]
    assert not arrows, f"imports go in a circle among {sorted(arrows)}"


def test_no_two_folders_import_each_other():
    """A folder is a layer."""
    files = [path for package in ("data", "cache", "extract", "fuse") for path in (ROOT / package).rglob("*.py")]
    folder = {"twofold." + ".".join(path.relative_to(ROOT).with_suffix("").parts): path.relative_to(ROOT).parent
              for path in files}
    arrows = {(path.relative_to(ROOT).parent, folder[name]) for path in files if path.name != "cli.py"
              for name in targets(path) & folder.keys()}
    both = {(a, b) for a, b in arrows if a != b and (b, a) in arrows}
    assert not both, f"folders that import each other: {sorted(map(str, both))}"


def targets(path: Path) -> set[str]:
    """Every module that a file imports, whether at its top or late."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_the_wheel_lists_every_package():
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for package in ("data", "cache", "extract", "fuse")
               for path in (ROOT / package).rglob("__init__.py")}
    assert listed == {"twofold"} | {"twofold." + ".".join(folder.parts) for folder in folders}
