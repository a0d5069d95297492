"""The arrows of the imports are the arrows of the data: read from the source, not from behaviour."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "data": {"data", "numpy", "pandas", "PIL"},
    "cache": {"cache", "numpy", "h5py", "fsspec"},
    "extract": {"extract", "data", "cache", "numpy", "torch", "timm", "torchvision", "safetensors", "tqdm", "PIL",
                "onnxruntime", "huggingface_hub"},
    "fuse": {"fuse", "data", "cache", "numpy", "pandas", "torch", "sklearn", "joblib", "safetensors", "tqdm", "scipy"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_the_design_allows(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package}/ is empty"
    for path in files:
        surplus = imported(path) - ALLOWED[package]
        assert not surplus, f"{path.relative_to(ROOT)} imports {sorted(surplus)}"


def test_the_command_line_imports_heavy_things_inside_its_verbs():
    tree = ast.parse((ROOT / "pipeline.py").read_text(encoding="utf-8"))
    top = {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    top |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in top} <= set(sys.stdlib_module_names) | {"typer"}
