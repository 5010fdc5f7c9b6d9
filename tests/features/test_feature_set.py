"""A pool that is born is sound; a file that is read is the pool it says, or an error that says why not."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fewshot.features
from fewshot.checks import check_finite
from fewshot.features import FeatureSet, load_features

NAMES = ("crow", "owl", "wren")
LABELS = [2, 0, 1, 0, 2, 2, 1]
ROWS = torch.arange(14, dtype=torch.float32).reshape(7, 2) / 8  # exact in text, half and bfloat16


def pool(**changes):
    return FeatureSet(**{"features": ROWS, "labels": torch.tensor(LABELS), "class_names": NAMES, **changes})


def words(labels=LABELS):
    return [NAMES[label] for label in labels]


def assert_is_pool(read, features=ROWS, labels=LABELS, class_names=NAMES):
    assert torch.equal(read.features, features)
    assert read.features.dtype == features.dtype
    assert read.labels.tolist() == labels
    assert read.labels.dtype == torch.int64
    assert read.class_names == class_names


# The pool


@st.composite
def pools(draw):
    n_classes = draw(st.integers(1, 4))
    labels = list(range(n_classes)) + draw(st.lists(st.integers(-1, n_classes - 1), max_size=5))
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    features = torch.randn(len(labels), draw(st.integers(1, 3)), generator=generator).to(dtype)
    names = draw(st.lists(st.text(max_size=3), min_size=n_classes, max_size=n_classes, unique=True))
    ids = draw(st.none() | st.lists(st.text(max_size=3), min_size=len(labels), max_size=len(labels)).map(tuple))
    source = {"weights": draw(st.text())}
    return FeatureSet(features, torch.tensor(draw(st.permutations(labels))), tuple(names), source, ids)


def name_of(pool, row):
    """Return a row's class by name, None if it has none."""
    return None if pool.labels[row] < 0 else pool.class_names[int(pool.labels[row])]


@given(pools())
def test_saved_and_loaded_is_the_same_but_for_the_widening(tmp_path_factory, saved):
    path = tmp_path_factory.mktemp("features") / "a.safetensors"
    saved.save(path)
    read = load_features(path)
    features = saved.features if saved.features.dtype == torch.float64 else saved.features.float()
    assert_is_pool(read, features, saved.labels.tolist(), saved.class_names)
    assert read.source == saved.source
    assert read.ids == saved.ids


@given(pools())
def test_the_labelled_rows_are_those_with_a_name(whole):
    rows = [row for row, label in enumerate(whole.labels.tolist()) if label >= 0]
    chosen = whole.labelled()
    assert_is_pool(chosen, whole.features[rows], [int(whole.labels[row]) for row in rows], whole.class_names)
    assert chosen.ids == (None if whole.ids is None else tuple(whole.ids[row] for row in rows))
    assert int(whole.class_counts().sum()) == len(rows)


@given(pools(), st.data())
def test_select_classes_is_a_loop_over_rows(whole, data):
    ids = data.draw(st.lists(st.integers(0, whole.n_classes - 1), min_size=1, unique=True))
    kept = [(row, ids.index(label)) for row, label in enumerate(whole.labels.tolist()) if label in ids]
    chosen = whole.select_classes(ids)
    rows, labels = zip(*kept, strict=True)
    assert_is_pool(chosen, whole.features[list(rows)], list(labels), tuple(whole.class_names[i] for i in ids))
    assert chosen.source == whole.source
    assert chosen.ids == (None if whole.ids is None else tuple(whole.ids[row] for row in rows))


