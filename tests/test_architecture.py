"""What may be loaded when, and what the public surface is."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import fewshot_episodes
import pytest

import fewshot
from fewshot import checks, prototypes

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
HEAVY = (
    "torchvision",
    "timm",
    "diffusers",
    "PIL",
    "faiss",
    "ot",
    "matplotlib",
    "scipy",
    "sklearn",
    "pandas",
    "click",
    "rich",
    "safetensors",
)


def _loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {module.partition(".")[0] for module in result.stdout.split()}


@pytest.mark.parametrize("package", ["fewshot", "fewshot_episodes"])
def test_import_loads_torch_and_nothing_else_that_is_heavy(package):
    # torch itself may load some of these (where they are installed), so what counts is what we add.
    added = _loaded_after(f"import {package}") - _loaded_after("import torch")
    assert not added & set(HEAVY)


def test_every_public_name_exists_and_is_documented():
    for module in (fewshot, fewshot_episodes):
        for name in module.__all__:
            assert getattr(module, name).__doc__, name


def test_the_doors_are_few_enough_to_read():
    assert len(fewshot.__all__) <= 35


def test_lazy_names_exist():
    for name, module in fewshot._LAZY.items():
        assert getattr(fewshot, name) is getattr(importlib.import_module(module), name)


def test_a_name_that_moved_is_still_there_with_a_warning(monkeypatch):
    monkeypatch.setitem(fewshot._MOVED, "class_means", "fewshot.prototypes")
    with pytest.warns(FutureWarning, match=r"^fewshot\.class_means is .* use fewshot\.prototypes\.class_means$"):
        assert fewshot.class_means is prototypes.class_means


def test_names_that_moved_are_where_they_are_said_to_be():
    assert not set(fewshot._MOVED) & set(fewshot.__all__)
    for name, module in fewshot._MOVED.items():
        assert hasattr(importlib.import_module(module), name), name


def test_a_renamed_entry_is_found_with_a_warning():
    with pytest.warns(FutureWarning, match=r"^method 'old' is deprecated .*: use 'unem'$") as caught:
        assert checks.current_name("method", "old", {"old": "unem"}) == "unem"
    assert caught[0].filename != checks.__file__


def test_deprecated_names_are_gone_in_the_version_that_was_named():
    version, removed_in = ([int(part) for part in text.split(".")] for text in (fewshot.__version__, checks.REMOVED_IN))
    assert version < removed_in


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fewshot' has no attribute 'nearest'"):
        _ = fewshot.nearest


def test_every_module_lists_its_public_names_as_they_are():
    homes = [(path, ROOT) for path in ROOT.glob("fewshot/**/*.py")]
    homes += [(path, ROOT / "episodes") for path in ROOT.glob("episodes/**/*.py")]
    for path, home in homes:
        name = ".".join(path.relative_to(home).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            assert hasattr(module, public), f"{name}.{public}"


# Functions with more branches, to be split.
TOO_COMPLEX = {"join_views", "find_source", "_from_name"}


def _complexity(function: ast.AST) -> int:
    """Count the ways through a function: 1, and one more for each branch, loop, handler, operand and condition."""
    one_each = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.Assert, ast.match_case)
    nodes = list(ast.walk(function))
    return (
        1
        + sum(isinstance(node, one_each) for node in nodes)
        + sum(1 + len(node.ifs) for node in nodes if isinstance(node, ast.comprehension))
        + sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
    )


def test_no_function_has_more_than_ten_ways_through():
    modules = {path: ast.parse(path.read_text()) for home in HOMES.values() for path in (ROOT / home).rglob("*.py")}
    functions = [
        (path, node)
        for path, module in modules.items()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef)
    ]
    assert len(functions) > 1000
    found = {(node.name, str(path)) for path, node in functions if _complexity(node) > 10}
    assert {name for name, _ in found} <= TOO_COMPLEX, found


def test_commands_read_their_words_once_into_typed_settings():
    texts = {path: path.read_text() for path in (ROOT / "cli").rglob("*.py")}
    assert not [path for path, text in texts.items() if 'settings["' in text]
    assert sum(text.count("Mapping[str, Any]") for text in texts.values()) <= 10


HOMES = {"fewshot": "fewshot", "fewshot.cli": "cli", "fewshot_episodes": "episodes/fewshot_episodes"}


def _packages() -> dict[str, Path]:
    """Return the folder of each package, by its installed name."""
    return {
        ".".join((name, *path.parent.relative_to(ROOT / home).parts)): path.parent
        for name, home in HOMES.items()
        for path in (ROOT / home).rglob("__init__.py")
    }


def test_the_listed_packages_are_those_of_the_tree():
    assert set(SETUPTOOLS["packages"]) == set(_packages())


def test_every_file_beside_the_modules_is_shipped():
    for name, folder in _packages().items():
        beside = {path.name for path in folder.iterdir() if path.is_file() and path.suffix not in (".py", ".pyc")}
        patterns = SETUPTOOLS["package-data"].get(name, [])
        shipped = {path.name for pattern in patterns for path in folder.glob(pattern)}
        assert beside <= shipped, name


def test_every_listed_file_is_there():
    for name, patterns in SETUPTOOLS["package-data"].items():
        for pattern in patterns:
            assert list(_packages()[name].glob(pattern)), (name, pattern)


def test_top_level_holds_what_the_design_names():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    allowed = {
        "pyproject.toml", "README.md", "fewshot", "episodes", "cli", "tests", "notebooks", "docs",
        "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "MANIFEST.in", "Makefile", ".ci", ".github",
        ".gitignore",
    }  # fmt: skip
    assert {path.partition("/")[0] for path in tracked.stdout.split()} <= allowed
