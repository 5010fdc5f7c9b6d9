"""What a name, a folder, a file and a tag of open_clip mean; whatever would have to be guessed is refused."""

from __future__ import annotations

import json
import re

import pytest
import torch

from fewshot.features.backbones.clip import build_clip, text_embeddings
from fewshot.features.backbones.clip_sources import find_source
from tests.kits.clip import CLASSES, CONFIG, PREPROCESS, SIZE, STD, images, open_clip, raises, run, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture
def tiny(monkeypatch):
    """Names ``tiny`` and ``tiny-quickgelu`` in open_clip's tables; returns the table of tiny's published weights."""
    entry = {**PREPROCESS, "hf_hub": "someone/tiny/", "quick_gelu": False}
    published = {"first": entry, "second": dict(entry)}
    quick = {"openai": {**entry, "quick_gelu": True}}
    for name, config, tags in (
        ("tiny", CONFIG, published),
        ("tiny-quickgelu", {**CONFIG, "quick_gelu": True}, quick),
        ("tiny-unpublished", CONFIG, {}),
    ):
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
    return published


def test_a_file_under_a_name_takes_the_preprocessing_of_its_published_weights(folder, tiny):
    file = folder / "open_clip_model.safetensors"
    named, placed = build_clip("tiny", file), build_clip(None, folder)
    assert named.preprocess == placed.preprocess
    torch.testing.assert_close(run(named, images()), run(placed, images()))
    tiny["second"]["mean"] = (0.1, 0.2, 0.3)
    assert build_clip("tiny", file, tag="second").preprocess.mean == (0.1, 0.2, 0.3)


def test_published_weights_come_from_the_cache_when_they_are_there(folder, tiny, monkeypatch):
    def cached(repository, name, revision):
        here = (repository, name) == ("someone/tiny", "open_clip_model.safetensors")
        return str(folder / "open_clip_model.safetensors") if here else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    expected = run(build_clip(None, folder), images())
    for options in ({"weights": "first"}, {"tag": "first"}):
        torch.testing.assert_close(run(build_clip("tiny", **options), images()), expected)


