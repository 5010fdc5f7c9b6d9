"""Runtimes compute what eager torch computes, or say why they do not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fewshot.features import FeatureSet, FeatureStore, extract, extractor
from fewshot.features.extraction.to_store import ExtractSettings, extract_store
from fewshot.features.frozen import Built, Extractor, Recipe
from fewshot.features.images.preprocess import Preprocess
from fewshot.features.runtimes import cache, choice, forward
from fewshot.features.runtimes.forward import CHUNK_SIZE, ForwardPass, in_chunks
from tests.kits.extraction import write_images
from tests.kits.vit import dino_training

SIZE = (12, 10)
KEY = cache.NetworkName("tiny", "k" * 64)
needs_openvino = pytest.mark.skipif(
    not choice._is_installed("openvino"), reason="OpenVINO is not installed: pip install openvino"
)
needs_onnx = pytest.mark.skipif(
    not choice._is_installed("onnxruntime"), reason="not installed: pip install onnxruntime onnxscript"
)


class Tiny(nn.Module):
    """Two layers, read side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.GELU())
        self.head = nn.Conv2d(5, 7, 3)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        first = self.stem(images)
        return {"stem": first.mean((2, 3)), "head": self.head(first).relu().amax((2, 3))}


class Branching(nn.Module):
    """A network that looks at its input: no tracer sees the branch that was not taken."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean((2, 3))
        return means if float(images[0, 0, 0, 0]) > 0.4 else means * 2.0 + 1.0


def tiny(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Tiny()
        network.stem[1].running_mean.uniform_(-1, 1)
        network.stem[1].running_var.uniform_(0.5, 2)
    return network.eval()


def named(network: nn.Module, **how: str) -> Extractor:
    """An extractor as one that was built by name."""
    built = Built(network, Preprocess(size=SIZE), {"family": "tests", "name": "tiny"})
    return Extractor(built, recipe=Recipe("tiny", None, "float32", {}), **how)


def pixels(n: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randint(0, 256, (n, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def each_runtime(test):
    runtimes = [
        pytest.param("openvino", marks=needs_openvino),
        pytest.param("onnxruntime", marks=needs_onnx),
    ]
    return pytest.mark.parametrize("runtime", runtimes)(test)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "runtimes"


# --- agreement -------------------------------------------------------------------------------------------------------


@each_runtime
@pytest.mark.parametrize("n_images", [1, CHUNK_SIZE, CHUNK_SIZE + 1])
def test_a_runtime_agrees_with_eager_torch_at_any_number_of_images(own_cache, runtime, n_images):
    eager, compiled = named(tiny(), runtime="eager"), named(tiny(), runtime=runtime)
    images = pixels(n_images)
    found = compiled(images)
    assert compiled.runtime == runtime
    assert found.shape == (n_images, 12)
    assert found.dtype == torch.float32
    assert relative(found, eager(images)) < 1e-5
    assert compiled.key == eager.key
    assert compiled.columns == eager.columns == {"stem": (0, 5), "head": (5, 12)}


def saved(checkpoint: dict[str, object], path: Path) -> Path:
    torch.save(checkpoint, path)
    return path


NETWORKS = {
    "vit": lambda folder: ("timm:test_vit.r160_in1k", {"weights": "random"}),
    "cnn": lambda folder: ("timm:test_resnet.r160_in1k", {"weights": "random"}),
    "efficientnet": lambda folder: ("timm:test_efficientnet.r160_in1k", {"weights": "random"}),
    "layers": lambda folder: (
        "timm:test_vit.r160_in1k", {"weights": "random", "layers": ("blocks.1", "blocks.3"), "readout": "cls"}
    ),
    "lite": lambda folder: ("efficientnet_lite0", {"weights": "random", "size": 64}),
    "dino": lambda folder: ("dino", {"weights": saved(dino_training(), folder / "dino.pth"), "size": 32}),
}  # fmt: skip


@needs_openvino
@pytest.mark.parametrize("network", NETWORKS)
def test_every_family_is_compiled(tmp_path, network):
    name, options = NETWORKS[network](tmp_path)
    eager, compiled = (extractor(name, runtime=runtime, **options) for runtime in ("eager", "openvino"))
    images = pixels(3, eager.preprocess.size)
    assert relative(compiled(images), eager(images)) < 1e-5


@needs_openvino
def test_the_default_network_has_the_same_features_by_a_runtime():
    eager, compiled = (extractor("efficientnet_lite0", runtime=runtime) for runtime in ("eager", "openvino"))
    images = pixels(2, (224, 224))
    assert relative(compiled(images), eager(images)) < 1e-5


@needs_openvino
def test_the_same_images_have_the_same_bytes_again(own_cache):
    images = pixels(20)
    one, other = named(tiny(), runtime="openvino"), named(tiny(), runtime="openvino")
    assert torch.equal(one(images), other(images))
    assert torch.equal(one(images), one(images))


def test_chunks_are_padded_and_cut():
    sizes = []

    def run(images: torch.Tensor) -> list[torch.Tensor]:
        sizes.append(len(images))
        return [images.sum(1, keepdim=True), images]

    rows = torch.arange(2.0 * (CHUNK_SIZE + 3)).view(-1, 2)
    sums, same = in_chunks(run, rows, is_padded=True)
    assert sizes == [CHUNK_SIZE, CHUNK_SIZE]
    assert torch.equal(sums[:, 0], rows.sum(1))
    assert torch.equal(same, rows)
    in_chunks(run, rows, is_padded=False)
    assert sizes[2:] == [CHUNK_SIZE, 3]


# --- choice ----------------------------------------------------------------------------------------------------------


@needs_openvino
def test_a_network_that_looks_at_its_input_is_refused_and_runs_eagerly(own_cache):
    made = named(Branching())
    with pytest.warns(
        UserWarning, match=r"^(openvino|onnxruntime) (differs from eager torch by|cannot) .*: use eager$"
    ):
        made.expect(1000)
    assert made.runtime == "eager"
    assert not list(own_cache.glob("*"))
    with pytest.raises(
        choice.UnfitRuntimeError, match=r"^openvino differs from eager torch by .*, more than 1e-05: use"
    ):
        named(Branching(), runtime="openvino")


@needs_openvino
def test_auto_compiles_only_for_many_images_of_a_network_built_by_name(own_cache):
    made = named(tiny())
    made.expect(255)
    assert made.runtime == "eager"
    made.expect(256)
    assert made.runtime != "eager"
    again = named(tiny())  # a network that was compiled before is loaded for fewer
    again.expect(31)
    assert again.runtime == "eager"
    again.expect(32)
    assert again.runtime == made.runtime
    untraceable = tiny()
    untraceable.is_traceable = False
    for own in (named(untraceable), extractor(nn.Flatten(), preprocess=Preprocess(size=SIZE))):
        own.expect(10**6)
        assert own.runtime == "eager"


def test_a_runtime_that_is_not_installed_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r'^the runtime openvino needs OpenVINO: pip install "fewshot\[images\]"$'):
        named(tiny(), runtime="openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    made = named(tiny())
    made.expect(1000)
    assert made.runtime == "eager"


def test_an_unknown_runtime_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'openvino'"):
        named(tiny(), runtime="openvin")


@pytest.mark.parametrize("precision", ["float16", "tf32"])
def test_a_precision_that_runtimes_do_not_compute_in_is_refused(precision):
    with pytest.raises(
        ValueError, match=f"^runtime 'openvino' is for float32 or bfloat16 on a CPU, got {precision} on"
    ):
        named(tiny(), runtime="openvino", precision=precision)


@needs_openvino
def test_bfloat16_of_a_runtime_has_a_key_of_its_own(own_cache):
    eager, compiled = (named(tiny(), precision="bfloat16", runtime=runtime) for runtime in ("eager", "auto"))
    assert compiled.runtime == "openvino"
    assert compiled.spec["precision"] == "bfloat16, openvino"
    assert compiled.key != eager.key
    assert relative(compiled(pixels(5)), named(tiny(), runtime="eager")(pixels(5))) < 0.05


@needs_openvino
def test_stores_of_runtimes_that_agree_are_one(tmp_path, own_cache):
    images = write_images(tmp_path / "images", {"crow": 5, "wren": 4})
    for runtime, start in (("eager", 0), ("openvino", 1)):
        made = named(tiny(), runtime=runtime)
        extract_store(
            made, images, tmp_path / "store", ExtractSettings(shard_size=5, dtype="float32"), n_workers=0, rank=start,
            world_size=2,
        )  # fmt: skip
    store = FeatureStore.open(tmp_path / "store").load()
    whole: FeatureSet = extract(named(tiny(), runtime="eager"), images)
    assert store.ids == whole.ids
    np.testing.assert_allclose(store.features, whole.features, rtol=1e-4, atol=1e-5)


# --- cache -----------------------------------------------------------------------------------------------------------


@needs_openvino
def test_a_compiled_network_is_kept_and_not_exported_again(own_cache, monkeypatch):
    named(tiny(), runtime="openvino")
    [network] = cache.networks()
    assert (network.extractor, network.runtime, network.precision) == ("tiny", "openvino", "float32")
    assert network.n_bytes > 0
    assert [path.name for path in own_cache.iterdir()] == [network.folder.name]
    monkeypatch.setattr(choice, "_exported", None)
    assert relative(named(tiny(), runtime="openvino")(pixels(3)), named(tiny(), runtime="eager")(pixels(3))) < 1e-5


@needs_openvino
def test_other_weights_are_another_network(own_cache):
    images = pixels(3)
    for seed in (0, 1):
        assert (
            relative(named(tiny(seed), runtime="openvino")(images), named(tiny(seed), runtime="eager")(images)) < 1e-5
        )
    assert len(cache.networks()) == 2


@needs_openvino
@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "gone", "description"])
def test_a_damaged_network_is_compiled_again(own_cache, damage):
    named(tiny(), runtime="openvino")
    [network] = cache.networks()
    model, weights = network.folder / "model.xml", network.folder / "model.bin"
    match damage:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-40])
        case "empty":
            model.write_bytes(b"")
        case "garbage":
            model.write_bytes(b"<" * model.stat().st_size)
        case "gone":
            model.unlink()
        case "description":
            (network.folder / "about.json").write_text("{")
    images = pixels(3)
    assert relative(named(tiny(), runtime="openvino")(images), named(tiny(), runtime="eager")(images)) < 1e-5
    [again] = cache.networks()
    assert again.n_bytes == network.n_bytes


@needs_openvino
def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "file"))
    images = pixels(3)
    assert relative(named(tiny(), runtime="openvino")(images), named(tiny(), runtime="eager")(images)) < 1e-5
    assert cache.networks() == []


def fill(key: str, n_bytes: int) -> None:
    with cache.entry(cache.NetworkName(key, key), "openvino", "1", "float32").filling() as scratch:
        (scratch / "model.bin").write_bytes(b"x" * n_bytes)


def test_the_cache_is_bounded_and_drops_what_was_used_longest_ago(own_cache, monkeypatch):
    monkeypatch.setattr(cache, "MAX_BYTES", 250)
    fill("a", 100)
    fill("b", 100)
    known = {network.extractor: network.folder for network in cache.networks()}
    os.utime(known["a"] / "about.json", (1, 1))
    fill("c", 100)
    assert {network.extractor for network in cache.networks()} == {"b", "c"}
    fill("d", 1000)  # larger than the cache: the only one that stays
    assert {network.extractor for network in cache.networks()} == {"d"}


def test_a_run_that_fails_leaves_nothing_in_the_cache(own_cache):
    entry = cache.entry(KEY, "openvino", "1", "float32")
    with pytest.raises(KeyboardInterrupt), entry.filling() as scratch:
        raise KeyboardInterrupt((scratch / "model.bin").write_bytes(b"x"))
    assert list(own_cache.iterdir()) == []
    assert entry.folder() is None


def test_the_cache_is_cleared(own_cache):
    fill("a", 100)
    assert cache.clear() >= 100
    assert cache.networks() == []
    assert cache.clear() == 0


@pytest.mark.parametrize(
    ("platform", "variables", "end"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/fewshot/runtimes"),
        ("linux", {}, "/home/u/.cache/fewshot/runtimes"),
        ("darwin", {}, "/home/u/Library/Caches/fewshot/runtimes"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/fewshot/runtimes"),
    ],
)
def test_the_cache_lies_where_the_platform_keeps_caches(monkeypatch, platform, variables, end):
    for name in ("FEWSHOT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/u"))
    assert cache.cache_folder() == Path(end)


def test_a_forward_pass_is_normalisation_and_network():
    network, preprocess = tiny(), Preprocess(size=SIZE)
    images = pixels(4)
    found = ForwardPass(network, preprocess)(images)
    for output, expected in zip(found, network(preprocess.normalise(images)).values(), strict=True):
        assert torch.equal(output, expected)
    assert forward.CHUNK_SIZE >= 1
