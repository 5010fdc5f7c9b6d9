"""What incremental_sessions draws and what it refuses; the published index files read back."""

from collections import Counter

import pytest
import torch
from fewshot_episodes import SESSION_PROTOCOLS, incremental_sessions, published_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kits.drawing import SEEDS, assert_follows, generator, pool_of, refuses, uniform


@st.composite
def problems(draw):
    """Labels and settings that suffice for them; about half with a given split."""
    n_base, n_way, n_shot = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n_classes = n_base + draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(n_shot + 1, n_shot + 6), min_size=n_classes, max_size=n_classes))
    class_ids = draw(st.lists(st.integers(0, 1000), min_size=n_classes, max_size=n_classes, unique=True))
    labels = pool_of([size + 1 for size in sizes], class_ids, draw(st.integers(0, 99)))
    options = {
        "test_fraction": draw(st.sampled_from([0.01, 0.3, 0.5, 0.99])),
        "n_base_items": draw(st.none() | st.integers(1, 3)),
        "class_order": draw(st.sampled_from([None, "random"]) | st.permutations(class_ids)),
    }
    if draw(st.booleans()):
        n_tested = {class_id: draw(st.integers(1, size - n_shot)) for class_id, size in zip(class_ids, sizes)}  # noqa: B905
        rank = Counter()
        is_test = []
        for label in labels.tolist():
            rank[label] += 1
            is_test.append(rank[label] <= n_tested[label])
        options["is_test"] = torch.tensor(is_test)
    if draw(st.booleans()) and n_classes - n_base >= n_way:
        options["n_sessions"] = draw(st.integers(1, (n_classes - n_base) // n_way))
    return labels, (n_base, n_way, n_shot), options


def listed(sessions):
    return [tuple(part.tolist() for part in session) for session in sessions]


@settings(max_examples=200)
@given(problems(), SEEDS)
def test_every_draw_obeys_its_settings(problem, seed):
    labels, (n_base, n_way, n_shot), options = problem
    sessions = incremental_sessions(labels, n_base, n_way, n_shot, **options, generator=generator(seed))
    assert all(part.dtype == torch.int64 for session in sessions for part in session)
    size, known, is_test = Counter(labels.tolist()), sorted(set(labels.tolist())), options.get("is_test")
    n_later = options.get("n_sessions", -(-(len(known) - n_base) // n_way))
    assert len(sessions) == 1 + n_later
    rows_of, seen, queries = {}, [], []
    for number, (support, query, new, so_far) in enumerate(listed(sessions)):
        seen += new
        assert so_far == seen
        left = len(known) - n_base - (number - 1) * n_way
        assert len(new) == (n_base if number == 0 else min(n_way, left))
        assert [labels[row] for row in support] == [c for c in new for _ in range(Counter(labels[support].tolist())[c])]
        assert query[: len(queries)] == queries  # the test rows of a class stay the same
        queries = query
        assert {*labels[query].tolist()} == {*seen}
        rows_of |= {c: [row for row in support if labels[row] == c] for c in new}
    assert len(set(seen)) == len(seen)  # each class comes once
    assert len(set(queries)) == len(queries)
    assert not set(queries) & {row for rows in rows_of.values() for row in rows}
    for place, c in enumerate(seen):
        n_queries = sum(int(labels[row]) == c for row in queries)
        if is_test is not None:
            n_train = int(((labels == c) & ~is_test).sum())
            assert n_queries == size[c] - n_train
            assert not is_test[rows_of[c]].any()
        else:
            n_test = min(max(round(options["test_fraction"] * size[c]), 1), size[c] - 1)
            n_train = size[c] - n_test if place < n_base else n_shot
            assert n_queries == size[c] - n_train
        wanted = min(n_train, options["n_base_items"] or n_train) if place < n_base else n_shot
        assert len(set(rows_of[c])) == len(rows_of[c]) == wanted
    order = options["class_order"]
    if order != "random":
        assert seen == (known if order is None else order)[: len(seen)]


@given(problems(), SEEDS)
def test_one_seed_one_draw(problem, seed):
    labels, sizes, options = problem
    before, shared = torch.get_rng_state(), generator(seed)
    first, second = (listed(incremental_sessions(labels, *sizes, **options, generator=shared)) for _ in range(2))
    assert first == listed(incremental_sessions(labels, *sizes, **options, generator=generator(seed)))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(first) == len(second)


def test_the_next_draw_is_another():
    shared = generator(0)
    draws = [listed(incremental_sessions(pool_of([30] * 6), 2, 2, 3, generator=shared)) for _ in range(3)]
    assert draws[0] != draws[1] != draws[2] != draws[0]
    shared = generator(0)
    orders = [
        incremental_sessions(pool_of([30] * 9), 2, 2, 3, class_order="random", generator=shared)[-1].seen_class_ids
        for _ in range(2)
    ]
    assert orders[0].tolist() != orders[1].tolist()


@given(problems(), SEEDS, st.randoms(use_true_random=False))
def test_renaming_the_classes_renames_the_classes(problem, seed, random):
    labels, sizes, options = problem
    known = sorted(set(labels.tolist()))
    options["class_order"] = random.sample(known, len(known))
    new_name = dict(zip(known, random.sample(range(2000), len(known)), strict=True))
    renamed = options | {"class_order": [new_name[c] for c in options["class_order"]]}
    expected = listed(incremental_sessions(labels, *sizes, **options, generator=generator(seed)))
    relabelled = torch.tensor([new_name[c] for c in labels.tolist()])
    found = listed(incremental_sessions(relabelled, *sizes, **renamed, generator=generator(seed)))
    for (support, query, new, seen), other in zip(expected, found, strict=True):
        assert other == (support, query, [new_name[c] for c in new], [new_name[c] for c in seen])


@given(SEEDS)
def test_fewer_shots_are_among_more_and_do_not_depend_on_the_order_of_the_classes(seed):
    labels = pool_of([9, 12, 10, 8, 11])

    def shots(n_shot, n_way=1, class_order=None):
        sessions = incremental_sessions(labels, 2, n_way, n_shot, class_order=class_order, generator=generator(seed))
        return {row for session in sessions[1:] for row in session.support_index.tolist()}

    assert shots(2) < shots(5)
    assert shots(5) == shots(5, n_way=2) == shots(5, n_way=3, class_order=[1, 0, 4, 2, 3])


def test_every_shot_and_every_order_is_equally_likely():
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    shared = generator(5)
    draws = [incremental_sessions(labels, 1, 1, 1, class_order="random", generator=shared) for _ in range(1500)]
    orders = [tuple(draw[-1].seen_class_ids.tolist()) for draw in draws]
    assert_follows(orders, uniform([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]))
    shots = [int(s.support_index) for draw in draws for s in draw[1:] if s.new_class_ids.tolist() == [1]]
    assert_follows(shots, uniform([2, 3, 4]))
    tested = [int(draw[0].query_index) for draw in draws if draw[0].new_class_ids.tolist() == [0]]
    assert_follows(tested, uniform([0, 1]))


@pytest.mark.parametrize("name", ["cifar100", "miniimagenet", "cub200"])
def test_the_published_protocols(name):
    protocol = SESSION_PROTOCOLS[name]
    n_classes = protocol.n_base + protocol.n_sessions * protocol.n_way
    assert n_classes == {"cub200": 200}.get(name, 100)
    labels = torch.arange(n_classes).repeat(12)
    is_test = torch.arange(12).repeat_interleave(n_classes) >= 8
    sessions = incremental_sessions(labels, **protocol._asdict(), is_test=is_test, generator=generator())
    assert len(sessions) == {"cub200": 11}.get(name, 9)
    assert [len(s.support_index) for s in sessions[1:]] == [{"cub200": 50}.get(name, 25)] * protocol.n_sessions
    assert len(sessions[0].support_index) == 8 * protocol.n_base
    assert len(sessions[-1].query_index) == 4 * n_classes


def test_labels_and_splits_may_be_arrays():
    labels, is_test = pool_of([6, 7, 8]), torch.arange(21) % 2 == 0
    expected = listed(incremental_sessions(labels, 1, 1, 1, is_test=is_test, generator=generator()))
    for kind in (torch.Tensor.numpy, torch.Tensor.tolist):
        found = incremental_sessions(kind(labels), 1, 1, 1, is_test=kind(is_test), generator=generator())
        assert listed(found) == expected


# ------------------------------------------------------------------------------------------------------------- refusals

SMALL = pool_of([6, 3, 9, 4, 8], [10, 20, 40, 41, 45])
NAMES = {10: "owl", 20: "crow", 40: "tit", 41: "jay", 45: "kite"}
HALF = torch.arange(30) % 2 == 0
TAIL = "ask for fewer shots, or leave the class out"


def on_test(class_id):
    return class_id == SMALL


@pytest.mark.parametrize(
    ("chosen", "kind", "message"),
    [
        ({"n_base": 0}, ValueError, "n_base must be at least 1, got 0"),
        ({"n_way": 0}, ValueError, "n_way must be at least 1, got 0"),
        ({"n_shot": -1}, ValueError, "n_shot must be at least 1, got -1"),
        ({"n_sessions": 0}, ValueError, "n_sessions must be at least 1, got 0"),
        ({"n_base_items": 0}, ValueError, "n_base_items must be at least 1, got 0"),
        ({"test_fraction": 0.0}, ValueError, "test_fraction must lie between 0 and 1, got 0.0"),
        ({"test_fraction": 1.0}, ValueError, "test_fraction must lie between 0 and 1, got 1.0"),
        ({"n_base": 5}, ValueError, "n_base = 5 leaves no new class: there are 5 classes"),
        (
            {"n_sessions": 2, "n_way": 2},
            ValueError,
            "2 base classes and 2 sessions of 2 are 6 classes, but there are 5: ask for fewer, or leave n_sessions out "
            "to use them all",
        ),
        ({"class_order": "shuffled"}, ValueError, "class_order must be class ids, 'random' or None; got 'shuffled'"),
        ({"class_order": [10, 20, 10]}, ValueError, "class_order names class 10 more than once"),
        ({"class_order": [10, 20, 30]}, ValueError, "class_order names class 30, which no label is"),
        ({"is_test": HALF.long()}, TypeError, "is_test must be bool, got torch.int64"),
        ({"is_test": HALF[:7]}, ValueError, "is_test must have one entry for each of the 30 labels, got shape (7,)"),
        (
            {"n_shot": 4, "class_names": NAMES},
            ValueError,
            f"class 'jay' has 4 items, fewer than the 5 that its session needs (one of them to test): {TAIL}",
        ),
        (
            {"n_shot": 8},
            ValueError,
            "class 41 has 4 items, fewer than the 9 that its session needs (one of them to test) (and 1 more such "
            f"classes): {TAIL}",
        ),
        (
            {"is_test": on_test(20)},
            ValueError,
            f"class 20 has 0 training items, fewer than the 1 that its session needs (besides its test items): {TAIL}",
        ),
        (
            {"is_test": on_test(41)},
            ValueError,
            f"class 41 has 0 training items, fewer than the 2 that its session needs (besides its test items): {TAIL}",
        ),
        (
            {"is_test": torch.zeros(30, dtype=torch.bool)},
            ValueError,
            "class 10 has 0 test items, fewer than the 1 that its session needs (to be tested) (and 4 more such "
            f"classes): {TAIL}",
        ),
    ],
    ids=lambda value: value.split(":")[0][:60] if isinstance(value, str) else "",
)
def test_settings_that_cannot_be_are_refused(chosen, kind, message):
    valid = {"n_base": 2, "n_way": 1, "n_shot": 2}
    incremental_sessions(SMALL, **valid, generator=generator())
    with refuses(kind, message):
        incremental_sessions(SMALL, **valid | chosen, generator=generator())


def test_exactly_enough_is_enough():
    labels = pool_of([2, 4, 4])
    sessions = incremental_sessions(labels, 1, 2, 3, n_sessions=1, generator=generator())
    assert [(len(s.support_index), len(s.query_index)) for s in sessions] == [(1, 1), (6, 3)]


# ------------------------------------------------------------------------------------------------ published index files


def as_files(sessions, name_of):
    return [[name_of(row) for row in session.support_index.tolist()] for session in sessions]


@given(problems(), SEEDS, st.sampled_from(["integers", "paths", "other root", "names alone", "empty base"]))
def test_index_files_read_back(problem, seed, how):
    labels, sizes, options = problem
    is_test = options.get("is_test", torch.zeros(1))
    if is_test.dtype != torch.bool:
        is_test = torch.zeros(len(labels), dtype=torch.bool)
        for c in labels.unique():  # one test row each, the first
            is_test[torch.nonzero(labels == c)[0]] = True
    n_base = sizes[0]
    order = labels.unique()
    options = options | {"is_test": is_test, "n_base_items": None, "class_order": order}
    expected = incremental_sessions(labels, *sizes, **options, generator=generator(seed))
    train_place = (~is_test).cumsum(0) - 1
    ids = [f"C:\\data\\images\\c{int(label)}\\{row % 3}-{row}.jpg" for row, label in enumerate(labels)]
    if how == "names alone":
        ids = [f"{row}.jpg" for row in range(len(labels))]

    def name_of(row):
        return {
            "integers": f" {int(train_place[row])}\n",
            "paths": ids[row].replace("\\", "/") + "\r\n",
            "other root": f"CUB/pictures/c{int(labels[row])}/{row % 3}-{row}.jpg",
            "names alone": f"CUB/pictures/c{int(labels[row])}/{row}.jpg",
            "empty base": f"./c{int(labels[row])}/{row % 3}-{row}.jpg",
        }[how]

    files = as_files(expected, name_of)
    files[0] = ["", *files[0][::-1]]  # the base file's rows do not count, only its classes
    if how == "empty base":
        files[0] = ["\n"]
        seen = expected[-1].seen_class_ids
        if len(seen) < len(order):
            return  # then the classes that never come would count as base
    found = published_sessions(labels, None if how == "integers" else ids, files, is_test)
    assert listed(found) == listed(expected)
    assert len(found[0].new_class_ids) == n_base


LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
IDS = [f"{folder}/{name}" for folder in ("a", "b", "c") for name in ("x.jpg", "y.jpg", "z.jpg")]
IS_TEST = torch.tensor([False, False, True] * 3)


@pytest.mark.parametrize(
    ("files", "ids", "message"),
    [
        ([["a/x.jpg"]], IDS, "index_lines must hold the base session's file and at least one more, got 1"),
        ([["a/x.jpg"], ["b/x.jpg"]], None, "the index files name paths: give ids, the file of each row"),
        ([["a/x.jpg"], ["b/x.jpg"]], IDS[:4], "ids must have one entry for each of the 9 labels, got 4"),
        ([["a/x.jpg"], ["d/x.jpg"]], IDS, "'d/x.jpg' of index file 2 matches no training row of the pool"),
        ([["a/x.jpg"], ["b/z.jpg"]], IDS, "'b/z.jpg' of index file 2 matches no training row of the pool"),
        ([["a/x.jpg"], ["x.jpg"]], IDS, "'x.jpg' of index file 2 matches 3 training rows of the pool"),
        ([["0"], ["6"]], None, "'6' of index file 2 matches no training row of the pool"),
        ([["0"], ["2", "2"]], None, "'2' of index file 2 names a row that the file names twice"),
        ([["0"], ["", " "]], None, "index file 2 names no row"),
        (
            [["0"], ["2"], ["4", "1"]],
            None,
            "index file 3 names rows of class 'A', which came with file 1: are the training rows in the order, and the "
            "labels those, of the published data?",
        ),
    ],
    ids=range(10),
)
def test_files_that_do_not_fit_are_refused(files, ids, message):
    published_sessions(LABELS, IDS, [["a/x.jpg"], ["b/y.jpg"], ["c/x.jpg"]], IS_TEST)
    with refuses(ValueError, message):
        published_sessions(LABELS, ids, files, IS_TEST, class_names=["A", "B", "C"])


def test_the_longest_common_path_decides():
    ids = ["p/a/x.jpg", "q/a/x.jpg", "q/b/x.jpg"]
    is_test = torch.tensor([False] * 3 + [True] * 3)
    sessions = published_sessions(
        torch.tensor([0, 1, 2] * 2), [*ids, *ids], [["./p/a/x.jpg"], ["r/q/a/x.jpg"], ["b/x.jpg"]], is_test
    )
    assert [session.support_index.tolist() for session in sessions] == [[0], [1], [2]]


def test_the_base_session_learns_from_all_its_rows_and_other_classes_stay_out():
    # The published loaders do not read the first file.
    sessions = published_sessions(LABELS, IDS, [["root/c/y.jpg"], ["root/a/y.jpg"]], IS_TEST)
    assert listed(sessions) == [([6, 7], [8], [2], [2]), ([1], [8, 2], [0], [2, 0])]
    with refuses(
        ValueError,
        f"class 0 has 0 test items, fewer than the 1 that its session needs (to be tested): {TAIL}",
    ):
        published_sessions(LABELS, IDS, [["c/y.jpg"], ["a/y.jpg"]], IS_TEST & (LABELS != 0))
