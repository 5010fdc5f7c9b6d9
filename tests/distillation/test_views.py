"""Views of an image: how many, how large, how strong, and the same whenever one seed is given."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstest

pytest.importorskip("PIL", reason="views are cut by pillow")
from PIL import Image

from fewshot.distillation.views import crops
from fewshot.distillation.views import multi_crop as views
from fewshot.distillation.views.crops import (
    FIRST,
    LOCAL,
    SECOND,
    View,
    draw_box,
    reduced,
    seeded,
    strong_view,
    weak_view,
)
from fewshot.distillation.views.erasing import Erased, nothing_erased
from fewshot.distillation.views.multi_crop import draw_views, finish_views, join_views, make_views
from fewshot.distillation.views.settings import ViewSettings, cmd_views, mugs_views
from fewshot.features.backbones.torchvision_gate import require_torchvision

require_torchvision("these tests")
auto_augment = pytest.importorskip("timm.data.auto_augment", reason="strong views are timm's")
v2 = pytest.importorskip("torchvision.transforms.v2")

SMALL = {"size": 12, "local_size": 7, "n_local": 3}
# One view is the whole image as it is: the crop has all of the area, and nothing is mirrored or recoloured.
PLAIN = {"size": 12, "global_scale": (1, 1), "local_size": 12, "local_scale": (1, 1), "flip_probability": 0}
PLAIN |= {"colour": False}
P = 0.001


def noise(height=12, width=12, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def constant(*colour, size=(12, 12)):
    return Image.new("RGB", size, colour)


def same(one, other):
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True))


def bytes_of(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def share(flags):
    return sum(flags) / len(flags)


def near(measured, probability, n):
    """Tell whether a share lies within four standard deviations of a probability."""
    return abs(measured - probability) < 4 * (probability * (1 - probability) / n) ** 0.5


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size must be positive, got 0"),
        ({"local_size": -1}, "local_size must be positive, got -1"),
        ({"n_local": -1}, "n_local must not be negative, got -1"),
        ({"local_scale": (0, 1)}, r"local_scale must be two shares with 0 < least <= largest <= 1, got \(0, 1\)"),
        ({"global_scale": (0.5, 1.1)}, r"global_scale must be two shares with .*, got \(0.5, 1.1\)"),
        ({"global_scale": (0.5,)}, r"global_scale must be two shares with .*, got \(0.5,\)"),
        ({"weak_probability": 1.5}, r"weak_probability must lie in \[0, 1\], got 1.5"),
        ({"flip_probability": -0.5}, r"flip_probability must lie in \[0, 1\], got -0.5"),
        ({"std": (1, 1, 0)}, r"mean and std must be 3 numbers, std positive, got .* and \(1, 1, 0\)"),
        ({"mean": (1, 1)}, r"mean and std must be 3 numbers, std positive, got \(1, 1\) and"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ViewSettings(**changes)


def test_the_presets_are_the_originals():
    assert mugs_views() == ViewSettings(224, 96, 10, (0.25, 1.0), (0.05, 0.25), 0.5)
    assert mugs_views(n_local=4) == ViewSettings(224, 96, 4, (0.25, 1.0), (0.05, 0.25), 0.5)
    assert cmd_views() == ViewSettings(224, 96, 8, (0.4, 1.0), (0.05, 0.4), None)


# What comes out


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3), st.sampled_from([None, 0.0, 0.5, 1.0]))
def test_there_are_as_many_views_as_asked_for_of_the_sizes_asked_for(height, width, n_local, weak_probability):
    settings = mugs_views(size=9, local_size=5, n_local=n_local, weak_probability=weak_probability)
    made = make_views(noise(height, width), settings, seed=height)
    assert made.teacher.shape == made.student.shape == (2, 3, 9, 9)
    assert (made.local is None) if n_local == 0 else (made.local.shape == (n_local, 3, 5, 5))
    for tensor in filter(lambda part: isinstance(part, torch.Tensor), made):
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
    assert type(made.is_weak) is bool


def test_the_student_has_views_of_its_own_in_mugs_and_the_teachers_in_cmd():
    image = noise(30, 40)
    for seed in range(6):
        mugs, cmd = make_views(image, mugs_views(**SMALL), seed=seed), make_views(image, cmd_views(**SMALL), seed=seed)
        pairs = [*mugs.teacher, *mugs.student]
        assert not any(torch.equal(a, b) for i, a in enumerate(pairs) for b in pairs[:i])
        assert cmd.student is cmd.teacher
        assert cmd.is_weak
        assert not torch.equal(*cmd.teacher)
        assert not torch.equal(*mugs.local[:2])
    batch = finish_views(draw_views(image, cmd_views(**SMALL), seed=0), cmd_views())
    assert batch.student is batch.teacher


def test_only_rgb_images_have_views():
    with pytest.raises(ValueError, match=r"^views need an image of mode RGB, got L: use image.convert\('RGB'\)$"):
        make_views(noise().convert("L"), mugs_views(), seed=0)


def test_pixels_are_scaled_to_mean_and_std():
    settings = cmd_views(**PLAIN, n_local=1, mean=(0.1, 0.2, 0.3), std=(0.5, 2.0, 4.0))
    made = make_views(constant(0, 51, 255), settings, seed=3)
    expected = torch.tensor([(0 - 0.1) / 0.5, (0.2 - 0.2) / 2, (1 - 0.3) / 4])[:, None, None].expand(3, 12, 12)
    torch.testing.assert_close(made.teacher[0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(made.local[0], expected, rtol=0, atol=1e-6)


# Randomness


@pytest.mark.parametrize("preset", [mugs_views, cmd_views])
def test_one_seed_gives_the_same_views_whatever_the_global_generators_hold(preset):
    image, settings = noise(30, 40), preset(**SMALL)
    for seed in range(8):
        first = draw_views(image, settings, seed=seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            again = draw_views(image, settings, seed=seed)
        for one, other in zip(first, again, strict=True):
            if isinstance(one, Erased):
                assert same(one, other)
            else:
                assert one is other is None or torch.equal(one, other)
    others = [make_views(image, settings, seed=seed).teacher for seed in range(8)]
    assert not any(torch.equal(a, b) for i, a in enumerate(others) for b in others[:i])


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def test_the_global_generators_are_as_they_were():
    before = states()
    for seed in range(4):
        make_views(noise(), mugs_views(**SMALL), seed=seed)
    with pytest.raises(ZeroDivisionError), seeded(3):
        random.random(), torch.rand(3), 1 / 0
    assert states() == before


def test_large_seeds_and_their_neighbours_draw_apart():
    drawn = set()
    for seed in (0, 1, 2**32, 2**32 + 1, 2**64 - 1):
        with seeded(seed):
            drawn |= {random.random(), torch.rand(()).item()}
    assert len(drawn) == 10


# Weak or strong


@pytest.fixture
def told(monkeypatch):
    """Replace the two kinds of view by ones that only say how they were asked for."""
    seen = []

    def blank(kind):
        def view(_image, _settings, crop, look=None):
            seen.append((kind, crop.size, look))
            return View(torch.zeros(3, 1, 1, dtype=torch.uint8), nothing_erased())

        return view

    monkeypatch.setattr(views, "weak_view", blank("weak"))
    monkeypatch.setattr(views, "strong_view", blank("strong"))
    return seen


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_one_coin_makes_both_global_views_weak_and_each_local_view_tosses_its_own(told, probability):
    n, n_local = 600, 4
    settings = mugs_views(size=12, local_size=7, n_local=n_local, weak_probability=probability)
    weak, counts, agree = [], [], []
    for seed in range(n):
        told.clear()
        drawn = draw_views(noise(), settings, seed=seed)
        teacher, student, local = told[:2], told[2:4], told[4:]
        assert teacher == [("weak", 12, FIRST), ("weak", 12, SECOND)]
        assert student in (teacher, [("strong", 12, None)] * 2)
        assert all(one in (("weak", 7, LOCAL), ("strong", 7, None)) for one in local)
        assert bool(drawn.is_weak) == (student == teacher)
        weak.append(student == teacher)
        counts.append(sum(kind == "weak" for kind, *_ in local))
        agree.append((local[0][0] == "weak") == weak[-1])
    assert near(share(weak), probability, n) or share(weak) == probability
    assert near(share(counts) / n_local, probability, n * n_local) or share(counts) == n_local * probability
    # n_local coins of their own have this variance; a common one has n_local times as much.
    assert abs(np.var(counts) - n_local * probability * (1 - probability)) < 0.25
    same_side = probability**2 + (1 - probability) ** 2
    assert near(share(agree), same_side, n) or share(agree) == same_side


def test_without_strong_views_all_are_weak(told):
    settings = cmd_views(**SMALL)
    for seed in range(5):
        drawn = draw_views(noise(), settings, seed=seed)
        assert drawn.student is None
        assert bool(drawn.is_weak)
    assert Counter(kind for kind, *_ in told) == {"weak": 25}


# Weak views


def test_the_second_global_view_alone_is_solarised_in_one_of_five():
    """White becomes black where all from the middle grey on is inverted; nothing else changes white."""
    n, settings, white = 500, cmd_views(**PLAIN, n_local=2), constant(255, 255, 255)
    drawn = [draw_views(white, settings, seed=seed) for seed in range(n)]
    is_black = torch.stack([torch.cat([one.teacher, one.local]).flatten(1).amax(1) == 0 for one in drawn])
    assert not is_black[:, [0, 2, 3]].any()
    assert near(is_black[:, 1].double().mean(), 0.2, n)
    grey = draw_views(constant(127, 127, 127), settings, seed=int(is_black[:, 1].nonzero()[0]))
    assert (grey.teacher == 127).all()


def test_the_first_global_view_is_blurred_the_second_hardly_ever_and_local_ones_every_other_time():
    n, image = 400, noise()
    settings = cmd_views(**PLAIN, n_local=1)
    drawn = [draw_views(image, settings, seed=seed) for seed in range(n)]
    bare = bytes_of(image)
    moved = torch.stack([(torch.cat([d.teacher, d.local])[:, 0] != bare).flatten(1).any(1) for d in drawn]).double()
    first, second, local = moved.mean(0).tolist()
    assert first > 0.9  # the smallest radii change nothing
    assert near(second, 0.1 * first + 0.2 - 0.02 * first, n)  # blurred or solarised
    assert near(local, 0.5 * first, n)


def test_blur_has_radii_up_to_two_pixels():
    """The mean squared step between neighbours of noise falls to that of PIL's blur by 2 pixels, and no lower."""
    from PIL import ImageFilter

    image = noise(40, 40)

    def roughness(view):
        return np.diff(np.asarray(view, dtype=float), axis=0).std()

    with seeded(0):
        found = [roughness(crops._blurred(image)) for _ in range(300)]
    least = roughness(image.filter(ImageFilter.GaussianBlur(2.0)))
    assert min(found) >= least
    assert min(found) < 1.2 * least
    assert max(found) > 0.95 * roughness(image)
    # The radius is uniform: half of the views are smoother than at its mean.
    assert near(share([one < roughness(image.filter(ImageFilter.GaussianBlur(1.05))) for one in found]), 0.5, 300)


