"""What discovery_split hides, what it refuses, and the class lists of the Semantic Shift Benchmark."""

from collections import Counter

import pytest
import torch
from fewshot_episodes import discovery_split, ssb_known_classes
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.kits.drawing import SEEDS, assert_follows, generator, pool_of, refuses, uniform


@st.composite
def problems(draw):
    """Labels with gaps between the classes, and settings."""
    n_classes = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(1, 9), min_size=n_classes, max_size=n_classes))
    class_ids = draw(st.lists(st.integers(0, 1000), min_size=n_classes, max_size=n_classes, unique=True))
    n_known = draw(st.integers(1, n_classes))
    options = draw(
        st.sampled_from(
            [
                {"n_known": n_known},
                {"n_known": n_known, "known_classes": "random"},
                {"known_classes": draw(st.permutations(class_ids))[:n_known]},
            ]
        )
    )
    return pool_of(sizes, class_ids, draw(st.integers(0, 99))), options


def split_or_none(labels, seed, **options):
    """The split; None where a small class was left without a label, which is an error of its own."""
    try:
        return discovery_split(labels, **options, generator=generator(seed))
    except ValueError as error:
        if not str(error).startswith("none of the "):
            raise
        return None


@settings(max_examples=200)
@given(problems(), SEEDS, st.sampled_from([0.3, 0.5, 0.75, 1.0]))
def test_every_split_obeys_its_settings(problem, seed, fraction):
    labels, options = problem
    found = split_or_none(labels, seed, labelled_fraction=fraction, **options)
    assume(found is not None)
    known, novel = found.known_class_ids.tolist(), found.novel_class_ids.tolist()
    assert all(part.dtype == torch.int64 for part in found)
    assert sorted(known + novel) == sorted(set(labels.tolist()))
    assert (known, novel) == (sorted(known), sorted(novel))
    chosen = options.get("known_classes")
    if chosen is None:
        assert known == sorted(set(labels.tolist()))[: options["n_known"]]
    elif chosen == "random":
        assert len(known) == options["n_known"]
    else:
        assert known == sorted(chosen)
    is_labelled = found.labels != -1
    assert torch.equal(found.labels[is_labelled], labels[is_labelled])
    assert set(labels[is_labelled].tolist()) == set(known)
    assert int(is_labelled.sum()) == int(fraction * sum(label in known for label in labels.tolist()))


@given(problems(), SEEDS)
def test_one_seed_one_split(problem, seed):
    labels, options = problem
    before, kept = torch.get_rng_state(), labels.clone()
    first, second = (split_or_none(labels, seed, labelled_fraction=1.0, **options) for _ in range(2))
    assert [part.tolist() for part in first] == [part.tolist() for part in second]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(labels, kept)
    first, second = (split_or_none(labels, seed, **options) for _ in range(2))
    assert (first is None) == (second is None)
    assert first is None or torch.equal(first.labels, second.labels)


def test_the_next_split_is_another():
    shared, labels = generator(0), pool_of([30] * 6)
    splits = [discovery_split(labels, 4, known_classes="random", generator=shared) for _ in range(2)]
    assert splits[0].labels.tolist() != splits[1].labels.tolist()
    known = [discovery_split(labels, 3, known_classes="random", generator=shared).known_class_ids for _ in range(9)]
    assert len({tuple(ids.tolist()) for ids in known}) > 1


@given(problems(), SEEDS, st.randoms(use_true_random=False))
def test_renaming_the_classes_renames_the_classes(problem, seed, random):
    labels, options = problem
    class_ids = sorted(set(labels.tolist()))
    known = options.get("known_classes")
    known = class_ids[: options["n_known"]] if known in (None, "random") else known
    expected = split_or_none(labels, seed, known_classes=known)
    assume(expected is not None)
    name = dict(zip(class_ids, random.sample(range(2000), len(class_ids)), strict=True)) | {-1: -1}
    renamed = torch.tensor([name[c] for c in labels.tolist()])
    found = split_or_none(renamed, seed, known_classes=torch.tensor([name[c] for c in known]))
    assert found.labels.tolist() == [name[c] for c in expected.labels.tolist()]
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert mine.tolist() == sorted(name[c] for c in theirs.tolist())


