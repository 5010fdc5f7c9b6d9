"""CLIP towers give open_clip's own numbers, and whatever would have to be guessed is refused."""

from __future__ import annotations

import copy
import json
import re
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from episodes import Episode
from fewshot.episodic.em_dirichlet import EMDirichlet
from fewshot.features.backbones.clip import ImageTextNetwork, build_clip, image_text_cosines, text_embeddings
from fewshot.features.backbones.clip_sources import find_source
from fewshot.features.backbones.torchvision_gate import TorchvisionWarning, ensure_torchvision
from fewshot.features.frozen import Extractor

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TorchvisionWarning)
    ensure_torchvision()
open_clip = pytest.importorskip("open_clip", reason="the networks are open_clip's")
Image = pytest.importorskip("PIL.Image", reason="open_clip's transforms take PIL images")

MEAN, STD, SIZE, WIDTH, JOINT = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), 24, 64, 20
CLASSES, TEMPLATES = ("cat", "golden retriever", "{odd} name"), ("a photo of a {}.", "{} {braces}", "art of the {}, {}")
CONFIG = {
    "embed_dim": JOINT,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": WIDTH, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 13, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "shortest"}
TIMM = {**CONFIG, "vision_cfg": {"image_size": SIZE * 2, "timm_model_name": "test_vit", "timm_pool": ""}}
RESNET = {**CONFIG, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}}


def write_folder(folder, config=CONFIG, preprocess=PREPROCESS, seed=0):
    """A folder as open_clip writes them, with random weights."""
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    kind = open_clip.CustomTextCLIP if "custom_text" in config else open_clip.CLIP
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(**{key: value for key, value in copy.deepcopy(config).items() if key != "custom_text"})
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def theirs(folder):
    """open_clip's own model, transform and tokenizer of the folder."""
    place = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(place)
    return model.eval(), transform, open_clip.get_tokenizer(place)


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


def images(n=3, size=SIZE):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def run(built, inputs):
    with torch.inference_mode():
        return built.network.eval()(inputs)


def raises(kind, message, call, *arguments, **options):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call(*arguments, **options)


# The same numbers


def test_embeddings_are_those_of_encode_image_whichever_way_the_folder_is_named(folder, theirs):
    expected = theirs[0].encode_image(images()).detach()
    for name, weights in ((None, folder), (None, f"local-dir:{folder}"), (f"local-dir:{folder}", None)):
        torch.testing.assert_close(run(build_clip(name, weights), images()), expected)
    assert not torch.allclose(expected.norm(dim=1), torch.ones(3), atol=0.1)


def test_preprocessing_is_open_clips_own_transform(folder, theirs):
    pixels = np.random.default_rng(0).integers(0, 256, (41, 67, 3), dtype=np.uint8)
    preprocess = build_clip(None, folder).preprocess
    ours = preprocess.normalise(preprocess.apply(Image.fromarray(pixels))[None])[0]
    torch.testing.assert_close(ours, theirs[1](Image.fromarray(pixels)))


def test_squashing_is_open_clips_own_transform(tmp_path):
    place = write_folder(tmp_path / "a", preprocess={**PREPROCESS, "resize_mode": "squash", "interpolation": "bicubic"})
    pixels = np.random.default_rng(0).integers(0, 256, (41, 67, 3), dtype=np.uint8)
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{place}")
    preprocess = build_clip(None, place).preprocess
    ours = preprocess.normalise(preprocess.apply(Image.fromarray(pixels))[None])[0]
    torch.testing.assert_close(ours, transform(Image.fromarray(pixels)))


def test_without_projection_a_tower_gives_what_the_projection_takes(folder, theirs):
    pooled = run(build_clip(None, folder, projected=False), images())
    assert pooled.shape == (3, WIDTH)
    expected = theirs[0].encode_image(images()).detach()
    torch.testing.assert_close(pooled @ theirs[0].visual.proj.detach(), expected)