def test_colours_are_as_torchvisions_jitter_and_greyscale_make_them():
    n = 700
    image = Image.fromarray(np.random.default_rng(2).integers(20, 200, (4, 4, 3), dtype=np.uint8))
    theirs = v2.Compose([v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8), v2.RandomGrayscale(0.2)])
    with seeded(1):
        ours = torch.stack([bytes_of(crops._recoloured(image)) for _ in range(n)]).double()
        others = torch.stack([bytes_of(theirs(image)) for _ in range(n)]).double()
    for measure in (
        lambda x: x[:, 0].mean((1, 2)),
        lambda x: x[:, 1].mean((1, 2)),
        lambda x: x[:, 2].mean((1, 2)),
        lambda x: x.mean(1).flatten(1).std(1),
        lambda x: (x.amax(1) - x.amin(1)).mean((1, 2)),
        lambda x: (x[:, 0] - x[:, 1]).mean((1, 2)),
    ):
        assert ks_2samp(measure(ours), measure(others)).pvalue > P
    is_grey = (ours[:, 0] == ours[:, 1]).flatten(1).all(1) & (ours[:, 1] == ours[:, 2]).flatten(1).all(1)
    assert near(is_grey.double().mean(), 0.2, n)
    is_untouched = (ours == bytes_of(image)).flatten(1).all(1)
    assert near(is_untouched.double().mean(), 0.2 * 0.8, n)