@given(pools(), st.data())
def test_select_rows_keeps_rows_and_names_by_index_and_by_mask(whole, data):
    n = len(whole.labels)
    index = data.draw(st.lists(st.integers(0, n - 1), min_size=1))
    mask = [row in index for row in range(n)]
    for rows, expected in ((index, index), (mask, sorted(set(index)))):
        chosen = whole.select_rows(rows)
        assert torch.equal(chosen.features, whole.features[expected])
        assert [name_of(chosen, row) for row in range(len(expected))] == [name_of(whole, row) for row in expected]
        assert chosen.source == whole.source
        assert chosen.ids == (None if whole.ids is None else tuple(whole.ids[row] for row in expected))


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "as_rows",
    [
        np.array,
        torch.tensor,
        lambda rows: torch.tensor(rows, dtype=torch.uint8),
        lambda rows: read_only(np.array(rows)),
    ],
)
def test_select_rows_takes_arrays_and_tensors(as_rows):
    assert_is_pool(pool().select_rows(as_rows([4, 2, 4])), ROWS[[4, 2, 4]], [1, 0, 1], ("owl", "wren"))


def test_counts_and_number_of_classes():
    assert pool().class_counts().tolist() == [2, 2, 3]
    assert pool().n_classes == 3


def test_to_moves_features_and_labels():
    moved = pool().to("cpu")
    assert_is_pool(moved)
    if torch.cuda.is_available():
        moved = pool().to("cuda")
        assert moved.features.is_cuda
        assert moved.labels.is_cuda
        assert moved.select_classes([2, 0]).select_rows([0]).labels.is_cuda


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_features_keep_their_dtype(dtype):
    assert pool(features=ROWS.to(dtype)).features.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_features_become_float32(dtype):
    assert_is_pool(pool(features=torch.ones(7, 2, dtype=dtype)), torch.ones(7, 2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32])
def test_integer_labels_become_int64(dtype):
    assert_is_pool(pool(labels=torch.tensor(LABELS, dtype=dtype)))


