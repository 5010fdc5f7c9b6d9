"""Text and tables as people save them are read, or the error names the file and the mend."""

from __future__ import annotations

import codecs

import numpy as np
import pytest

from fewshot.features import load_features
from fewshot.features.images.listing import walk_csv
from fewshot.features.partial_labels import read_partial_labels
from fewshot.features.text_files import read_text, table_lines

NAMES = ["Mésange bleue", "crow", "", "Mésange bleue"]
ENCODINGS = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16, big-endian": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_reader_of_tables_reads_every_dialect(tmp_path, encoding, separator, end):
    rows = [["file", "label"], *([f"{row}.png", name] for row, name in enumerate(NAMES))]
    text = end.join(separator.join(row) for row in rows) + end
    (tmp_path / "labels.csv").write_bytes(ENCODINGS[encoding](text + separator + end))
    np.save(tmp_path / "x.npy", np.arange(8.0).reshape(4, 2))
    pool = load_features(tmp_path / "x.npy", labels=tmp_path / "labels.csv")
    assert [pool.class_names[label] if label >= 0 else "" for label in pool.labels] == NAMES
    found = read_partial_labels(str(tmp_path / "labels.csv"), [f"{row}.png" for row in (3, 1, 2, 0)], 4)
    assert found == ["Mésange bleue", "crow", -1, "Mésange bleue"]


def test_images_are_named_by_a_table_of_any_dialect(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    table = tmp_path / "labels.csv"
    table.write_bytes("file;label\na.png;Mésange\nb.png;crow\n;\n".encode("utf-16"))
    assert [(record.id, record.label) for record in walk_csv(tmp_path, table)] == [
        ("a.png", "Mésange"),
        ("b.png", "crow"),
    ]


def test_another_encoding_is_read_as_cp1252_and_said(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes("label\nMésange\n".encode("cp1252"))
    with pytest.warns(UserWarning, match=r"labels\.csv is no UTF-8 and was read as cp1252, .*, save it as UTF-8"):
        assert table_lines(path) == [(1, ["label"]), (2, ["Mésange"])]
    path.write_bytes(b"label\n\x81\x8d\n")
    with pytest.raises(
        ValueError, match=r"labels\.csv: expected UTF-8 text, got bytes that are none: save it as UTF-8$"
    ):
        read_text(path)


def test_a_missing_label_inside_a_table_keeps_its_row(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('label,note\ncrow,\n,\nwren,x\n"",\n')
    assert [values for _, values in table_lines(path)][1:] == [["crow", ""], ["", ""], ["wren", "x"]]


def test_a_damaged_table_is_named_with_its_line(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("label\n" + "x" * 200_000 + "\n")
    with pytest.raises(ValueError, match=r"labels\.csv, line 2: expected a table of text, got field larger than"):
        table_lines(path)


def test_vectors_that_were_shortened_are_refused_by_name(tmp_path):
    pytest.importorskip("pandas")
    path = tmp_path / "a.csv"
    path.write_text('embedding,label\n"[0.1 0.2 ... 0.9]",a\n"[0.3 0.2 ... 0.9]",b\n')
    with pytest.raises(
        ValueError, match=r"a\.csv: a vector was shortened to '\[0\.1 0\.2 \.\.\. 0\.9\]' when .* \.npz or"
    ):
        load_features(path)


def test_a_row_without_a_vector_is_named(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    vectors = [[0.1, 0.2], None, [0.3, 0.4], None]
    pandas.DataFrame({"embedding": vectors, "label": list("abab")}).to_parquet(tmp_path / "a.parquet")
    said = r"a\.parquet: column 'embedding' has no vector in 2 of 4 rows, the first in row 1: fill them in or leave"
    with pytest.raises(ValueError, match=said):
        load_features(tmp_path / "a.parquet")
