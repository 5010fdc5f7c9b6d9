"""The pixels that a network gets are those of the library that trained it."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("PIL", reason="resizing needs pillow")
from PIL import Image

from fewshot.features.images import resize
from fewshot.features.images.preprocess import IMAGENET_MEAN, Preprocess

SIDES = st.integers(1, 70)
TARGETS = st.tuples(st.integers(1, 40), st.integers(1, 40))
FRACTIONS = st.sampled_from([1.0, 0.96, 0.95, 0.9, 0.875, 0.5])
KERNELS = st.sampled_from(["bicubic", "bilinear"])


@pytest.fixture(scope="module")
def timm_transform():
    """timm's own transform for evaluation, up to the uint8 pixels."""
    from fewshot.features.backbones.torchvision_gate import ensure_torchvision

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ensure_torchvision()
        pytest.importorskip("timm", reason="timm is the oracle")
        from timm.data.transforms_factory import transforms_imagenet_eval

    def transform(image, **options):
        steps = transforms_imagenet_eval(**options, normalize=False)
        return np.asarray(steps(image)).transpose(1, 2, 0)

    return transform


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def difference(one, other):
    assert one.shape == tuple(other.shape)
    return np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max()


# As others do


@pytest.mark.parametrize(
    ("resize_mode", "crop_mode"), [("short", "center"), ("squash", "squash"), ("border", "border")]
)
@given(SIDES, SIDES, TARGETS, FRACTIONS, KERNELS)
def test_pixels_are_those_of_timm(timm_transform, resize_mode, crop_mode, height, width, size, fraction, kernel):
    image = Image.fromarray(noise(height, width))
    if crop_mode == "border" and max(height / width, width / height) > 2 * min(size):
        return  # timm rounds a side to 0 pixels, which PIL refuses
    options = {"crop_pct": fraction, "crop_mode": crop_mode, "interpolation": kernel, "mean": IMAGENET_MEAN}
    expected = timm_transform(image, img_size=size, **options)
    got = Preprocess(size, resize=resize_mode, crop_fraction=fraction, interpolation=kernel).apply(image)
    assert got.dtype == torch.uint8
    assert difference(expected, got) == 0


@pytest.mark.parametrize(("resized", "cut"), [(232, 224), (256, 224), (342, 299), (236, 224), (384, 384)])
def test_pixels_are_those_of_torchvision(timm_transform, resized, cut):
    from torchvision.transforms import CenterCrop, Resize
    from torchvision.transforms.functional import InterpolationMode

    image = Image.fromarray(noise(301, 467))
    expected = CenterCrop(cut)(Resize(resized, InterpolationMode.BILINEAR)(image))
    got = Preprocess((cut, cut), crop_fraction=cut / resized, interpolation="bilinear").apply(image)
    assert difference(np.asarray(expected), got) == 0


@given(SIDES, SIDES, st.integers(1, 20))
def test_adm_halves_then_covers_and_cuts(height, width, side):
    image = Image.fromarray(noise(height, width))
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    top, left = (image.height - side) // 2, (image.width - side) // 2
    expected = np.asarray(image)[top : top + side, left : left + side]
    adm = Preprocess((side, side), resize="adm", crop_fraction=1.0)
    assert difference(expected, adm.apply_array(noise(height, width))) == 0


def test_adm_of_a_size_that_halves_evenly_is_the_mean_of_the_blocks():
    array = np.kron(noise(6, 6), np.ones((8, 8, 1), dtype=np.uint8))
    adm = Preprocess((6, 6), resize="adm", crop_fraction=1.0)
    assert difference(noise(6, 6), adm.apply_array(array)) == 0


def test_adm_of_an_odd_margin_rounds_down():
    array = noise(4, 7)
    adm = Preprocess((4, 4), resize="adm", crop_fraction=1.0)
    assert (adm.apply_array(array).numpy() == array[:, 1:5]).all()


def test_the_center_of_an_odd_margin_is_at_the_even_number():
    for width, left in ((7, 2), (9, 2), (5, 0)):
        array = noise(4, width)
        cut = Preprocess((4, 4), crop_fraction=1.0).apply_array(array)
        assert (cut.numpy() == array[:, left : left + 4]).all()


def test_antialiased_resizing_of_a_tensor_agrees_within_one_level():
    array = noise(57, 83)
    channels_first = torch.from_numpy(array).permute(2, 0, 1)[None]
    for kernel in ("bicubic", "bilinear"):
        expected = torch.nn.functional.interpolate(channels_first, (31, 24), mode=kernel, antialias=True)
        squashed = Preprocess((31, 24), resize="squash", crop_fraction=1.0, interpolation=kernel).apply_array(array)
        assert difference(expected[0].permute(1, 2, 0).numpy(), squashed) <= 1