def test_without_projection_a_timm_tower_gives_its_trunks_vector(tmp_path):
    place = write_folder(tmp_path / "a", TIMM | {"custom_text": True})
    model = open_clip.create_model(f"local-dir:{place}").eval()
    inputs = images(size=2 * SIZE)
    torch.testing.assert_close(run(build_clip(None, place), inputs), model.encode_image(inputs))
    torch.testing.assert_close(run(build_clip(None, place, projected=False), inputs), model.visual.trunk(inputs))


def test_text_embeddings_are_open_clips_zero_shot_classifier(folder, theirs):
    templates = [lambda name, one=one: one.replace("{}", name) for one in TEMPLATES]
    expected = open_clip.build_zero_shot_classifier(theirs[0], theirs[2], CLASSES, templates).T
    ours = text_embeddings(None, folder, CLASSES, TEMPLATES)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(3))


def test_many_texts_are_encoded_in_chunks_without_a_difference(folder, monkeypatch):
    whole = text_embeddings(None, folder, CLASSES, TEMPLATES)
    monkeypatch.setattr("fewshot.features.backbones.clip._CHUNK", 2)
    torch.testing.assert_close(text_embeddings(None, folder, CLASSES, TEMPLATES), whole)


def test_the_tokenizer_is_in_the_package(theirs):
    tokens = theirs[2](["a photo of a cat."])
    assert tokens[0].tolist() == [49406, 320, 1125, 539, 320, 2368, 269, 49407, 0, 0, 0, 0, 0]


def test_with_class_names_the_output_is_cosines_or_their_softmax(folder, theirs):
    image = theirs[0].encode_image(images()).detach().double().numpy()
    text = text_embeddings(None, folder, CLASSES, TEMPLATES).double().numpy()
    cosines = np.array([[i @ t / np.linalg.norm(i) / np.linalg.norm(t) for t in text] for i in image])
    weights = np.exp(7.5 * cosines)
    options = {"class_names": CLASSES, "templates": TEMPLATES}
    np.testing.assert_allclose(run(build_clip(None, folder, **options), images()), cosines, atol=1e-5)
    built = build_clip(None, folder, output="probabilities", softmax_scale=7.5, **options)
    np.testing.assert_allclose(run(built, images()), weights / weights.sum(1, keepdims=True), atol=1e-5)


def test_cosines_are_computed_in_float32_whatever_the_precision():
    text, features = torch.randn(5, 33), torch.randn(4, 33)
    network = ImageTextNetwork(torch.nn.Identity(), text)
    with torch.autocast("cpu", torch.bfloat16):
        cosines = network(features)
    torch.testing.assert_close(
        cosines.double(), image_text_cosines(features.double(), text.double()), atol=1e-6, rtol=0
    )


def test_cosines_of_zero_are_zero_and_lengths_do_not_matter():
    features, text = torch.randn(2, 4, 7), torch.randn(5, 7)
    cosines = image_text_cosines(features, text)
    assert cosines.shape == (2, 4, 5)
    torch.testing.assert_close(image_text_cosines(3 * features, 0.1 * text), cosines)
    assert not image_text_cosines(torch.zeros(1, 7), text).any()


def test_em_dirichlet_takes_the_cosines():
    generator = torch.Generator().manual_seed(0)
    text, labels = torch.randn(6, 40, generator=generator), torch.arange(3).repeat(5)
    class_ids = torch.tensor([4, 1, 5])
    features = text[class_ids[labels]] + 0.5 * torch.randn(15, 40, generator=generator)
    cosines = ImageTextNetwork(torch.nn.Identity(), text)(features)
    episode = Episode(
        support=cosines[:3],
        support_labels=labels[:3],
        query=cosines[3:],
        query_labels=labels[3:],
        class_ids=class_ids,
    )
    assert torch.equal(EMDirichlet(inputs="cosines")(episode).argmax(-1), labels[3:])


# Keys and randomness


