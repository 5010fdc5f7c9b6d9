"""`fewshot extract --runtime`, and `fewshot cache` as a user drives it."""

from __future__ import annotations

import json

import pytest

from fewshot.features import load_features
from fewshot.features.runtimes import cache, choice
from tests.kits.cli import document, fails, fewshot
from tests.kits.extraction import write_images

pytest.importorskip("PIL", reason="pillow, of the extra images, is not installed")
needs_openvino = pytest.mark.skipif(
    not choice._is_installed("openvino"), reason="OpenVINO is not installed: pip install openvino"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))


def extracted(images, out, *words):
    options = ("--extractor", "efficientnet_lite0", "--weights", "random", "--option", "size=32", "--dtype", "float32")
    result = fewshot("extract", "--images", images, "--out", out, *options, "--workers", 0, "--json", *words)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["extractor"]


@needs_openvino
def test_extract_by_a_runtime_has_the_features_and_the_key_of_torch(tmp_path):
    images = write_images(tmp_path / "images", {"crow": 3, "wren": 2})
    eager = extracted(images, tmp_path / "eager")
    compiled = extracted(images, tmp_path / "compiled", "--runtime", "openvino")
    assert (eager["runtime"], compiled["runtime"]) == ("eager", "openvino")
    assert eager["key"] == compiled["key"]
    one, other = (load_features(str(tmp_path / name)).features for name in ("eager", "compiled"))
    assert float((one - other).norm() / one.norm()) < 1e-5
    [network] = document("cache")["networks"]
    assert (network["extractor"], network["runtime"]) == ("efficientnet_lite0", "openvino")


def test_an_unknown_runtime_is_refused_before_any_work(tmp_path):
    images = write_images(tmp_path / "images", {"crow": 1})
    said = fails(2, "extract", "--images", images, "--out", tmp_path / "store", "--runtime", "openvin")
    assert "openvino" in said
    assert not (tmp_path / "store").exists()


def test_the_cache_is_listed_and_cleared():
    name = cache.NetworkName("resnet50", "k")
    with cache.entry(name, "openvino", "2026.4.1-99-abc", "float32").filling() as scratch:
        (scratch / "model.bin").write_bytes(b"x" * 3 * 2**20)
    shown = fewshot("cache").stdout
    assert "1 network, 3.0 MiB in " in shown
    assert "resnet50" in shown
    assert "openvino 2026.4.1 " in shown
    assert document("cache", "--clear")["n_freed_bytes"] >= 3 * 2**20
    assert "0 networks, 0.0 MiB in " in fewshot("cache").stdout
