"""What is built and published: the names and files in wheel and source distribution, and an installation from each."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import fewshot
from tests.tools.absolute_links import absolute_links

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
pytest.importorskip("build", reason="build is not installed")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "fewshot", "cli", "episodes")
KINDS = ("wheel", "sdist")
# What a user does with an installation, in one process: import, read shipped files, `python -m fewshot methods`.
USE = """
import json, pathlib, runpy, sys, fewshot, fewshot_episodes
pages = [path.name for path in pathlib.Path(fewshot.__file__).parent.rglob("page.*")]
print(json.dumps([fewshot.__file__, fewshot_episodes.__file__, type(fewshot.adaptive_unem()).__name__, pages]))
sys.argv = ["fewshot", "methods"]
runpy.run_module("fewshot", run_name="__main__")
"""
# All tests of this file share one build and run in one process.
pytestmark = pytest.mark.xdist_group("distribution")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build source distribution and wheel (from that) of a copy of the tree: the build writes beside what it reads."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    (source / "tests").mkdir()
    (source / "tests" / "test_none.py").touch()
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


@pytest.fixture(scope="module", params=KINDS)
def installed(built, request, tmp_path_factory):
    """Install one of the two into a fresh environment that sees the packages at hand; return its folder of programs."""
    home = tmp_path_factory.mktemp(request.param)
    environment = venv.EnvBuilder(with_pip=False, symlinks=True)
    environment.create(home)
    programs = Path(environment.ensure_directories(home).env_exe).parent
    packages = Path(torch.__file__).parents[1]
    own = subprocess.check_output([programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    (Path(own.decode().strip()) / "packages.pth").write_text(f"{packages}\n")
    how = "--no-deps --no-index --no-build-isolation --ignore-installed --disable-pip-version-check --no-compile -q"
    run(sys.executable, "-m", "pip", "--python", programs / "python", "install", *how.split(), built[request.param])
    return programs


@pytest.fixture
def own_folder(tmp_path):
    for name in ("cli.py", "episodes.py"):
        (tmp_path / name).write_text("raise SystemExit('a file of the user')")
    return tmp_path


def run(*words, cwd=None):
    # Compiled modules are kept, whatever is usual here: each of these processes would compile them anew.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names_in(path):
    """Return the files in a wheel or source distribution, without the folder that all of the latter are in."""
    if path.suffix == ".whl":
        return zipfile.ZipFile(path).namelist()
    with tarfile.open(path) as archive:
        return [member.name.partition("/")[2] for member in archive if member.isfile()]


def data_files(names):
    return {name for name in names if Path(name).suffix in {".css", ".html", ".js", ".safetensors", ".typed"}}


def data_files_of_the_tree():
    found = [path for room in ("fewshot", "cli", "episodes") for path in (ROOT / room).rglob("*") if path.is_file()]
    return data_files(str(path.relative_to(ROOT)) for path in found)


def test_the_wheel_holds_two_names_and_all_data(built):
    names = names_in(built["wheel"])
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"fewshot", "fewshot_episodes", f"fewshot-{fewshot.__version__}.dist-info"}
    places = {"cli/": "fewshot/cli/", "episodes/fewshot_episodes/": "fewshot_episodes/"}
    expected = data_files_of_the_tree()
    for folder, installed_as in places.items():
        expected = {name.replace(folder, installed_as, 1) if name.startswith(folder) else name for name in expected}
    assert len(expected) >= 4
    assert data_files(names) == expected


def test_the_source_distribution_holds_what_builds_the_wheel_and_no_tests(built):
    names = names_in(built["sdist"])
    tops = {name.partition("/")[0] for name in names}
    assert tops == {*NEEDED, "PKG-INFO", "setup.cfg", "fewshot.egg-info"}
    assert data_files(names) == data_files_of_the_tree()


def test_an_installation_works_beside_files_of_the_same_names(installed, own_folder):
    assert run(installed / "fewshot", "--version", cwd=own_folder) == f"fewshot {fewshot.__version__}\n"
    seen, table = run(installed / "python", "-c", USE, cwd=own_folder).split("\n", 1)
    home, home_of_episodes, shipped, pages = json.loads(seen)
    assert Path(home).is_relative_to(installed.parent)
    assert Path(home_of_episodes).is_relative_to(installed.parent)
    assert shipped == "UNEMAdaptive"
    assert {"page.css", "page.html"} <= set(pages)
    assert "unem-adaptive" in table


@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_a_strict_users_program_has_types(installed, tmp_path):
    # What mypy knows of torch from the check of the project, where that has run, saves half a minute.
    cache = (
        shutil.copytree(known, tmp_path / "cache") if (known := ROOT / ".mypy_cache").is_dir() else tmp_path / "cache"
    )
    program = shutil.copy(ROOT / "tests" / "typing" / "user_program.py", tmp_path)
    run(installed / "python", "-m", "mypy", "--strict", "--cache-dir", cache, program, cwd=tmp_path)


def test_readmes_links_are_absolute_on_the_package_index():
    text = absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), "https://example.org/fewshot/", "v1")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert "https://example.org/fewshot/raw/v1/docs/_static/report.png" in targets
    assert "https://example.org/fewshot/blob/v1/docs/guide/images.md" in targets
    assert all(target.startswith("https://") for target in targets)


def test_the_version_stands_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == fewshot.__version__
    assert citation["title"].startswith(PROJECT["name"])
    assert citation["license"] == PROJECT["license"]
    assert set(citation["keywords"]) >= set(PROJECT["keywords"])
    assert citation["authors"] == PROJECT["authors"]


def test_the_changelog_begins_with_this_version():
    first = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert first.startswith(f"## [{fewshot.__version__}]")


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()), ids=lambda path: path.stem)
def test_a_form_for_issues_has_what_the_form_needs(path):
    form = yaml.safe_load(path.read_text())
    assert set(form) == {"name", "description", "labels", "body"}
    assert all(set(field) >= {"type", "id", "attributes"} and field["attributes"]["label"] for field in form["body"])
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
