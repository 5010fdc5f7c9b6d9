"""Published weights are found where they lie, fetched once, and their licences told."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fewshot.features.backbones import downloads
from fewshot.features.backbones.downloads import LicenceWarning, warn_of_licence
from fewshot.features.backbones.timm_models import build_timm, has_weights_here
from fewshot.features.backbones.torchvision_gate import ensure_torchvision
from fewshot.features.backbones.torchvision_models import build_torchvision

if ensure_torchvision() == "absent":
    pytest.skip("torchvision is not installed", allow_module_level=True)
timm = pytest.importorskip("timm", reason="timm is not installed")


@pytest.fixture
def empty_machine(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub", reason="the hub's client is not installed").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no route")))
    return tmp_path


MEND = "download them elsewhere and give their path (weights=PATH), or weights='random'"


def test_weights_that_cannot_be_had_are_one_line_with_the_mend(empty_machine):
    for build, what, where in (
        (lambda: build_timm("test_vit"), "test_vit.r160_in1k", "the Hugging Face hub (timm/test_vit.r160_in1k)"),
        (
            lambda: build_torchvision("resnet18"),
            "ResNet18_Weights.IMAGENET1K_V1",
            "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        ),
    ):
        message = f"the weights of {what} are not on this machine and cannot be had from {where}: {MEND}"
        with pytest.raises(ConnectionError, match=f"^{re.escape(message)}$"):
            build()
    with pytest.raises(ValueError, match=r"^timm has no weights for 'test_maxvit\.untrained': give a file"):
        build_timm("test_maxvit")


def test_weights_in_the_cache_are_used_without_a_network(empty_machine):
    assert not has_weights_here("test_vit")
    model = timm.create_model("test_vit").eval()
    repository = empty_machine / "hub" / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(model.state_dict(), snapshot / "model.safetensors")
    assert has_weights_here("test_vit")
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    built = build_timm("test_vit")
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(built.network(images), expected)
    assert built.about["licence"] == "apache-2.0"


def test_of_the_files_of_a_repository_the_first_that_is_there_is_fetched(empty_machine, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def download(repository, name, revision):
        asked.append((repository, name, revision))
        return str(empty_machine / name)

    def look(url, timeout):
        if "second" not in url:
            raise LocalEntryNotFoundError("no such file")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", look)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    path = downloads.fetch_from_hub("owner/name@v2", "unreachable", ("first.bin", "second.bin", "third.bin"))
    assert path == empty_machine / "second.bin"
    assert asked == [("owner/name", "second.bin", "v2")]
    message = "owner/name has no a.bin or b.bin: download its weights, and give their path"
    with pytest.raises(ConnectionError, match=f"^{re.escape(message)}$"):
        downloads.fetch_from_hub("owner/name", "unreachable", ("a.bin", "b.bin"))


def test_an_address_is_downloaded_once_and_checked_by_its_hash(monkeypatch, tmp_path):
    fetched = []

    def download(url, path, hash_prefix, progress):
        fetched.append((url, hash_prefix, progress))
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    url = "https://example.org/models/net-0123abcd.pth?download=1"
    assert downloads.find_from_url(url) is None
    paths = {downloads.fetch_from_url(url, "net") for _ in range(2)}
    assert paths == {tmp_path / "checkpoints" / "net-0123abcd.pth"} == {downloads.find_from_url(url)}
    assert fetched == [(url, "0123abcd", False)]


@pytest.mark.parametrize(("licence", "said"), [("cc-by-nc-4.0", "'cc-by-nc-4.0'"), (None, "'unknown'")])
def test_licences_that_may_not_allow_every_use_are_warned_of(licence, said):
    message = rf"^the weights of net are under the licence {said}: check that it allows your use$"
    with pytest.warns(LicenceWarning, match=message):
        warn_of_licence("net", licence)


def test_permissive_licences_are_not_warned_of():
    for licence in ("apache-2.0", "mit", "bsd-3-clause"):
        warn_of_licence("net", licence)