def test_an_unreachable_hub_is_told_in_one_line(tiny, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *arguments, **options: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", fail)
    for name, weights in (("tiny", "first"), ("hf-hub:someone/tiny", None)):
        message = (
            "someone/tiny is not on this machine and the Hugging Face hub does not answer: "
            "download it elsewhere and give its folder (weights=FOLDER), or weights='random'"
        )
        raises(ConnectionError, message, build_clip, name, weights)


GELU = (
    "{}: trained with QuickGELU, which {} does not have, and would lose accuracy unseen: "
    "use {}-quickgelu, or quick_gelu: true in a folder's open_clip_config.json"
)


def test_weights_trained_with_quick_gelu_are_refused_by_a_plain_gelu_where_it_is_known(tiny, folder, tmp_path):
    raises(ValueError, GELU.format("openai", "ViT-B-32", "ViT-B-32"), find_source, "ViT-B/32", "openai")
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    file = tmp_path / "openai.pt"
    numbers = {"input_resolution": SIZE, "context_length": 13, "vocab_size": 49408}
    torch.save({**state, **{name: torch.tensor(value) for name, value in numbers.items()}}, file)
    raises(ValueError, GELU.format(file, "tiny", "tiny"), build_clip, "tiny", file)
    assert build_clip("tiny-quickgelu", file).spec["quick_gelu"] is True


def test_what_published_weights_differ_in_must_be_said(folder):
    file = folder / "open_clip_model.safetensors"
    tags = ", ".join(open_clip.list_pretrained_tags_by_model("ViT-B-32"))
    message = (
        f"the published weights of {{}} differ in {{}}: say by tag=... which of them these are, or come from: {tags}"
    )
    raises(ValueError, message.format("ViT-B-32", "quick_gelu"), find_source, "ViT-B-32", file)
    with pytest.raises(ValueError, match=r"^the published weights of ViT-L-14 differ in mean: "):
        find_source("ViT-L-14", "random")


@pytest.mark.parametrize(
    ("name", "weights", "options", "message"),
    [
        (
            None,
            None,
            {},
            "open_clip needs a name such as open_clip:ViT-B-32, or a folder with an open_clip_config.json",
        ),
        ("tiny", None, {}, "which weights of tiny? Give a file or one of first, second"),
        (
            "tiny",
            "frist",
            {},
            "unknown file or published weights of tiny 'frist': did you mean 'first'? Known: first, second",
        ),
        ("tiny", None, {"tag": "third"}, "unknown published weights of tiny 'third'. Known: first, second"),
        (
            "tiny-unpublished",
            "random",
            {},
            "open_clip does not say how images are preprocessed for tiny-unpublished: "
            "give a folder with weights and an open_clip_config.json instead",
        ),
        (
            "tiny",
            "random",
            {"output": "cosine"},
            "unknown output 'cosine': did you mean 'cosines'? Known: auto, cosines, embedding, probabilities",
        ),
        ("tiny", "random", {"output": "cosines"}, "output 'cosines' got 0 class names: give class_names"),
        (
            "tiny",
            "random",
            {"output": "embedding", "class_names": CLASSES},
            "output 'embedding' got 3 class names: leave class_names out",
        ),
        (
            "tiny",
            "random",
            {"projected": False, "class_names": CLASSES},
            "output 'cosines' needs projected=True: texts lie in the joint space only",
        ),
        ("tiny", "random", {"softmax_scale": 0.0}, "softmax_scale must be positive, got 0.0"),
        (
            "tiny",
            "random",
            {"class_names": CLASSES, "templates": ("a photo",)},
            "a template must have {} where the class name goes, got 'a photo'",
        ),
        (
            "tiny",
            "random",
            {"class_names": ("cat", "cat")},
            "class_names must be distinct, and at least one with at least one template, "
            "got 2 names (1 distinct) and 1 templates",
        ),
    ],
)
def test_what_is_wrong_or_would_be_guessed_is_told(name, weights, options, message, tiny):
    raises(ValueError, message, build_clip, name, weights, **options)


def test_an_unknown_name_is_told_with_its_like(tiny):
    with pytest.raises(ValueError, match=r"^open_clip has no model 'tiny-quickgel': did you mean 'tiny-quickgelu'"):
        build_clip("tiny-quickgel", "random")


def test_a_folder_must_say_what_it_holds(folder, tmp_path):
    raises(
        ValueError,
        f"{folder} says itself what it holds: leave out the name 'ViT-B-32'",
        build_clip,
        "ViT-B-32",
        folder,
    )
    message = f"local-dir:{folder} says itself what it holds: leave out the tag 'openai'"
    raises(ValueError, message, build_clip, None, folder, tag="openai")
    config = tmp_path / "open_clip_config.json"
    raises(
        FileNotFoundError,
        f"no such file: {config}: it must say what the folder's weights are",
        build_clip,
        None,
        tmp_path,
    )
    config.write_text(json.dumps({"model_cfg": CONFIG}))
    message = f"{config}: expected model_cfg and preprocess_cfg, got no preprocess_cfg"
    raises(ValueError, message, build_clip, None, tmp_path)
    config.write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {"std": STD}}))
    message = (
        f"no weights in {tmp_path}: expected open_clip_model.safetensors, open_clip_pytorch_model.safetensors, "
        "open_clip_pytorch_model.bin or open_clip_pytorch_model.pth"
    )
    raises(FileNotFoundError, message, build_clip, None, tmp_path)
    place = f"local-dir:{tmp_path}"
    message = f"{place}: expected mean and std in preprocess_cfg, got no mean"
    raises(ValueError, message, build_clip, place, "random")
    config.write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {**PREPROCESS, "resize_mode": "longest"}}))
    message = "unknown resize_mode of open_clip 'longest': did you mean 'shortest'? Known: shortest, squash"
    raises(ValueError, message, build_clip, place, "random")
    config.write_text("{")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{config}: expected JSON, got something else (')}"):
        build_clip(None, tmp_path)


def test_weights_that_do_not_fit_are_refused_by_name(folder, tiny, tmp_path):
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    del state["visual.ln_post.bias"]
    torch.save(state, tmp_path / "a.pt")
    message = f"{tmp_path}/a.pt: expected the network's {len(state) + 1} tensors, got 1 missing: visual.ln_post.bias"
    raises(ValueError, message, build_clip, "tiny", tmp_path / "a.pt")
    torch.save({"state_dict": 7}, tmp_path / "a.pt")
    message = (
        f"{tmp_path}/a.pt: expected weights under 'state_dict', 'model' or at the top level of the "
        "checkpoint, got state_dict: name the key that holds them"
    )
    raises(ValueError, message, build_clip, "tiny", tmp_path / "a.pt")


def test_a_file_of_the_plain_layout_fits_a_network_with_its_text_tower_apart(folder, tmp_path):
    place = write_folder(tmp_path / "a", CONFIG | {"custom_text": True})
    (place / "open_clip_model.safetensors").write_bytes((folder / "open_clip_model.safetensors").read_bytes())
    texts = text_embeddings(None, place, CLASSES)
    torch.testing.assert_close(texts, text_embeddings(None, folder, CLASSES))
