"""Batches of views: every image once an epoch, whoever decodes it and wherever a run starts."""

import itertools
import multiprocessing
import random

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="pillow, of the extra images, is not installed")
from PIL import Image

from fewshot.distillation.stream import ImageOrder, ViewBatch
from fewshot.distillation.views.multi_crop import cmd_views, mugs_views
from fewshot.features.backbones.torchvision_gate import require_torchvision
from fewshot.features.images.listing import list_images
from fewshot.features.images.pixels import measure_pixels
from fewshot.image_distillation import stream as distillation_images
from fewshot.image_distillation.stream import ImageStream

require_torchvision("these tests")
pytest.importorskip("timm", reason="strong views are timm's")

N = 23
MUGS = mugs_views(size=8, local_size=5, n_local=2)
# One pixel of the teacher's first view tells which image it is: nothing changes the colour of a constant.
TELLING = cmd_views(size=4, n_local=0, colour=False, mean=(0, 0, 0), std=(1, 1, 1))


def write(folder, colours, side=12):
    """Write images of one colour each, in folders as classes are kept."""
    for number, colour in enumerate(colours):
        path = folder / f"{number % 3}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (colour, colour, colour)).save(path)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write(tmp_path_factory.mktemp("images"), range(100, 100 + N))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    generator = np.random.default_rng(0)
    for number in range(70):
        Image.fromarray(generator.integers(0, 256, (10, 9, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def stream(folder, settings=MUGS, **options):
    return ImageStream(folder, settings, **({"batch_size": 4, "seed": 0} | options))


def first(n, made, step=0):
    batches = made(step)
    found = list(itertools.islice(batches, n))
    batches.close()
    return found


def colours(batch):
    return (batch.teacher[0, :, 0, 0, 0] * 255).round().int().tolist()


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def glued(batches):
    return ViewBatch(*(torch.cat(parts, 0 if parts[0].ndim == 1 else 1) for parts in zip(*batches, strict=True)))


# What there is


def test_images_are_counted_in_folders_and_lists(images, tmp_path):
    paths = sorted(images.rglob("*.png"))
    assert {len(list_images(given).records) for given in (images, str(images), paths)} == {N}
    made = stream(images, batch_size=3, rank=1, world_size=2)
    assert (made.n_images, made.steps_per_epoch) == (N, 3)
    assert stream(images, batch_size=N).steps_per_epoch == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no folder and no archive"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no image under"):
        stream(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"^no images: the list of files is empty$"):
        stream([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 24}, "23 images are fewer than a batch of 24: lower batch_size to at most 23"),
        (
            {"batch_size": 12, "world_size": 2},
            "23 images are fewer than a batch of 12 on each of 2 processes: lower batch_size to at most 11",
        ),
        (
            {"batch_size": 1, "world_size": 24},
            "23 images are fewer than a batch of 1 on each of 24 processes: add images, or use fewer processes",
        ),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"n_workers": -1}, "n_workers must not be negative, got -1"),
        ({"rank": 2, "world_size": 2}, r"rank must lie in \[0, world_size\), got rank 2 of 2"),
    ],
)
def test_what_cannot_be_is_refused_at_the_door(images, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        stream(images, **options)


def test_a_step_below_0_is_refused_before_iterating(images):
    with pytest.raises(ValueError, match=r"^step must not be negative, got -1$"):
        stream(images)(-1)


def test_batches_have_their_shapes(images):
    (mugs,) = first(1, stream(images))
    assert mugs.teacher.shape == mugs.student.shape == (2, 4, 3, 8, 8)
    assert mugs.local.shape == (2, 4, 3, 5, 5)
    assert mugs.is_weak.shape == (4,)
    assert (mugs.teacher.dtype, mugs.is_weak.dtype) == (torch.float32, torch.bool)
    for n_workers in (0, 1):
        (cmd,) = first(1, stream(images, cmd_views(size=8, n_local=0), n_workers=n_workers))
        assert cmd.student is cmd.teacher
        assert cmd.local is None
        assert cmd.is_weak.all()


def test_parts_of_a_batch_are_joined_with_one_tensor_for_teacher_and_student(noisy):
    settings = cmd_views(size=6, local_size=4, n_local=1)
    (parts,) = first(1, stream(noisy, settings, batch_size=40, n_workers=1))
    (whole,) = first(1, stream(noisy, settings, batch_size=40))
    assert parts.student is parts.teacher
    assert_same(parts, whole)


# Order


def test_every_epoch_is_another_permutation_and_epochs_follow_without_end(images):
    made = stream(images, TELLING, batch_size=3)
    steps = made.steps_per_epoch
    epochs = [[c for batch in first(steps, made, epoch * steps) for c in colours(batch)] for epoch in range(4)]
    for order in epochs:
        assert len(order) == len(set(order)) == N // 3 * 3
        assert set(order) <= set(range(100, 100 + N))
        assert order != sorted(order)
    assert len({tuple(order) for order in epochs}) == 4
    assert [c for batch in first(4 * steps, made) for c in colours(batch)] == [c for order in epochs for c in order]
    assert len({frozenset(order) for order in epochs}) > 1  # the images left out are others
    other = first(steps, stream(images, TELLING, batch_size=3, seed=1))
    assert [c for batch in other for c in colours(batch)] != epochs[0]


def test_orders_are_uniform():
    order = ImageOrder(5, 1, seed=3)
    counts = np.zeros((5, 5))
    n = 1000
    for epoch in range(n):
        counts[np.arange(5), order.permutation(epoch)] += 1
    assert ((counts - n / 5) ** 2 / (n / 5)).sum() < 45  # chi square, 16 degrees: P < 0.0002


def test_the_seed_of_an_image_is_its_own_wherever_it_comes_in_an_epoch():
    one, other = ImageOrder(9, 2, seed=3), ImageOrder(10, 4, seed=3)
    seeds = [{order.permutation(5)[row]: order.view_seed(5, row) for row in range(9)} for order in (one, other)]
    common = seeds[0].keys() & seeds[1].keys()
    assert len(common) >= 8
    assert all(seeds[0][image] == seeds[1][image] for image in common)
    assert one.permutation(5) != other.permutation(5)[:9]
    drawn = {one.view_seed(epoch, row) for epoch in range(5) for row in range(9)}
    assert len(drawn) == 45


def test_an_image_has_other_views_in_another_epoch_and_under_another_seed(tmp_path):
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / "one.png")
    batches = first(3, stream(tmp_path, batch_size=1)) + first(1, stream(tmp_path, batch_size=1, seed=1))
    for one, other in itertools.combinations(batches, 2):
        assert not torch.equal(one.teacher, other.teacher)