def test_jitter_is_uniform_in_torchvisions_ranges_and_in_any_order(monkeypatch):
    theirs, seen = v2.ColorJitter(0.4, 0.4, 0.2, 0.1), []

    def record(name):
        def change(image, factor):
            seen.append((name, factor))
            return image

        return change

    names = ("brightness", "contrast", "saturation", "hue")
    for name in names:
        monkeypatch.setattr(v2.functional, f"adjust_{name}", record(name))
    n = 480
    with seeded(5):
        for _ in range(n):
            crops._jittered(noise())
    for name in names:
        low, high = getattr(theirs, name)
        factors = [factor for other, factor in seen if other == name]
        assert len(factors) == n
        assert kstest(factors, "uniform", (low, high - low)).pvalue > P
    orders = Counter(tuple(name for name, _ in seen[start : start + 4]) for start in range(0, 4 * n, 4))
    assert len(orders) == 24
    assert sum((count - n / 24) ** 2 / (n / 24) for count in orders.values()) < 52  # chi square, 23 degrees: P < 0.0005


def test_without_colour_a_constant_stays_as_it_is():
    settings = cmd_views(**(SMALL | {"colour": False}))
    for seed in range(20):
        drawn = draw_views(constant(10, 60, 110), settings, seed=seed)
        expected = torch.tensor([10, 60, 110], dtype=torch.uint8)[:, None, None]
        assert (drawn.teacher == expected).all()  # below the threshold of solarising
        assert (drawn.local == expected).all()