def test_source_is_a_copy():
    source = {"weights": "a"}
    born = pool(source=source)
    source["weights"] = "b"
    assert born.source == {"weights": "a"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"features": ROWS.numpy()}, TypeError, "features must be a tensor of real numbers, got ndarray"),
        ({"features": ROWS + 0j}, TypeError, "features must be a tensor of real numbers, got torch.complex64"),
        (
            {"features": ROWS[0]},
            ValueError,
            "features must have shape (n, n_features), at least one of each, got (2,)",
        ),
        (
            {"features": ROWS[:0], "labels": torch.tensor([], dtype=torch.int64)},
            ValueError,
            "features must have shape (n, n_features), at least one of each, got (0, 2)",
        ),
        (
            {"features": ROWS[:, :0]},
            ValueError,
            "features must have shape (n, n_features), at least one of each, got (7, 0)",
        ),
        (
            {"features": ROWS.masked_fill(ROWS == 5 / 8, torch.nan)},
            ValueError,
            "features has 1 NaN and 0 infinite entries, the first at index (2, 1)",
        ),
        ({"labels": LABELS}, TypeError, "labels must be a tensor of integers, got list"),
        (
            {"labels": torch.tensor(LABELS).double()},
            TypeError,
            "labels must be a tensor of integers, got torch.float64",
        ),
        ({"labels": torch.tensor(LABELS) > 0}, TypeError, "labels must be a tensor of integers, got torch.bool"),
        (
            {"labels": torch.tensor(LABELS[:5])},
            ValueError,
            "labels must have shape (7,), one label per row of features, got (5,)",
        ),
        (
            {"labels": torch.tensor(LABELS) + 1},
            ValueError,
            "labels must lie in [0, 3), one class name each, or be -1 = unlabelled, got 1 to 3",
        ),
        (
            {"labels": torch.tensor(LABELS) - 2},
            ValueError,
            "labels must lie in [0, 3), one class name each, or be -1 = unlabelled, got -2 to 0",
        ),
        (
            {"class_names": ("crow", "owl", "wren", "emu")},
            ValueError,
            "class 3 ('emu') has no rows: add some, or leave the class out",
        ),
        (
            {"class_names": ("crow", "owl", "crow")},
            ValueError,
            "class_names must be distinct, but 'crow' comes 2 times",
        ),
        ({"class_names": (0, 1, 2)}, TypeError, "class_names must be a sequence of strings, got (0, 1, 2)"),
        ({"class_names": "abc"}, TypeError, "class_names must be a sequence of strings, got 'abc'"),
        ({"ids": ("a.png", "b.png")}, ValueError, "ids must name the 7 rows, one each, got 2"),
        ({"ids": "abcdefg"}, TypeError, "ids must be a sequence of strings, got 'abcdefg'"),
    ],
)
def test_an_unsound_pool_is_not_born(changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        pool(**changes)


@pytest.mark.parametrize(
    ("method", "argument", "error", "message"),
    [
        ("select_classes", [], ValueError, "class_ids must be distinct and lie in [0, 3), got []"),
        ("select_classes", [1, 1], ValueError, "class_ids must be distinct and lie in [0, 3), got [1, 1]"),
        ("select_classes", [-1], ValueError, "class_ids must be distinct and lie in [0, 3), got [-1]"),
        ("select_classes", [3], ValueError, "class_ids must be distinct and lie in [0, 3), got [3]"),
        ("select_rows", [True, False], ValueError, "a mask of rows must have shape (7,), got (2,)"),
        ("select_rows", [False] * 7, ValueError, "at least one of each, got (0, 2)"),
        ("select_rows", [0.5], TypeError, "rows must be a vector of booleans or integers, got torch.float32"),
        (
            "select_rows",
            [[0]],
            TypeError,
            "rows must be a vector of booleans or integers, got torch.int64 of shape (1, 1)",
        ),
        ("select_rows", [7], IndexError, "index 7 is out of bounds"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(method, argument, error, message):
    with pytest.raises(error, match=re.escape(message)):
        getattr(pool(), method)(argument)


# From arrays


@pytest.mark.parametrize("as_labels", [list, np.array, lambda labels: np.array(labels, dtype=object)])
def test_words_become_sorted_classes(as_labels):
    assert_is_pool(FeatureSet.from_arrays(ROWS, as_labels(words())))


@given(
    st.lists(st.integers(-5, 5) | st.booleans(), min_size=1) | st.lists(st.tuples(st.text(), st.integers()), min_size=1)
)
def test_any_labels_that_sort_come_back_by_name_and_minus_one_is_none(labels):
    built = FeatureSet.from_arrays(torch.zeros(len(labels), 1), labels)
    classes = sorted(set(labels) - {-1})
    assert [-1 if label < 0 else classes[label] for label in built.labels.tolist()] == labels
    assert built.class_names == tuple(str(label) for label in classes)


def test_integers_sort_by_value():
    assert FeatureSet.from_arrays(ROWS[:3], torch.tensor([10, 9, 10])).class_names == ("9", "10")


@pytest.mark.parametrize("as_labels", [list, np.array, torch.tensor, lambda labels: [np.int16(x) for x in labels]])
def test_integer_labels_are_positions_in_class_names(as_labels):
    names = ("wren", "crow", "owl")
    assert_is_pool(FeatureSet.from_arrays(ROWS, as_labels(LABELS), names), class_names=names)


def test_other_labels_are_looked_up_in_class_names():
    built = FeatureSet.from_arrays(ROWS, words(), np.array(["wren", "crow", "owl"]))
    assert_is_pool(built, labels=[{2: 0, 0: 1, 1: 2}[label] for label in LABELS], class_names=("wren", "crow", "owl"))


@pytest.mark.parametrize(
    "features",
    [
        ROWS.tolist(),
        ROWS.numpy(),
        ROWS.clone().requires_grad_(),
        read_only(ROWS.numpy().copy()),
        ROWS.numpy().astype(">f4"),
        ROWS.flip(1).numpy()[:, ::-1],
        list(ROWS.numpy()),
    ],
    ids=["list", "array", "gradient", "read-only", "big-endian", "reversed", "list of arrays"],
)
def test_features_of_any_make(features):
    built = FeatureSet.from_arrays(features, LABELS)
    assert_is_pool(built, class_names=("0", "1", "2"))
    assert not built.features.requires_grad


def test_arrays_keep_their_floating_dtype():
    assert FeatureSet.from_arrays(ROWS.double().numpy(), LABELS).features.dtype == torch.float64
    assert FeatureSet.from_arrays(ROWS.half().numpy(), LABELS).features.dtype == torch.float16


@pytest.mark.parametrize(
    ("features", "labels", "class_names", "error", "message"),
    [
        (
            ROWS,
            [b"crow", b"\xe9", *["owl"] * 5],
            None,
            ValueError,
            "the label in row 1 is bytes that are no UTF-8 text",
        ),
        (ROWS, np.array(LABELS)[:, None], None, ValueError, "labels must have shape (n,), got (7, 1)"),
        (ROWS, ["emu", *words()[1:]], NAMES, ValueError, "label 'emu' is not one of the 3 class_names"),
        (ROWS, [1, "1", 2, 2, 2, 2, 2], None, TypeError, "labels must be of one kind, hashable and sortable"),
        (ROWS, [[1]] * 7, None, TypeError, "labels must be of one kind, hashable and sortable"),
        ([[1.0], [1.0, 2.0]], [0, 1], None, ValueError, "features must be rows of one length"),
        ([["a"], ["b"]], [0, 1], None, TypeError, "features must be numbers, got an array of dtype <U1"),
    ],
)
def test_arrays_that_make_no_pool_are_refused(features, labels, class_names, error, message):
    with pytest.raises(error, match=re.escape(message)):
        FeatureSet.from_arrays(features, labels, class_names)


# Files


def in_folder(folder, name, write, *args, **kwargs):
    write(folder / name, *args, **kwargs)
    return folder / name


def write_frame(path, columns):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(columns)
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)


def write_torch(path, content):
    torch.save(content, path)


VECTORS = ROWS.tolist()
NUMBERED = {"f1": ROWS[:, 1].numpy(), "f0": ROWS[:, 0].numpy()}


@pytest.mark.parametrize(
    ("name", "write", "content"),
    [
        ("a.pt", write_torch, {"features": ROWS, "labels": torch.tensor(LABELS), "class_names": list(NAMES)}),
        ("a.pt", write_torch, {"features": ROWS.bfloat16(), "labels": words()}),
        ("a.PTH", write_torch, (ROWS, words())),
        ("a.parquet", write_frame, {"embedding": list(ROWS.numpy()), "class_name": words()}),
        ("a.pq", write_frame, {"vector": list(ROWS.numpy()), "class": words()}),
        ("a.parquet", write_frame, {**NUMBERED, "label": words()}),
        ("a.parquet", write_frame, {"f0": 0, "features": list(ROWS.numpy()), "other": VECTORS, "label": words()}),
        ("a.csv", write_frame, {"embedding": VECTORS, "id": range(7), "label": words()}),
        ("a.csv", write_frame, {"anything": [str(row).replace(",", "") for row in VECTORS], "label": words()}),
        ("a.csv", write_frame, {"anything": [str(row).replace(" ", "") for row in VECTORS], "label": words()}),
        ("a.csv", write_frame, {**NUMBERED, "label": words(), "class": "not this one"}),
    ],
)
def test_every_format_gives_the_same_pool(tmp_path, name, write, content):
    read = load_features(in_folder(tmp_path, name, write, content))
    assert_is_pool(read)
    assert read.source == {"files": [str(tmp_path / name)]}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8])
def test_npz_is_read_and_widened(tmp_path, dtype):
    path = tmp_path / "a.npz"
    np.savez(path, features=(8 * ROWS).numpy().astype(dtype), labels=LABELS, class_names=NAMES)
    assert_is_pool(load_features(str(path)), 8 * ROWS)


def test_float64_is_kept(tmp_path):
    np.savez(tmp_path / "a.npz", features=ROWS.double().numpy(), labels=words())
    write_frame(tmp_path / "a.parquet", {"embedding": list(ROWS.double().numpy()), "label": words()})
    assert_is_pool(load_features(tmp_path / "a.npz"), ROWS.double())
    assert_is_pool(load_features(tmp_path / "a.parquet"), ROWS.double())


@pytest.fixture
def splits(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"features": ROWS.numpy(), "labels": LABELS, "class_names": NAMES}
    np.savez(path, **arrays, split=[0, 1, 0, 0, 1, -1, 0], split_names=["train", "test"])
    return path


def test_one_split_of_a_file(splits):
    assert_is_pool(load_features(f"{splits}:test"), ROWS[[1, 4]], [0, 1], ("crow", "wren"))
    assert load_features(f"{splits}:test").source == {"files": [f"{splits}:test"]}
    assert_is_pool(load_features(splits))


def test_a_colon_before_the_suffix_is_part_of_the_name(tmp_path):
    assert_is_pool(load_features(in_folder(tmp_path, "b.pt:a.pt", write_torch, (ROWS, words()))))


@pytest.mark.parametrize("sibling", ["x_labels.npy", "x.labels.npy"])
def test_npy_finds_its_labels(tmp_path, sibling):
    np.save(tmp_path / "x.npy", ROWS.numpy())
    np.save(tmp_path / sibling, words())
    assert_is_pool(load_features(tmp_path / "x.npy"))


@pytest.mark.parametrize(
    ("name", "text", "class_names"),
    [
        ("y.txt", "\n".join(words()), NAMES),
        ("y.txt", "\ufeff" + "\r\n".join(words()) + "\r\n", NAMES),
        ("y.txt", "\n".join(["100", "9", "10", "9", "100", "100", "10"]), ("9", "10", "100")),
        ("y.csv", "file,label\n" + "\n".join(f'"a,{word}",{word}' for word in words()), NAMES),
    ],
)
def test_a_file_of_labels_takes_the_place_of_the_files_own(tmp_path, splits, name, text, class_names):
    np.save(tmp_path / "x.npy", ROWS.numpy())
    (tmp_path / name).write_text(text, encoding="utf-8")
    for features in (tmp_path / "x.npy", splits):
        read = load_features(features, labels=tmp_path / name)
        assert_is_pool(read, class_names=class_names)
        assert read.source == {"files": [str(features), str(tmp_path / name)]}


def test_digits():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    read = load_features("digits")
    assert_is_pool(read, torch.tensor(pixels / 16, dtype=torch.float32), labels.tolist(), tuple("0123456789"))
    assert read.source == {"extractor": "scikit-learn digits, pixels / 16"}


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was opened')",)


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content))