def test_images_of_a_batch_have_seeds_of_their_own(tmp_path):
    """Equal images do not get equal views."""
    for name in ("a", "b"):
        pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (batch,) = first(1, stream(tmp_path, batch_size=2))
    assert not torch.equal(batch.teacher[:, 0], batch.teacher[:, 1])


@pytest.mark.parametrize("step", [1, 3, 5, 7, 12])
def test_a_run_that_is_taken_up_sees_what_an_unbroken_one_sees(images, step):
    unbroken = first(step + 2, stream(images))
    for one, other in zip(unbroken[step:], first(2, stream(images), step), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("batch_size", [5, 34])  # in one part and in two
def test_workers_change_nothing(noisy, batch_size):
    alone = first(3, stream(noisy, batch_size=batch_size), 1)
    made = stream(noisy, batch_size=batch_size, n_workers=2)
    for one, other in zip(alone, first(3, made, 1), strict=True):
        assert_same(one, other)
    assert made.seconds_waiting > 0


@pytest.mark.parametrize("n_workers", [0, 1])
def test_processes_together_see_the_joint_batch_of_one(noisy, n_workers):
    together = [first(3, stream(noisy, batch_size=11, rank=rank, world_size=3), 1) for rank in range(3)]
    alone = first(3, stream(noisy, batch_size=33, n_workers=n_workers), 1)
    for parts, one in zip(zip(*together, strict=True), alone, strict=True):
        assert_same(glued(parts), one)


# Images that cannot be read


def spoil(folder, numbers):
    paths = sorted(folder.rglob("*.png"), key=lambda path: path.name)
    for number in numbers:
        paths[number].write_bytes(paths[number].read_bytes()[:40])
    return {str(paths[number].relative_to(folder)) for number in numbers}


@pytest.mark.parametrize("n_workers", [0, 2])
def test_an_unreadable_image_is_replaced_in_its_place_and_named(tmp_path, n_workers):
    folder = write(tmp_path, range(100, 100 + N))
    made = stream(folder, TELLING, n_workers=n_workers)
    steps = made.steps_per_epoch
    before = [colours(batch) for batch in first(2 * steps, made)]
    assert made.failures == {}
    bad = {before[0][1] - 100, before[2][3] - 100}
    names = spoil(folder, bad)
    after = [colours(batch) for batch in first(2 * steps, made)]
    if n_workers == 0:
        assert set(made.failures) == names
    assert names >= set(made.failures)
    assert all(text.startswith(("truncated: ", "unreadable: ")) for text in made.failures.values())
    for epoch in (0, steps):
        order = list(itertools.chain(*before[epoch : epoch + steps]))
        found = list(itertools.chain(*after[epoch : epoch + steps]))
        for position, (was, now) in enumerate(zip(order, found, strict=True)):
            if was - 100 not in bad:
                assert now == was
            elif position + 4 < len(order) and order[position + 4] - 100 not in bad:
                assert now == order[position + 4]
            else:
                assert now - 100 not in bad
        for batch in range(epoch, epoch + steps - 1):
            assert len(set(after[batch])) == 4


def test_failures_come_with_the_batches_of_workers(tmp_path):
    folder = write(tmp_path, range(100, 104))
    names = spoil(folder, [2])
    made = stream(folder, TELLING, batch_size=4, n_workers=1)
    assert made.failures == {}
    (batch,) = first(1, made)
    assert set(made.failures) == names
    assert 102 not in colours(batch)


def test_processes_replace_the_same_images(tmp_path):
    folder = write(tmp_path, range(100, 100 + N))
    spoil(folder, [0, 5, 6, 11])
    together = [first(9, stream(folder, batch_size=2, rank=rank, world_size=2)) for rank in range(2)]
    alone = first(9, stream(folder, batch_size=4))
    for parts, one in zip(zip(*together, strict=True), alone, strict=True):
        assert_same(glued(parts), one)


def test_a_substitute_has_other_views_than_the_image_in_its_own_place(tmp_path):
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    spoil(tmp_path, [0])
    (batch,) = first(1, stream(tmp_path, batch_size=2))
    assert not torch.equal(batch.teacher[:, 0], batch.teacher[:, 1])


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_batch_of_which_more_than_half_cannot_be_read_is_an_error(tmp_path, n_workers):
    folder = write(tmp_path, range(100, 108))
    spoil(folder, [0, 1, 2, 3])
    half = stream(folder, TELLING, batch_size=8, n_workers=n_workers)
    assert sum(colour < 104 for colour in colours(first(1, half)[0])) == 0
    spoil(folder, [4])
    message = (
        r"^5 of the 8 images of a batch cannot be read, such as \d/00\d\.png \((truncated|unreadable): .*\): "
        "remove or repair them$"
    )
    with pytest.raises(ValueError, match=message):
        first(1, stream(folder, TELLING, batch_size=8, n_workers=n_workers))


def test_where_nothing_can_be_read_the_error_comes_soon(tmp_path):
    folder = write(tmp_path, range(100, 140))
    spoil(folder, range(40))
    made = stream(folder, TELLING, batch_size=2)
    with pytest.raises(ValueError, match=r"^2 of the 2 images of a batch cannot be read, such as "):
        first(1, made)
    assert 2 <= len(made.failures) <= 40


def test_where_no_substitute_can_be_read_a_batch_is_an_error_though_half_of_it_is_there(tmp_path):
    folder = write(tmp_path, range(100, 200))
    made = stream(folder, TELLING, batch_size=2)
    step = next(step for step, batch in enumerate(first(50, made)) if 130 in colours(batch))
    spoil(folder, [number for number in range(100) if number != 30])
    with pytest.raises(ValueError, match=r"^1 of the 2 images of a batch cannot be read, such as "):
        first(1, made, step)


def test_files_of_a_list_that_are_not_there_are_failures(images, tmp_path):
    paths = [*sorted(images.rglob("*.png"))[:5], tmp_path / "gone.png"]
    made = stream(paths, TELLING, batch_size=6)
    (batch,) = first(1, made)
    assert set(colours(batch)) <= {100, 103, 106, 109, 112, 115, 118, 121, 101}
    assert set(made.failures) == {str(tmp_path / "gone.png")}
    assert made.failures[str(tmp_path / "gone.png")].startswith("missing: ")


# The house is left as it was


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.mark.parametrize("n_workers", [0, 1])
def test_global_generators_are_untouched(images, n_workers):
    before = states()
    first(3, stream(images, n_workers=n_workers))
    assert states() == before


def test_what_the_trainer_draws_changes_nothing(images):
    quiet = first(3, stream(images))
    batches = stream(images)(0)
    for expected in quiet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            random.seed(7)
            assert_same(next(batches), expected)
    batches.close()


def test_closing_ends_the_workers_and_two_iterations_do_not_meet(images):
    made = stream(images, n_workers=2)
    one, other = made(0), made(0)
    assert_same(next(one), next(other))
    assert len(multiprocessing.active_children()) == 4
    one.close()
    assert len(multiprocessing.active_children()) == 2
    next(other)
    del other
    assert multiprocessing.active_children() == []


def test_time_spent_waiting_is_that_of_decoding(images, monkeypatch):
    made = stream(images)
    ticks = itertools.count()
    monkeypatch.setattr(distillation_images.time, "perf_counter", lambda: float(next(ticks)))
    first(3, made)
    assert made.seconds_waiting == 3.0


# Pixels


def test_pixel_statistics_are_those_of_all_images_alike(tmp_path):
    generator = np.random.default_rng(0)
    arrays = [generator.integers(0, 200 + i, (5 + i, 7, 3), dtype=np.uint8) for i in range(6)]
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    means = np.array([array.reshape(-1, 3).mean(0) / 255 for array in arrays])
    squares = np.array([((array.reshape(-1, 3) / 255.0) ** 2).mean(0) for array in arrays])
    found = measure_pixels(tmp_path)
    np.testing.assert_allclose(found.mean, means.mean(0))
    np.testing.assert_allclose(found.std, np.sqrt(squares.mean(0) - means.mean(0) ** 2))


def test_pixel_statistics_take_a_sample_and_pass_over_what_cannot_be_read(tmp_path):
    for i in range(8):
        Image.fromarray(np.full((4, 4, 3), 20 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "9.png").write_bytes(b"none")
    samples = {measure_pixels(tmp_path, n_images=3, seed=seed).mean for seed in range(5)}
    assert len(samples) > 1
    assert measure_pixels(tmp_path).mean == pytest.approx((70 / 255,) * 3)
    (tmp_path / "white").mkdir()
    Image.fromarray(np.full((4, 4, 3), 255, dtype=np.uint8)).save(tmp_path / "white" / "0.png")
    assert measure_pixels(tmp_path / "white") == ((1.0,) * 3, (1 / 255,) * 3)


def test_pixel_statistics_need_one_readable_image(tmp_path):
    (tmp_path / "0.png").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"^none of 1 images that were drawn from .* can be read: repair them$"):
        measure_pixels(tmp_path)
