"""Views of one image: how many, where they are, and what mirroring does to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("PIL", reason="views are cut by pillow")
from PIL import Image, ImageOps

from fewshot.features.images.preprocess import Preprocess
from fewshot.features.images.views import JITTER_NAMES, jitter16, region_views, spatial_regions

SIDES = st.integers(1, 60)
LEVELS = st.integers(1, 6)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def named(image, **options):
    return dict(zip(JITTER_NAMES, jitter16(image, **options), strict=True))


# Jitter


def test_the_sixteen_views_have_their_names_and_order():
    assert JITTER_NAMES[:8] == (
        "whole",
        "top-left",
        "top-right",
        "bottom-left",
        "bottom-right",
        "centre",
        "rotated-1",
        "rotated-2",
    )
    assert JITTER_NAMES[8:] == tuple(f"{name}-mirrored" for name in JITTER_NAMES[:8])
    array = noise(12, 18)
    image = Image.fromarray(array)
    views = named(image)
    assert len(views) == 16
    assert views["whole"] is not image
    parts = {
        "whole": array,
        "top-left": array[:8, :12],
        "top-right": array[:8, 6:],
        "bottom-left": array[4:, :12],
        "bottom-right": array[4:, 6:],
        "centre": array[2:10, 3:15],
    }
    for name, part in parts.items():
        assert (np.asarray(views[name]) == part).all(), name
        assert (np.asarray(views[f"{name}-mirrored"]) == part[:, ::-1]).all(), name


@given(SIDES, SIDES)
def test_crops_have_four_ninths_of_the_area_to_a_pixel_a_side(height, width):
    views = named(Image.fromarray(noise(height, width)))
    for name in JITTER_NAMES[1:6]:
        assert abs(views[name].width - 2 * width / 3) <= 1
        assert abs(views[name].height - 2 * height / 3) <= 1


@given(SIDES, SIDES)
def test_mirroring_the_views_gives_the_same_set(height, width):
    views = jitter16(Image.fromarray(noise(height, width)))
    mirrored = [ImageOps.mirror(view) for view in views]
    assert sorted(view.tobytes() for view in views) == sorted(view.tobytes() for view in mirrored)


@given(SIDES, SIDES)
def test_the_mirrored_image_has_the_same_set_of_views(height, width):
    image = Image.fromarray(noise(height, width))
    views, others = named(image), named(ImageOps.mirror(image))
    partner = {"left": "right", "right": "left", "rotated-1": "rotated-2", "rotated-2": "rotated-1"}
    for name, view in views.items():
        words = name.removesuffix("-mirrored")
        other = partner.get(words) or "-".join(partner.get(word, word) for word in words.split("-"))
        other = other if name.endswith("-mirrored") else f"{other}-mirrored"
        assert view.size == others[other].size
        difference = np.abs(np.asarray(view).astype(int) - np.asarray(others[other])).max()
        assert difference <= (1 if "rotated" in name else 0), name


@given(SIDES, SIDES, st.floats(-90, 90), st.floats(-90, 90))
def test_a_constant_image_has_constant_views(height, width, first, second):
    image = Image.new("RGB", (width, height), (3, 130, 255))
    for view in jitter16(image, degrees=(first, second)):
        assert (np.asarray(view) == (3, 130, 255)).all()


def test_rotations_are_the_center_of_pils_and_as_large_as_can_be():
    ramp = np.add.outer(3 * np.arange(41), np.arange(61)).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp] * 3, axis=2))
    rotated = np.asarray(image.rotate(12, Image.Resampling.BILINEAR)).astype(int)
    view = named(image, degrees=(12, 0))["rotated-1"]
    top, left = (41 - view.height) // 2, (61 - view.width) // 2
    assert (view.height, view.width) == (31, 47)
    part = rotated[top : top + view.height, left : left + view.width]
    assert np.abs(part - np.asarray(view)).max() <= 1
    # one pixel more a side and a corner would be filled in
    corner = np.array([view.height + 2, view.width + 2]) / 2
    reach = np.cos(np.radians(12)) * corner + np.sin(np.radians(12)) * corner[::-1]
    assert (reach > np.array([41, 61]) / 2).any()


def test_without_angles_the_rotations_are_by_ten_degrees():
    image = Image.fromarray(noise(31, 43))
    views, others = named(image), named(image, degrees=(-10, 10))
    assert views["rotated-1"] == others["rotated-1"]
    assert views["rotated-2"] == others["rotated-2"]


def test_no_rotation_is_the_whole():
    views = named(Image.fromarray(noise(7, 9)), degrees=(0, 0))
    assert (np.asarray(views["rotated-1"]) == noise(7, 9)).all()


def test_right_angles_turn_a_square_counter_clockwise_and_back():
    array = noise(8, 8)
    views = named(Image.fromarray(array), degrees=(90, -90))
    for name, turned in (("rotated-1", np.rot90(array)), ("rotated-2", np.rot90(array, -1))):
        assert np.abs(np.asarray(views[name]).astype(int) - turned).max() <= 1


@pytest.mark.parametrize("degrees", [(-10, 90.5), (-90.5, 10)])
def test_an_angle_beyond_a_right_one_is_refused(degrees):
    with pytest.raises(ValueError, match="degrees") as caught:
        jitter16(Image.new("RGB", (4, 5)), degrees=degrees)
    assert str(caught.value) == f"degrees must lie in [-90, 90], got {degrees}"


def test_views_go_through_the_preprocessing():
    squash = Preprocess((6, 7), resize="squash", crop_fraction=1.0)
    image = Image.fromarray(noise(13, 17))
    for view in (*jitter16(image), *region_views(image, 3)):
        assert squash.apply(view).shape == (6, 7, 3)


# Regions


@pytest.mark.parametrize("square", ["enclosing", "none"])
@given(SIDES, SIDES, LEVELS)
def test_levels_have_squares_of_counts_of_one_size_that_cover_the_image(square, height, width, n_levels):
    boxes = spatial_regions(height, width, n_levels, square=square)
    assert len(boxes) == n_levels * (n_levels + 1) * (2 * n_levels + 1) // 6
    start = 0
    for level in range(1, n_levels + 1):
        regions = boxes[start : start + level**2]
        start += level**2
        sizes = {(box.bottom - box.top, box.right - box.left) for box in regions}
        assert len(sizes) == 1
        seen = np.zeros((height, width), dtype=bool)
        for box in regions:
            seen[max(box.top, 0) : box.bottom, max(box.left, 0) : box.right] = True
        assert seen.all(), level


@given(SIDES, SIDES, LEVELS)
def test_squeezed_regions_lie_in_the_image_and_begin_with_the_whole(height, width, n_levels):
    boxes = spatial_regions(height, width, n_levels, square="none")
    assert boxes[0] == (0, 0, width, height)
    assert all(0 <= left < right <= width and 0 <= top < bottom <= height for left, top, right, bottom in boxes)


@given(SIDES, SIDES, LEVELS)
def test_squares_lie_in_the_enclosing_square_and_in_the_image_where_they_fit(height, width, n_levels):
    first, *others = spatial_regions(height, width, n_levels)
    longer = max(height, width)
    assert first.right - first.left == first.bottom - first.top == longer
    for box in others:
        side = box.right - box.left
        assert side == box.bottom - box.top
        assert first.left <= box.left < box.right <= first.right
        assert first.top <= box.top < box.bottom <= first.bottom
        assert side > width or 0 <= box.left < box.right <= width
        assert side > height or 0 <= box.top < box.bottom <= height


@given(st.integers(2, 6), st.integers(1, 9))
def test_neighbours_share_half_of_their_side(level, unit):
    side = unit * (level + 1)
    row = spatial_regions(side, side, level)[-(level**2) :][:level]
    assert [box.left for box in row] == [unit * position for position in range(level)]
    assert {box.right - box.left for box in row} == {2 * unit}


def test_region_views_are_the_pixels_and_the_fill_around_them():
    array = noise(4, 6)
    first, *_ = region_views(Image.fromarray(array), 2, fill=(1, 2, 3))
    framed = np.empty((6, 6, 3), dtype=np.uint8)
    framed[:] = (1, 2, 3)
    framed[1:5] = array
    assert (np.asarray(first) == framed).all()
    framed[[0, 5]] = 0
    assert (np.asarray(region_views(Image.fromarray(array), 1)[0]) == framed).all()
    boxes = spatial_regions(4, 6, 2, square="none")
    views = region_views(Image.fromarray(array), 2, square="none")
    for (left, top, right, bottom), view in zip(boxes, views, strict=True):
        assert (np.asarray(view) == array[top:bottom, left:right]).all()


def test_regions_that_cannot_be_are_refused():
    for height, width, n_levels in ((4, 5, 0), (0, 5, 1), (4, 0, 1)):
        with pytest.raises(ValueError, match="at least 1") as caught:
            spatial_regions(height, width, n_levels)
        told = f"height, width and n_levels must be at least 1, got {height}, {width} and {n_levels}"
        assert str(caught.value) == told
    with pytest.raises(ValueError, match="square") as caught:
        spatial_regions(4, 5, 1, square="enclosed")
    assert str(caught.value) == "unknown square 'enclosed': did you mean 'enclosing'? Known: enclosing, none"