@pytest.mark.parametrize("kind", ["weak", "strong"])
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_views_are_mirrored_as_often_as_asked(monkeypatch, kind, probability):
    monkeypatch.setattr(crops, "_augmented", lambda image, _mean: image)
    monkeypatch.setattr(crops, "draw_erased", lambda _size: nothing_erased())
    image, n = noise(), 300
    settings = mugs_views(**(PLAIN | {"flip_probability": probability}))
    look = crops.Look(0.0, 0.0)
    with seeded(7):
        if kind == "weak":
            made = [weak_view(image, settings, settings.global_crop, look).pixels for _ in range(n)]
        else:
            made = [strong_view(image, settings, settings.global_crop).pixels for _ in range(n)]
    bare = bytes_of(image)
    flipped = [torch.equal(view, bare.flip(2)) for view in made]
    assert all(is_flipped or torch.equal(view, bare) for view, is_flipped in zip(made, flipped, strict=True))
    assert near(share(flipped), probability, n) or share(flipped) == probability


# Crops


@pytest.mark.parametrize("scale", [(0.25, 1.0), (0.05, 0.25)])
@pytest.mark.parametrize(("width", "height"), [(500, 375), (300, 420)])
def test_crops_are_distributed_as_torchvisions(width, height, scale):
    n = 1500
    image = constant(0, 0, 0, size=(width, height))
    with seeded(11):
        ours = np.array([draw_box(width, height, scale) for _ in range(n)])
        theirs = [v2.RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(n)]
    others = np.array([(left, top, wide, tall) for top, left, tall, wide in theirs])
    for column in range(4):
        assert ks_2samp(ours[:, column], others[:, column]).pvalue > P
    left, top, wide, tall = ours.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + wide <= width).all()
    assert (top + tall <= height).all()
    shares, ratios = wide * tall / (width * height), wide / tall
    assert scale[0] * 0.98 < shares.min() < scale[0] * 1.1
    assert scale[1] * 0.9 < shares.max() < scale[1] * 1.02
    assert ((ratios > 0.72) & (ratios < 1.38)).all()
    if scale[1] < 0.5:  # then nearly every draw fits
        assert kstest(shares, "uniform", (scale[0], scale[1] - scale[0])).pvalue > P
        assert kstest(np.log(ratios), "uniform", (np.log(3 / 4), 2 * np.log(4 / 3))).pvalue > P
        assert kstest((left + np.random.default_rng(0).uniform(size=n)) / (width - wide + 1), "uniform").pvalue > P