# What does not change


@pytest.mark.parametrize("resize_mode", ["short", "squash", "border", "adm"])
@given(SIDES, SIDES)
def test_an_image_of_the_size_stays_as_it_is(resize_mode, height, width):
    array = noise(height, width)
    same = Preprocess((height, width), resize=resize_mode, crop_fraction=1.0)
    assert (same.apply_array(array).numpy() == array).all()


@pytest.mark.parametrize("resize_mode", ["short", "squash", "adm"])
@given(SIDES, SIDES, TARGETS)
def test_a_constant_image_stays_constant(resize_mode, height, width, size):
    array = np.broadcast_to(np.array([7, 100, 251], dtype=np.uint8), (height, width, 3))
    constant = Preprocess(size, resize=resize_mode, crop_fraction=1.0).apply_array(array)
    assert constant.shape == (*size, 3)
    assert (constant.numpy() == (7, 100, 251)).all()


@pytest.mark.parametrize("resize_mode", ["short", "squash", "border", "adm"])
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 12))
def test_mirroring_commutes(resize_mode, half_height, half_width, half_side):
    array = noise(2 * half_height, 2 * half_width)
    preprocess = Preprocess((2 * half_side, 2 * half_side), resize=resize_mode, crop_fraction=1.0)
    mirrored = preprocess.apply_array(np.ascontiguousarray(array[:, ::-1])).numpy()
    straight = preprocess.apply_array(array).numpy()[:, ::-1]
    short, long = sorted((half_height, half_width))
    ratio = short / long if resize_mode == "border" else long / short
    is_halved = resize_mode == "adm" and short >= 2 * half_side
    if resize_mode == "squash" or ((half_side * ratio).is_integer() and not is_halved):  # margins are even
        assert difference(mirrored, straight) <= 1


def test_border_pads_with_the_mean():
    mean = (0.0, 0.5, 1.2)
    padded = Preprocess((5, 9), resize="border", crop_fraction=1.0, mean=mean).apply_array(noise(5, 2))
    assert (padded.numpy()[:, 3:5] == noise(5, 2)).all()
    assert (padded.numpy()[:, [0, 2, 5, 8]] == (0, 128, 255)).all()


# Long strips


@pytest.mark.parametrize("resize_mode", ["short", "border", "squash", "adm"])
@pytest.mark.parametrize("shape", [(1, 40_000), (40_000, 1), (2, 33_333)])
def test_strips_are_resized_where_they_are_kept(monkeypatch, resize_mode, shape):
    sizes = []
    resize_image = Image.Image.resize

    def watched(self, size, *args, **options):
        sizes.append(size[0] * size[1])
        return resize_image(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    strip = Preprocess((224, 224), resize=resize_mode, crop_fraction=1.0).apply_array(noise(*shape))
    assert strip.shape == (224, 224, 3)
    assert max(sizes) <= 2**24


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("resize_mode", "fraction"), [("short", 0.875), ("short", 1.0), ("squash", 0.5), ("border", 0.9)]
)
@given(st.integers(1, 50), st.integers(1, 90), st.integers(2, 30))
def test_strips_have_the_pixels_of_the_whole(resize_mode, fraction, kernel, height, width, side):
    preprocess = Preprocess((side, side + 1), resize=resize_mode, crop_fraction=fraction, interpolation=kernel)
    array = 64 + noise(height, width) // 2  # so that no overshoot is clipped between PIL's two passes
    whole = preprocess.apply_array(array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, "_N_PIXELS_WHOLE", 0)
        assert difference(preprocess.apply_array(array).numpy(), whole) <= 2


# Arrays


def test_arrays_tensors_and_gray_are_images_too():
    preprocess = Preprocess((6, 7))
    array = noise(11, 13)
    expected = preprocess.apply(Image.fromarray(array))
    assert torch.equal(preprocess.apply_array(array), expected)
    assert torch.equal(preprocess.apply_array(torch.from_numpy(array)), expected)
    turned = torch.from_numpy(array.transpose(1, 0, 2).copy()).permute(1, 0, 2)
    assert torch.equal(preprocess.apply_array(turned), expected)
    gray = array[..., 0]
    assert torch.equal(preprocess.apply_array(gray), preprocess.apply_array(np.stack([gray] * 3, axis=2)))


def test_the_result_is_memory_of_its_own():
    array = noise(5, 4)
    got = Preprocess((5, 4), resize="squash", crop_fraction=1.0).apply_array(array)
    got.zero_()
    assert (array == noise(5, 4)).all()