@given(SEEDS)
def test_a_smaller_fraction_is_part_of_a_larger_one(seed):
    labels = pool_of([40, 50, 60])
    rows = [
        set(discovery_split(labels, 2, labelled_fraction=share, generator=generator(seed)).labels.ge(0).nonzero()[:, 0])
        for share in (0.2, 0.5, 1.0)
    ]
    rows = [{int(row) for row in part} for part in rows]
    assert rows[0] < rows[1] < rows[2] == set((labels < 2).nonzero()[:, 0].tolist())


def test_every_set_of_rows_of_the_known_classes_is_equally_likely():
    labels, shared, drawn = torch.tensor([4, 7, 4, 9, 7]), generator(3), []
    for _ in range(2500):
        try:
            split = discovery_split(labels, 2, generator=shared)
        except ValueError:
            continue
        drawn.append(tuple(split.labels.ge(0).nonzero()[:, 0].tolist()))
    # Half of the four rows of classes 4 and 7 together, less the two sets that leave one of them bare.
    assert_follows(drawn, uniform([(0, 1), (0, 4), (1, 2), (2, 4)]))
    assert len(drawn) / 2500 == pytest.approx(4 / 6, abs=0.04)


def test_the_draw_is_over_the_pool_and_not_class_by_class():
    labels = pool_of([50, 50, 20])
    n_first = Counter(
        int((discovery_split(labels, 2, generator=generator(seed)).labels == 0).sum()) for seed in range(50)
    )
    assert len(n_first) > 3


def test_the_sizes_of_cifar100():
    split = discovery_split(torch.arange(50_000) % 100, 80, generator=generator())
    assert int((split.labels >= 0).sum()) == 20_000
    assert int((split.labels < 0).sum()) == 30_000
    assert len(split.novel_class_ids) == 20


def test_refusals():
    labels = torch.tensor([0, 0, 0, 3, 3, 3, 5])

    def split(*arguments, **options):
        return discovery_split(*arguments, **options, generator=generator())

    for fraction in (0.0, 1.5, float("nan")):
        with refuses(ValueError, f"labelled_fraction must lie in (0, 1], got {fraction}"):
            split(labels, 2, labelled_fraction=fraction)
    for n_known in (0, 4):
        with refuses(ValueError, f"n_known must lie between 1 and 3, the number of classes; got {n_known}"):
            split(labels, n_known)
    with refuses(ValueError, "give n_known, how many classes are known, or known_classes, which ones"):
        split(labels)
    with refuses(ValueError, "give n_known or the known_classes themselves, not both"):
        split(labels, 2, known_classes=[0])
    with refuses(ValueError, "known_classes must be class ids, 'random' or None; got 'first'"):
        split(labels, 2, known_classes="first")
    with refuses(ValueError, "known_classes must name at least one class in a list, got shape (0,)"):
        split(labels, known_classes=[])
    with refuses(ValueError, "known_classes names class 3 more than once"):
        split(labels, known_classes=[3, 0, 3])
    with refuses(ValueError, "known_classes names class 4, which no label is"):
        split(labels, known_classes=[4, 0])
    with refuses(ValueError, "labels must not be negative: leave unlabelled rows (-1) out of the pool"):
        split(labels - 1, 2)
    with refuses(TypeError, "labels must be integers, got torch.float32"):
        split(labels.float(), 2)
    with refuses(
        ValueError,
        "none of the 1 items of class 'wren' was drawn to keep its label: take another seed or a larger "
        "labelled_fraction, or count the class as novel",
    ):
        split(labels, known_classes=[5], class_names=["a", "b", "c", "d", "e", "wren"])
    with refuses(
        ValueError,
        "none of the 3 items of class 0 was drawn to keep its label (and 1 more such classes): take another seed or a "
        "larger labelled_fraction, or count the class as novel",
    ):
        split(labels, 2, labelled_fraction=0.1)


def test_ssb_lists():
    assert ssb_known_classes('{"known_classes": [150, 70], "unknown_classes": {"Easy": [1]}}') == (150, 70)
    with refuses(ValueError, "an SSB split file must be JSON: Expecting value: line 1 column 1 (char 0)"):
        ssb_known_classes("known_classes")
    for text in ("[1]", "{}", '{"known_classes": 3}', '{"known_classes": []}', '{"known_classes": [1, true]}'):
        with refuses(ValueError, 'an SSB split file must have a list of class numbers under "known_classes"'):
            ssb_known_classes(text)
    split = discovery_split(
        torch.arange(40) % 4, known_classes=ssb_known_classes('{"known_classes": [3, 0]}'), generator=generator()
    )
    assert split.known_class_ids.tolist() == [0, 3]
