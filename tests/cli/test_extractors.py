"""`fewshot extractors` lists what there is, and says what is known of one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from fewshot.cli.main import cli

from fewshot.features.families import FAMILIES, extractor_options, split_name
from fewshot.features.metadata import OPTION_MEANINGS


def fewshot(*words: str) -> Result:
    return CliRunner().invoke(cli, words, prog_name="fewshot")


def document(*words: str) -> dict[str, Any]:
    result = fewshot(*words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def skip_unless_installed(family: str) -> None:
    if not FAMILIES[family].is_installed:
        pytest.skip(f"what {family} needs is not installed")


def test_every_family_is_listed_with_what_it_needs():
    told = document("extractors")["extractors"]
    assert [row["family"] for row in told] == list(FAMILIES)
    text = fewshot("extractors").stdout
    for row in told:
        assert row["example"] in text
        assert row["licence"]
        assert isinstance(row["are_weights_here"], bool | None)


def test_what_is_known_of_one_extractor_is_told(tmp_path, monkeypatch):
    skip_unless_installed("torchvision")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    told = document("extractors", "torchvision:resnet18")["extractor"]
    assert (told["name"], told["family"], told["model"]) == ("torchvision:resnet18", "torchvision", "resnet18")
    assert told["licence"] == FAMILIES["torchvision"].licence
    assert told["are_weights_here"] is False
    assert told["options"]["seed"] == {"default": 0, "meaning": "of weights=random"}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").touch()
    assert document("extractors", "torchvision:resnet18")["extractor"]["are_weights_here"] is True
    lines = fewshot("extractors", "torchvision:resnet18").stdout.splitlines()
    assert "  weights   download, or weights=FILE; on this machine: yes" in lines
    assert "  installed yes" in lines
    assert any(line.split() == ["seed", "0", "of", "weights=random"] for line in lines)


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("test_vit", "apache-2.0"),
        ("torchvision:vit_b_16.IMAGENET1K_SWAG_E2E_V1", "https://github.com/facebookresearch/SWAG/blob/main/LICENSE"),
        ("efficientnet_lite0", "Apache-2.0"),
        ("dino", "Apache-2.0"),
        ("mugs:vit_small", "Apache-2.0"),
        ("esvit:swin_tiny_window14", "MIT (EsViT); CMD states none"),
        ("distilled", "that of what it was started from"),
        ("open_clip:ViT-B/32", "the model's own"),
        ("open_clip:local-dir:nowhere", "the model's own"),
        ("adm:adm_256_uncond", "MIT; ADM's model card: research only"),
    ],
)
def test_the_licence_is_the_models_own_where_it_is_known(name, licence):
    family, _ = split_name(name)
    skip_unless_installed(family)
    told = document("extractors", name)["extractor"]
    assert (told["family"], told["licence"]) == (family, licence)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dino:vit_smal", "Error: unknown ViT 'vit_smal': did you mean 'vit_small'? Known: vit_base, "),
        (
            "torchvison:resnet18",
            "Error: unknown family of extractors 'torchvison': did you mean 'torchvision'? Known: ",
        ),
        ("torchvision:resnet19", "Error: unknown torchvision model 'resnet19': did you mean 'resnet18'"),
        ("test_vt", "Error: unknown timm model 'test_vt': did you mean 'test_vit'"),
        ("efficientnet_lite3", "Error: unknown EfficientNet-Lite 'efficientnet_lite3': did you mean "),
        ("open_clip:ViT-B-3", "Error: open_clip has no model 'ViT-B-3': did you mean 'ViT-B-32'"),
        ("esvit:swin_tin", "Error: unknown Swin Transformer 'swin_tin': did you mean 'swin_tiny'? Known: swin_base, "),
        ("adm:adm_256", "Error: unknown diffusion network 'adm_256': did you mean 'adm_256_uncond'? Known: "),
    ],
)
def test_an_unknown_extractor_is_told_in_one_line_with_the_nearest(name, message):
    if ":" not in name or name.partition(":")[0] in FAMILIES:
        skip_unless_installed(split_name(name)[0])
    result = fewshot("extractors", name)
    assert result.exit_code == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_a_bare_name_that_timm_does_not_know_may_be_a_familys():
    skip_unless_installed("timm")
    assert fewshot("extractors", "dinno").stderr.endswith(f"; families: {', '.join(FAMILIES)}\n")


def test_without_its_packages_a_family_is_told_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(FAMILIES, "timm", FAMILIES["timm"]._replace(needs=("no_such_module",)))
    assert '  installed pip install "fewshot[images]"' in fewshot("extractors", "timm:nobody").stdout.splitlines()


def test_every_option_of_every_family_has_a_meaning_and_no_meaning_is_left_over():
    assert set(OPTION_MEANINGS) == {option for family in FAMILIES for option in extractor_options(family)}