@pytest.mark.parametrize(
    ("array", "kind", "message"),
    [
        (np.zeros((4, 5, 3)), TypeError, "image must be uint8, got float64: scale it to 0 ... 255 first"),
        (
            np.zeros((3, 4, 5), np.uint8),
            ValueError,
            "image must have shape (height, width, 3) or (height, width), got (3, 4, 5)",
        ),
        (
            np.zeros((0, 4, 3), np.uint8),
            ValueError,
            "image must have shape (height, width, 3) or (height, width), got (0, 4, 3)",
        ),
        (np.zeros(4, np.uint8), ValueError, "image must have shape (height, width, 3) or (height, width), got (4,)"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array, kind, message):
    with pytest.raises(kind) as caught:
        Preprocess().apply_array(array)
    assert str(caught.value) == message


def test_an_image_of_another_mode_is_refused():
    with pytest.raises(ValueError, match="image must be of mode RGB, got L: decode") as caught:
        Preprocess().apply(Image.new("L", (3, 4)))
    assert str(caught.value) == "image must be of mode RGB, got L: decode() makes it so, or convert('RGB')"


# Fields


@pytest.mark.parametrize(
    ("field", "value", "kind", "message"),
    [
        ("size", 224, TypeError, "size must be two integers (height, width), got 224"),
        ("size", (224.0, 224), TypeError, "size must be two integers (height, width), got (224.0, 224)"),
        ("size", (True, 224), TypeError, "size must be two integers (height, width), got (True, 224)"),
        ("size", (224,), ValueError, "size must be (height, width), each at least 1 pixel, got (224,)"),
        ("size", (0, 224), ValueError, "size must be (height, width), each at least 1 pixel, got (0, 224)"),
        ("crop_fraction", "1", TypeError, "crop_fraction must be a number, got '1'"),
        ("crop_fraction", 0, ValueError, "crop_fraction must lie in (0, 1], got 0"),
        ("crop_fraction", 1.01, ValueError, "crop_fraction must lie in (0, 1], got 1.01"),
        ("crop_fraction", math.nan, ValueError, "crop_fraction must lie in (0, 1], got nan"),
        ("mean", 0.5, TypeError, "mean must be three numbers, got 0.5"),
        ("mean", ("a", 0, 0), TypeError, "mean must be three numbers, got ('a', 0, 0)"),
        ("mean", (0.5,), ValueError, "mean must be three finite numbers, one a channel, got (0.5,)"),
        ("std", (1, 1, math.inf), ValueError, "std must be three finite numbers, one a channel, got (1, 1, inf)"),
        ("std", (1, 0, 1), ValueError, "std must be positive in every channel, got (1.0, 0.0, 1.0)"),
        ("interpolation", "lanczos", ValueError, "unknown interpolation 'lanczos'. Known: bicubic, bilinear"),
        (
            "resize",
            "shor",
            ValueError,
            "unknown resize 'shor': did you mean 'short'? Known: adm, border, short, squash",
        ),
        (
            "resize",
            "adm",
            ValueError,
            "resize 'adm' needs crop_fraction 1.0 and interpolation 'bicubic', got 0.875 and 'bicubic'",
        ),
    ],
)
def test_a_field_out_of_range_is_refused_at_birth(field, value, kind, message):
    with pytest.raises(kind) as caught:
        Preprocess(**{field: value})
    assert str(caught.value) == message


def test_a_spec_is_one_however_it_was_written():
    preprocess = Preprocess([6, 7], crop_fraction=1, mean=[0, 0, 0], std=(1, 1, 1))
    assert json.dumps(preprocess.spec()) == json.dumps(
        {
            "size": [6, 7],
            "resize": "short",
            "crop_fraction": 1.0,
            "interpolation": "bicubic",
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
        }
    )
    again = Preprocess.from_spec(json.loads(json.dumps(preprocess.spec())))
    assert again == preprocess
    assert hash(again) == hash(preprocess)


def test_a_spec_names_every_field_and_no_other():
    spec = Preprocess().spec()
    del spec["mean"]
    with pytest.raises(ValueError, match="missing") as caught:
        Preprocess.from_spec({**spec, "crop": 1})
    assert str(caught.value) == "a spec must name every field of Preprocess, got missing ['mean'], unknown ['crop']"


def test_normalised_is_the_formula():
    images = torch.from_numpy(np.stack([noise(3, 5), noise(3, 5, 1)]))
    preprocess = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 2.0, 4.0))
    got = preprocess.normalise(images)
    assert got.shape == (2, 3, 3, 5)
    assert got.dtype == torch.float32
    for channel in range(3):
        expected = (images[..., channel].double() / 255 - preprocess.mean[channel]) / preprocess.std[channel]
        torch.testing.assert_close(got[:, channel].double(), expected, atol=1e-6, rtol=0)