def write_npz(path, arrays):
    np.savez(path, **arrays)


def write_bytes(path, content):
    path.write_bytes(content)


PICKLED = "got pickled objects, which can run code when opened, or a damaged file: save them again as plain arrays"
OBJECTS = np.array([Bomb(), None])


@pytest.mark.parametrize(
    ("name", "write", "content", "message"),
    [
        *[
            (f"a{suffix}", write_pickle, Bomb(), " is a pickle, which can run code when opened: convert it to .npz")
            for suffix in (".pkl", ".pickle", ".plk", ".PKL")
        ],
        ("a.pt", write_pickle, Bomb(), f": expected a dict or a pair of tensors, {PICKLED}"),
        ("a.pt", write_torch, {"features": Bomb()}, f": expected a dict or a pair of tensors, {PICKLED}"),
        ("a.pt", write_bytes, b"", f": expected a dict or a pair of tensors, {PICKLED}"),
        ("a.pt", write_torch, ROWS, ": expected a dict or a pair (features, labels), got Tensor"),
        ("a.pt", write_torch, {"x": ROWS, "y": 1}, ": expected 'features' and 'labels', got 'x', 'y'"),
        ("a.npy", np.save, OBJECTS, f": expected arrays of numbers or strings, {PICKLED}"),
        ("a.npy", write_pickle, Bomb(), f": expected arrays of numbers or strings, {PICKLED}"),
        ("a.npy", write_bytes, b"", f": expected arrays of numbers or strings, {PICKLED}"),
        ("a.npz", write_npz, {"features": OBJECTS}, f": expected arrays of numbers or strings, {PICKLED}"),
        ("a.npz", write_pickle, Bomb(), f": expected arrays of numbers or strings, {PICKLED}"),
        ("a.npz", write_bytes, b"PK\x03\x04", f": expected arrays of numbers or strings, {PICKLED}"),
        ("a.npz", write_bytes, b"", f": expected arrays of numbers or strings, {PICKLED}"),
        ("a.npz", write_npz, {}, ": expected 'features' and 'labels', got nothing"),
        ("a.npz", write_npz, {"features": ROWS.numpy()}, ": no labels found: name a file of labels (.csv, .npy, .txt)"),
        (
            "a.npz",
            write_npz,
            {"features": ROWS.numpy(), "labels": LABELS[:5]},
            ": labels must have shape (7,), one label per row of features, got (5,)",
        ),
        ("a.npy", np.save, ROWS.numpy(), ": no labels found: name a file of labels (.csv, .npy, .txt) as labels="),
        ("a.safetensors", write_bytes, b"", ": expected a safetensors file, got something else or a part of one"),
        ("a.csv", write_bytes, b"", ": No columns to parse from file"),
        ("a.csv", write_bytes, b"f0,label\n", ": the table has no rows"),
        ("a.csv", write_bytes, b"f0,f1\n1,2", ": no labels found: name a file of labels (.csv, .npy, .txt) as labels="),
        (
            "a.csv",
            write_bytes,
            b"g,label\n1,a",
            ": expected a column 'embedding' or 'features', a single column of lists, or columns 'f0', 'f1', ..., "
            "got ['g', 'label']",
        ),
        (
            "a.csv",
            write_bytes,
            b"v,label\n[1 2],a\n[1 2 3],a\n[1],a",
            ": the vectors in column 'v' differ in length: from 1 to 3",
        ),
        ("a.parquet", write_bytes, b"not a table", ": "),
    ],
)
def test_a_file_that_makes_no_pool_is_refused_in_one_line(tmp_path, name, write, content, message):
    path = in_folder(tmp_path, name, write, content)
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}{message}")) as refused:
        load_features(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        (
            "digit",
            None,
            "unknown features 'digit': did you mean 'digits'? "
            "Known: .csv, .npy, .npz, .parquet, .pq, .pt, .pth, .safetensors, digits",
        ),
        ("a.nqz", None, "unknown features '.nqz': did you mean '.npz'? Known: .csv"),
        ("C:/a.nqz", None, "unknown features '.nqz': did you mean '.npz'? Known: .csv"),
        ("digits", "y.tx", "unknown labels '.tx': did you mean '.txt'? Known: .csv, .npy, .txt"),
        ("digits", "y.pkl", "y.pkl is a pickle, which can run code when opened"),
    ],
)
def test_an_unknown_name_gets_the_known_ones(name, labels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_features(name, labels=labels)


@pytest.mark.parametrize(("name", "labels"), [("none.npy", None), ("none.npy:test", None), ("digits", "none.npy")])
def test_a_missing_file_is_named(tmp_path, monkeypatch, name, labels):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^no such file: none\.npy$"):
        load_features(name, labels=labels)


def test_integer_labels_of_a_table_sort_by_value(tmp_path):
    path = in_folder(tmp_path, "a.csv", write_bytes, b"f0,label\n1,10\n2,9\n3,10")
    assert_is_pool(load_features(path), torch.tensor([[1.0], [2.0], [3.0]]), [1, 0, 1], ("9", "10"))


@pytest.mark.parametrize(
    "labels",
    [
        ["crow", None, "owl", float("nan"), "", "-1", -1],
        np.array(["crow", "", "owl", "-1", "", "-1", ""]),
        np.array([b"crow", b"", b"owl", b"-1", b"", b"-1", b""]),
    ],
    ids=["list", "text", "bytes"],
)
def test_a_missing_label_is_an_unlabelled_row(labels):
    pool = FeatureSet.from_arrays(ROWS, labels)
    assert pool.class_names == ("crow", "owl")
    assert pool.labels.tolist() == [0, -1, 1, -1, -1, -1, -1]


def test_missing_labels_of_tables_are_unlabelled_rows(tmp_path):
    pandas = pytest.importorskip("pandas")
    for number, (labels, names) in enumerate(
        [(pandas.array([1, None, 2], dtype="Int64"), ("1", "2")), (["a", None, "NA"], ("NA", "a"))]
    ):
        frame = {"f0": [0.5, 1.0, 1.5], "label": labels}
        pool = load_features(in_folder(tmp_path, f"{number}.parquet", write_frame, frame))
        assert pool.class_names == names
        assert pool.labels.tolist().count(-1) == 1
        assert pool.labels[1] == -1


def test_what_stands_in_a_csv_file_stays_as_it_is_written(tmp_path):
    pytest.importorskip("pandas")
    texts = ["007", "7", "TRUE", "1e5", "NA", "None", "2026-12-01", "", "-1", "1.0"]
    rows = "".join(f"{row}.5,{text}\n" for row, text in enumerate(texts))
    (tmp_path / "a.csv").write_text(f"f0,label\n{rows}")
    (tmp_path / "labels.csv").write_text("label\n" + "".join(f'"{text}"\n' for text in texts))
    (tmp_path / "labels.txt").write_text("\n".join(texts))
    np.save(tmp_path / "x.npy", np.arange(10.0)[:, None])
    wanted = [text if text not in ("", "-1") else None for text in texts]
    for path, labels in (("a.csv", None), ("x.npy", "labels.csv"), ("x.npy", "labels.txt")):
        pool = load_features(tmp_path / path, labels=None if labels is None else tmp_path / labels)
        assert [pool.class_names[label] if label >= 0 else None for label in pool.labels] == wanted


def test_names_that_are_numbers_are_in_the_order_of_the_numbers():
    pool = FeatureSet.from_arrays(ROWS, ["10", "9", "2", "010", "2", "2", "9"])
    assert pool.class_names == ("2", "9", "010", "10")


def test_an_unknown_split_gets_the_known_ones(splits):
    with pytest.raises(ValueError, match=re.escape(f"{splits}: unknown split 'tests': did you mean 'test'?")):
        load_features(f"{splits}:tests")


def test_a_split_of_a_file_without_splits_is_refused(tmp_path):
    path = in_folder(tmp_path, "a.pt", write_torch, (ROWS, words()))
    with pytest.raises(ValueError, match=re.escape(f"{path}: no splits found, so no 'test': only .npz has them")):
        load_features(f"{path}:test")


def test_without_pandas_a_table_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    path = in_folder(tmp_path, "a.csv", write_bytes, b"f0,label\n1,a")
    message = f'{path}: tables are read by pandas: pip install "fewshot[tables]"'
    with pytest.raises(ImportError, match=re.escape(message)):
        load_features(path)


def test_import_is_light():
    script = (
        "import sys, fewshot.features\n"
        "print([name for name in ('pandas', 'pyarrow', 'sklearn', 'scipy', 'PIL') if name in sys.modules])"
    )
    root = Path(fewshot.features.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_finite_entries_pass_though_their_sum_overflows_and_infinities_that_cancel_do_not():
    assert check_finite("x", torch.full((9,), 3e38)).shape == (9,)
    with pytest.raises(ValueError, match=r"x has 0 NaN and 2 infinite entries, the first at index \(1,\)"):
        check_finite("x", torch.tensor([0.0, torch.inf, -torch.inf]))