def test_the_key_follows_weights_and_texts_but_not_place_or_format(folder, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    torch.save(
        {"epoch": 7, "state_dict": {f"module.{name}": value for name, value in state.items()}},
        other / "open_clip_pytorch_model.bin",
    )
    keys = [Extractor(build_clip(None, place)).key for place in (folder, other)]
    assert keys[0] == keys[1]
    variants = (
        {"projected": False},
        {"class_names": CLASSES},
        {"class_names": CLASSES[:2]},
        {"class_names": CLASSES, "templates": ("a {}",)},
        {"class_names": CLASSES, "output": "probabilities"},
        {"class_names": CLASSES, "output": "probabilities", "softmax_scale": 100.0},
    )
    keys += [Extractor(build_clip(None, folder, **options)).key for options in variants]
    assert len(set(keys)) == 1 + len(variants)
    assert build_clip(None, folder, projected=False).spec["projected"] is False


def test_another_text_tower_gives_cosines_another_key_and_embeddings_the_same(folder, tmp_path):
    other = write_folder(tmp_path / "other")
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    save_file({**state, "ln_final.bias": torch.ones(16)}, other / "open_clip_model.safetensors")
    embeddings, cosines = (
        [Extractor(build_clip(None, place, class_names=names)).key for place in (folder, other)]
        for names in ((), CLASSES)
    )
    assert embeddings[0] == embeddings[1]
    assert cosines[0] != cosines[1]


def test_the_activation_is_in_the_key_and_in_the_numbers(folder, tmp_path):
    quick = write_folder(tmp_path / "quick", {**CONFIG, "quick_gelu": True})
    plain, other = build_clip(None, folder), build_clip(None, quick)
    assert plain.spec["quick_gelu"] is False
    assert other.spec["quick_gelu"] is True
    assert not torch.equal(run(plain, images()), run(other, images()))
    for name, value in plain.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name])


def test_random_weights_follow_the_seed_and_leave_other_draws_alone(folder):
    before = torch.get_rng_state()
    a, b, c = (
        run(build_clip(f"local-dir:{folder}", "random", class_names=CLASSES, seed=seed), images()) for seed in (3, 3, 4)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


# Names, files and tags


def test_a_file_under_a_name_takes_the_preprocessing_of_its_published_weights(folder, tiny):
    file = folder / "open_clip_model.safetensors"
    named, placed = build_clip("tiny", file), build_clip(None, folder)
    assert named.preprocess == placed.preprocess
    torch.testing.assert_close(run(named, images()), run(placed, images()))
    tiny["second"]["mean"] = (0.1, 0.2, 0.3)
    assert build_clip("tiny", file, tag="second").preprocess.mean == (0.1, 0.2, 0.3)


def test_published_weights_come_from_the_cache_when_they_are_there(folder, tiny, monkeypatch):
    def cached(repository, name):
        here = (repository, name) == ("someone/tiny", "open_clip_model.safetensors")
        return str(folder / "open_clip_model.safetensors") if here else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    expected = run(build_clip(None, folder), images())
    for options in ({"weights": "first"}, {"tag": "first"}):
        torch.testing.assert_close(run(build_clip("tiny", **options), images()), expected)


def test_an_unreachable_hub_is_told_in_one_line(tiny, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *arguments: None)
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
    with pytest.raises(ValueError, match=r"^open_clip has no model 'tiny-quickgel' \(did you mean 'tiny-quickgelu'"):
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


def test_a_resnet_has_no_vector_before_its_projection(tmp_path):
    place = write_folder(tmp_path / "a", RESNET)
    assert run(build_clip(None, place), images(size=32)).shape == (3, JOINT)
    message = f"local-dir:{place} does not end with a projection that can be taken off: use projected=True"
    raises(ValueError, message, build_clip, None, place, projected=False)


def test_images_and_texts_of_different_spaces_are_refused():
    message = (
        "images and texts must lie in one space, got image features (3, 64) and text embeddings (5, 20): "
        "take both from one model, the images projected"
    )
    raises(ValueError, message, image_text_cosines, torch.ones(3, 64), torch.ones(5, 20))
    with pytest.raises(TypeError, match=r"^class_names and templates must be sequences of texts, got one text: write"):
        text_embeddings("tiny", "random", "cat")