@given(st.integers(1, 400), st.integers(1, 400))
def test_where_no_crop_fits_the_middle_is_taken_as_by_torchvision(width, height):
    scale = (1.0, 1.0)  # fits only if the aspect ratio that is drawn is the image's, to rounding
    if 0.7 < width / height < 1.4:
        width *= 3
    with seeded(0):
        box = draw_box(width, height, scale)
    top, left, tall, wide = v2.RandomResizedCrop.get_params(
        constant(0, 0, 0, size=(width, height)), scale, (3 / 4, 4 / 3)
    )
    assert box == (left, top, wide, tall)


def test_a_crop_is_the_box_scaled_with_pils_bicubic(monkeypatch):
    image = noise(40, 60)
    monkeypatch.setattr(crops, "draw_box", lambda *_: crops.Box(5, 11, 30, 20))
    expected = image.crop((5, 11, 35, 31)).resize((16, 16), Image.Resampling.BICUBIC)
    found = crops._cropped(image, mugs_views(size=16).global_crop)
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_global_and_local_views_are_cropped_by_their_own_scales(monkeypatch):
    seen = []

    def box(width, height, scale):
        seen.append(scale)
        return crops.Box(0, 0, width, height)

    monkeypatch.setattr(crops, "draw_box", box)
    settings = mugs_views(**SMALL, global_scale=(0.7, 0.8), local_scale=(0.1, 0.2))
    for seed in range(8):
        draw_views(noise(), settings, seed=seed)
    assert seen == ([(0.7, 0.8)] * 4 + [(0.1, 0.2)] * 3) * 8


@given(st.integers(1, 300), st.integers(1, 300))
def test_large_images_are_reduced_to_what_the_smallest_crops_need(height, width):
    image, settings = constant(9, 9, 9, size=(width, height)), cmd_views(size=20, local_size=8, n_local=2)
    needed = max(20**2 / 0.4, 8**2 / 0.05)
    made = reduced(image, settings)
    if width * height <= needed:
        assert made is image
    else:
        assert made.width * made.height <= needed + (made.width + made.height) / 2 + 1
        assert (made.width + 0.5) * (made.height + 0.5) >= needed * 0.999 or min(made.size) == 1
        assert abs(made.width * height - made.height * width) <= 0.5 * (width + height) + 1 or min(made.size) == 1
    assert reduced(image, cmd_views(size=20, local_size=8, n_local=2, is_reduced=False)) is image


def test_views_are_drawn_from_the_reduced_image():
    large = noise(90, 100)
    for settings in (mugs_views(**SMALL), mugs_views(**SMALL, is_reduced=False)):
        small = reduced(large, settings)
        assert (small is large) != settings.is_reduced
        assert same(make_views(large, settings, seed=4), make_views(small, settings, seed=4))


def test_without_local_views_global_ones_alone_say_how_far_an_image_is_reduced():
    made = reduced(constant(0, 0, 0, size=(200, 200)), mugs_views(size=10, local_size=100, n_local=0))
    assert made.size == (20, 20)


# Strong views


def test_the_operations_are_timms_randaugment():
    theirs = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {}).ops
    ours = crops._operations((0.485, 0.456, 0.406))
    assert [op.name for op in ours] == [op.name for op in theirs]
    assert len(ours) == 15
    assert {(op.magnitude, op.magnitude_std, op.prob) for op in ours} == {(9, 0.5, 0.5)}
    assert all(op.kwargs["fillcolor"] == (124, 116, 104) for op in ours)


