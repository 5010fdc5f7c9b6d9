"""CLIP towers give open_clip's own numbers, under keys that follow what decides them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fewshot_episodes import Episode
from safetensors.torch import save_file

from fewshot.episodic.em_dirichlet import EMDirichlet
from fewshot.features.backbones.clip import ImageTextNetwork, build_clip, image_text_cosines, text_embeddings
from fewshot.features.frozen import Extractor
from tests.kits.clip import (
    CLASSES,
    CONFIG,
    JOINT,
    PREPROCESS,
    SIZE,
    WIDTH,
    images,
    open_clip,
    raises,
    run,
    write_folder,
)

Image = pytest.importorskip("PIL.Image", reason="open_clip's transforms take PIL images")

TEMPLATES = ("a photo of a {}.", "{} {braces}", "art of the {}, {}")
TIMM = {**CONFIG, "vision_cfg": {"image_size": SIZE * 2, "timm_model_name": "test_vit", "timm_pool": ""}}
RESNET = {**CONFIG, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def theirs(folder):
    """open_clip's own model, transform and tokenizer of the folder."""
    place = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(place)
    return model.eval(), transform, open_clip.get_tokenizer(place)


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


# What cannot be


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
