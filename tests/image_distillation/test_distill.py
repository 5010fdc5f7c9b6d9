"""A distillation from Python: its settings check themselves, its plan stays as it is, and nothing is done twice."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="pillow, of the extra images, is not installed")
from PIL import Image

from fewshot.distillation.backbone import TokenBackbone
from fewshot.features.backbones.torchvision_gate import ensure_torchvision
from fewshot.features.images import listing
from fewshot.image_distillation import DistillRun, DistillSettings, distill, plan
from fewshot.image_distillation.settings import changeable_numbers

if ensure_torchvision() == "absent":
    pytest.skip("torchvision is not installed", allow_module_level=True)
pytest.importorskip("timm", reason="the networks are timm's")

SIZE, PATCH = 16, 4
SETTINGS = DistillSettings(
    method="cmd",
    backbone="vit_tiny_patch16_224",
    options={"patch_size": PATCH, "embed_dim": 16, "depth": 1, "num_heads": 2},
    size=SIZE,
    n_local=1,
    epochs=1,
    batch_size=4,
    n_prototypes=8,
    changes={"hidden": 8, "bottleneck": 8},
)


def write(folder, sizes, seed=0):
    generator = np.random.default_rng(seed)
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True)
        for number in range(size):
            pixels = generator.integers(0, 256, (20, 17, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write(tmp_path_factory.mktemp("images"), {"crow": 5, "owl": 4, "wren": 3})


# Nothing is done twice


@pytest.fixture
def listings(monkeypatch):
    """The folders whose entries are listed, in order."""
    scan, folders = os.scandir, []
    monkeypatch.setattr(listing.os, "scandir", lambda path: folders.append(os.path.normpath(path)) or scan(path))
    return folders


@pytest.mark.parametrize("labels", ["auto", "folder", "none", "table"])
def test_the_folder_is_listed_once_in_a_run(images, tmp_path, listings, labels):
    if labels == "table":
        labels = tmp_path / "labels.csv"
        rows = [f"{name}/{number}.png,{name}" for name in ("crow", "owl") for number in range(3)]
        labels.write_text("file,label\n" + "\n".join(rows))
    result = distill(images, replace(SETTINGS, labels=labels), out=tmp_path / "a.safetensors", n_workers=0)
    assert listings.count(f"{images}") == 1
    assert (result.before is None) == (labels == "none")


def test_another_folder_to_score_on_is_listed_once_too(images, tmp_path, listings):
    other = write(tmp_path / "other", {"crow": 2, "owl": 3}, seed=1)
    result = distill(images, SETTINGS, evaluate=other, out=tmp_path / "a.safetensors", n_workers=0)
    assert (listings.count(f"{images}"), listings.count(f"{other}")) == (1, 1)
    assert (result.after.n_train, result.after.n_test) == (2, 3)


@pytest.mark.parametrize("local_size", [None, 12])
def test_the_network_runs_once_at_each_size_to_be_planned(images, monkeypatch, local_size):
    forward, sizes = TokenBackbone.forward, []
    monkeypatch.setattr(
        TokenBackbone, "forward", lambda backbone, views: sizes.append(views.shape[-1]) or forward(backbone, views)
    )
    planned = plan(images, replace(SETTINGS, local_size=local_size))
    assert sizes == [SIZE, local_size or 8] == [SIZE, planned.numbers.views.local_size]
    sizes.clear()
    with pytest.raises(ValueError, match=r"no local crops of 13 pixels: give a local_size that is a multiple of 4$"):
        plan(images, replace(SETTINGS, local_size=13))
    assert sizes == [SIZE, 13]


# What there is


def test_a_plan_stays_as_it_is_when_it_is_run(images, tmp_path):
    planned = plan(images, SETTINGS)
    begun = {name: tensor.clone() for name, tensor in planned.built.backbone.state_dict().items()}
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    one, two = (DistillRun(planned, path, n_workers=0)() for path in paths)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert one.after.retrieval.means() == two.after.retrieval.means()
    assert torch.equal(one.trace.losses, two.trace.losses)
    assert all(torch.equal(tensor, begun[name]) for name, tensor in planned.built.backbone.state_dict().items())


def test_progress_comes_by_stages(images, tmp_path):
    reports = []
    distill(images, SETTINGS, out=tmp_path / "a.safetensors", n_workers=0, progress=reports.append)
    ends = {report.stage: (report.n_done, report.n_todo) for report in reports}
    assert ends == {"scores before": (12, 12), "training": (3, 3), "scores after": (12, 12)}
    assert list(ends) == ["scores before", "training", "scores after"]
    assert [report.step.step for report in reports if report.step is not None] == [1, 2, 3]


def test_every_number_of_a_method_can_be_changed():
    known = changeable_numbers("mugs")
    assert {"n_neighbours", "clip", "global_scale", "weak_probability"} <= set(known)
    assert not {"size", "mean", "std", "inter_weight"} & set(known)
    assert [name for name, annotation in known.items() if "None" in annotation] == ["weak_probability"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mug"}, "unknown method 'mug': did you mean 'mugs'"),
        ({"image": "tokn"}, "unknown embedding of images 'tokn'"),
        ({"precision": "float8"}, "unknown precision 'float8'"),
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"memory": 0, "method": "mugs", "changes": {}}, "memory must be positive, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"crop_fraction": 1.5}, r"crop_fraction must lie in \(0, 1\], got 1.5"),
        ({"warmup_epochs": 1}, "warmup_epochs must be less than epochs, 1, got 1"),
        ({"freeze_epochs": 3}, "freeze_epochs must be less than epochs, 1, got 3"),
        ({"memory": 3}, "memory is of mugs: cmd remembers no images"),
        ({"n_local": 0, "local_size": 8}, "local_size needs local crops, and n_local is 0"),
        ({"changes": {"clp": 1}}, "unknown setting of cmd 'clp': did you mean 'clip'"),
        ({"changes": {"size": 32}}, "changes size would contradict the features: give size, for the network"),
        ({"momentum": 0.9, "changes": {"momentum": (0.9, 1.0)}}, "give momentum or changes momentum, not both"),
    ],
)
def test_settings_check_themselves(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        replace(SETTINGS, **settings)


def test_defaults_that_follow_from_other_settings():
    long, short = DistillSettings().resolved(), DistillSettings(epochs=9, init="own.pth").resolved()
    assert (long.backbone, long.freeze_epochs) == ("vit_small_patch16_224", 1)
    assert (short.backbone, short.freeze_epochs) == (None, 0)
    assert DistillSettings(init="published", backbone="resnet50").resolved().backbone == "resnet50"
