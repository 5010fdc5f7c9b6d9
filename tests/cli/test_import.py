"""``fewshot import`` as a user drives it."""

from __future__ import annotations

import os
import pickle
from functools import partial

import numpy as np
import pytest
import torch

from fewshot.features import FeatureSet, load_features
from tests.kits import cli as cli_kit

GENERATOR = torch.Generator().manual_seed(0)
CENTERS = torch.randn(4, 16, generator=GENERATOR)
LABELS = torch.arange(80) % 4
ROWS = CENTERS[LABELS] + 1.3 * torch.randn(80, 16, generator=GENERATOR)

succeeds, document = partial(cli_kit.succeeds, "import"), partial(cli_kit.document, "import")


def fails(code, *words):
    return cli_kit.fails(code, "import", *words)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_pickle_becomes_a_file_that_other_commands_read(folder):
    (folder / "output.plk").write_bytes(pickle.dumps({"concat_features": ROWS, "concat_labels": LABELS}))
    lines = succeeds("output.plk", "--out", "a.safetensors").splitlines()
    assert lines == [
        "a.safetensors",
        "  rows      80 of 16 features, 0 without a label",
        "  classes   4",
        "  format    pickle",
    ]
    pool = load_features("a.safetensors")
    assert torch.equal(pool.features, ROWS)
    assert torch.equal(pool.labels, LABELS)
    words = ("--n-way", 3, "--n-shot", 1, "--n-query", 5, "--n-episodes", 20, "--device", "cpu")
    found = cli_kit.document(
        "episode", "--features", "a.safetensors", "--method", "nearest-prototype", *words, "--quiet"
    )
    assert found["features"]["source"]["format"] == "pickle"


def test_the_document_says_what_was_read(folder):
    torch.save(ROWS, "test_f.pt")
    torch.save(LABELS, "test_l.pt")
    found = document("test_f.pt", "--out", "a.safetensors")
    assert found["settings"]["path"] == "test_f.pt"
    assert found["features"]["source"]["files"] == ["test_f.pt"]
    assert len(found["features"]["source"]["sha256"]) == 64
    assert (found["features"]["n"], found["features"]["n_classes"], found["n_unlabelled"]) == (80, 4, 0)


@pytest.mark.parametrize("method", ["tip-adapter", "transclip"])
def test_texts_and_cosines_make_files_for_methods_of_image_and_text(folder, method):
    torch.save((ROWS, LABELS), "rows.pt")
    torch.save(CENTERS.T.half(), "text.pt")
    assert "  n_cosines 4, the first columns" in succeeds("rows.pt", "--text", "text.pt", "--out", "a.safetensors")
    cosines = torch.nn.functional.normalize(ROWS, dim=1) @ torch.nn.functional.normalize(CENTERS, dim=1).T
    np.savez("cosines.npz", features=cosines.numpy(), labels=LABELS.numpy())
    succeeds("rows.pt", "--cosines", "cosines.npz", "--out", "b.safetensors")
    a, b = (load_features(f"{name}.safetensors") for name in "ab")
    torch.testing.assert_close(a.features, torch.cat([cosines, ROWS], 1), atol=2e-3, rtol=0)
    torch.testing.assert_close(b.features, torch.cat([cosines, ROWS], 1))
    words = ("--n-way", 3, "--n-shot", 1, "--n-query", 5, "--n-episodes", 50, "--device", "cpu", "--quiet")
    found = cli_kit.document("episode", "--features", "b.safetensors", "--method", f"{method}:n_cosines=4", *words)
    plain = cli_kit.document("episode", "--features", "b.safetensors", "--method", method, *words)
    assert accuracy(found) > accuracy(plain) + 0.02


def accuracy(found):
    return found["results"][0]["accuracy"]


def test_cosines_of_other_rows_are_refused(folder):
    names = tuple(f"{i}.jpg" for i in range(80))
    FeatureSet(ROWS, LABELS, tuple("abcd"), {}, names).save("rows.safetensors")
    FeatureSet(ROWS[:, :4] / 9, LABELS, tuple("abcd"), {}, names[::-1]).save("cosines.safetensors")
    message = fails(1, "rows.safetensors", "--cosines", "cosines.safetensors", "--out", "a.safetensors")
    assert message == (
        "Error: cosines.safetensors: its rows are not those of rows.safetensors: extract both from one list"
    )


def test_rows_without_labels_are_told(folder):
    torch.save(ROWS, "rows.pt")
    result = cli_kit.fewshot("import", "rows.pt", "--out", "a.safetensors")
    assert result.exit_code == 0
    assert result.stderr == (
        "Warning: 80 of 80 rows have no label: name a file of labels with --labels where the features are used\n"
    )


def test_code_in_a_pickle_is_refused_and_nothing_is_written(folder):
    class Bomb:
        def __reduce__(self):
            return os.system, ("touch canary",)

    (folder / "a.plk").write_bytes(pickle.dumps({"features": ROWS, "labels": Bomb()}))
    message = fails(1, "a.plk", "--out", "a.safetensors")
    assert message.startswith("Error: a.plk: refused ")
    assert message.endswith("never code; convert the file where it was made")
    assert sorted(path.name for path in folder.iterdir()) == ["a.plk"]


@pytest.mark.parametrize(
    ("code", "words", "message"),
    [
        (2, ("a.plk", "--out", "a.npz"), "--out must end in .safetensors, got 'a.npz'"),
        (2, ("a.plk", "--out", "a.safetensors", "--text", "t", "--cosines", "c"), "say the same: give one of them"),
        (2, ("a.plk", "--out", "a.safetensors", "--from", "pickel"), "did you mean 'pickle'"),
        (1, ("a.plk", "--out", "none/a.safetensors"), "no such folder: none"),
        (1, ("a.plk", "--out", "a.safetensors"), "no such file: a.plk"),
        (1, ("a.xyz", "--out", "a.safetensors"), "unknown kind of file '.xyz'"),
    ],
)
def test_wrong_words(folder, code, words, message):
    assert message in fails(code, *words)


def test_a_pickle_among_features_points_here(folder):
    (folder / "a.plk").write_bytes(pickle.dumps(1))
    message = cli_kit.fails(1, "inspect", "a.plk")
    assert message.endswith("convert it to .npz where it was made, or with fewshot import, which runs nothing")