def test_every_operation_works_at_every_magnitude_and_none_makes_an_image_black(monkeypatch):
    image = Image.fromarray(np.full((20, 20, 3), 255, np.uint8) - np.asarray(noise(20, 20)) // 4)
    for gauss in (-1.0, 5.0, 9.0, 9.999, 10.0, 12.0):
        monkeypatch.setattr(random, "gauss", lambda *_, value=gauss: value)
        for operation in crops._operations((0.485, 0.456, 0.406)):
            monkeypatch.setattr(operation, "prob", 1.0)
            made = np.asarray(operation(image))
            assert made.shape == (20, 20, 3)
            assert made.any()


def test_two_different_operations_see_the_whole_image_before_it_is_cropped(monkeypatch):
    seen = []

    def operation(name):
        def apply(image):
            seen.append((name, image.size))
            return Image.new("RGB", image.size, (name, name, name))

        return apply

    monkeypatch.setattr(crops, "_operations", lambda _mean: [operation(name) for name in range(15)])
    monkeypatch.setattr(crops, "draw_erased", lambda _size: nothing_erased())
    settings, n = mugs_views(**SMALL), 600
    with seeded(3):
        made = [strong_view(noise(20, 30), settings, settings.local_crop).pixels for _ in range(n)]
    pairs = [(one[0], other[0]) for one, other in zip(seen[::2], seen[1::2], strict=True)]
    assert {size for _, size in seen} == {(30, 20)}
    assert all(one != other for one, other in pairs)
    assert all((view == other).all() for view, (_, other) in zip(made, pairs, strict=True))
    counts = np.bincount(np.array(pairs).ravel(), minlength=15)
    assert ((counts - 2 * n / 15) ** 2 / (2 * n / 15)).sum() < 40  # chi square, 14 degrees: P < 0.0003


def test_a_quarter_of_strong_views_has_a_rectangle_of_normalised_noise(monkeypatch):
    monkeypatch.setattr(crops, "_augmented", lambda image, _mean: image)
    n, settings = 150, mugs_views(**(PLAIN | {"size": 32, "local_size": 16, "n_local": 2, "weak_probability": 0}))
    image = constant(90, 90, 90, size=(32, 32))
    mean, std = (torch.tensor(value)[:, None, None] for value in (settings.mean, settings.std))
    hits, areas, drawn_noise = [], [], []
    for seed in range(n):
        made = make_views(image, settings, seed=seed)
        for group, size in ((made.teacher, 32), (made.student, 32), (made.local, 16)):
            pixels = group * std + mean
            is_noise = (pixels - 90 / 255).abs() > 1e-6
            if group is made.teacher:
                assert not is_noise.any()
                continue
            for view, erased in zip(pixels, is_noise, strict=True):
                hits.append(bool(erased.any()))
                if hits[-1]:
                    rows, columns = (erased.any(0).any(1 - axis).nonzero().squeeze(1) for axis in range(2))
                    height, width = len(rows), len(columns)
                    assert (height, width) == (int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)
                    inside = view[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                    assert erased.sum() > 0.98 * inside.numel()  # noise may be what was there before
                    areas.append(height * width / size**2)
                    drawn_noise.append(inside.flatten())
    assert near(share(hits), 0.25, len(hits))
    assert 0.01 < min(areas) < 0.06
    assert 0.28 < max(areas) < 0.36
    assert kstest(torch.cat(drawn_noise).double()[::7].numpy(), "norm").pvalue > P


# Batches


@pytest.mark.parametrize("preset", [mugs_views, cmd_views])
@pytest.mark.parametrize("n_local", [0, 3])
def test_a_batch_is_the_views_of_its_images_one_by_one(preset, n_local):
    settings = preset(**(SMALL | {"n_local": n_local}))
    images = [noise(20 + number, 30, number) for number in range(9)]
    drawn = [draw_views(image, settings, seed=5 * number) for number, image in enumerate(images)]
    joined = join_views(drawn)
    batch = finish_views(joined.to(torch.device("cpu")), settings)
    singles = [make_views(image, settings, seed=5 * number) for number, image in enumerate(images)]
    assert torch.equal(batch.teacher, torch.stack([one.teacher for one in singles], 1))
    assert torch.equal(batch.student, torch.stack([one.student for one in singles], 1))
    if n_local:
        assert torch.equal(batch.local, torch.stack([one.local for one in singles], 1))
    else:
        assert batch.local is None
    assert batch.is_weak.tolist() == [one.is_weak for one in singles]
    if preset is mugs_views:
        assert len(joined.student_erased.where) > 0
        assert {True, False} == set(batch.is_weak.tolist())
