"""What may be loaded when, and what the public surface is."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import episodes
import fewshot

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize("package", ["fewshot", "episodes"])
def test_import_loads_torch_and_nothing_else_that_is_heavy(package):
    # torch itself may load some of these (where they are installed), so what counts is what we add.
    added = _loaded_after(f"import {package}") - _loaded_after("import torch")
    assert not added & set(HEAVY)


def test_every_public_name_exists_and_is_documented():
    for module in (fewshot, episodes):
        for name in module.__all__:
            assert getattr(module, name).__doc__, name


def test_lazy_names_are_public():
    assert set(fewshot._LAZY) <= set(fewshot.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fewshot' has no attribute 'nearest'"):
        _ = fewshot.nearest


def test_every_module_lists_its_public_names_as_they_are():
    for path in [*ROOT.glob("fewshot/**/*.py"), *ROOT.glob("episodes/*.py")]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            assert hasattr(module, public), f"{name}.{public}"


def test_the_package_ships_code_and_not_the_tests():
    found = re.search(
        r"\[tool\.setuptools\.packages\.find\]\ninclude = \[(.*)\]", (ROOT / "pyproject.toml").read_text()
    )
    assert found is not None
    assert found.group(1) == '"fewshot", "fewshot.*", "episodes", "cli"'


def test_top_level_holds_what_the_design_names():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    allowed = {
        "pyproject.toml", "README.md", "fewshot", "episodes", "cli", "tests", "notebooks",
        "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", ".ci", ".gitignore",
    }  # fmt: skip
    assert {path.partition("/")[0] for path in tracked.stdout.split()} <= allowed
