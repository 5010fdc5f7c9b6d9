"""Text files and tables as people save them: encodings, separators, lines of separators alone."""

from __future__ import annotations

import codecs
import csv
import os
import warnings
from pathlib import Path

__all__ = ["read_text", "table_lines"]

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = ",;\t"


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file: UTF-8 with or without a mark, UTF-16 with one, or else Windows' cp1252.

    Raises
    ------
    ValueError
        If it is none of these.

    Warns
    -----
    UserWarning
        If it was read as cp1252, in which every text of another 8-bit encoding is readable and wrong.
    """
    data = Path(path).read_bytes()
    try:
        return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        raise ValueError(f"{os.fspath(path)}: expected UTF-8 text, got bytes that are none: save it as UTF-8") from None
    warnings.warn(
        f"{os.fspath(path)} is no UTF-8 and was read as cp1252, as Windows saves it: if names look wrong, save it as "
        "UTF-8",
        stacklevel=3,
    )
    return text


def table_lines(path: str | os.PathLike[str]) -> list[tuple[int, list[str]]]:
    """Return the lines of a table with their numbers, the header first.

    The separator is the one of comma, semicolon and tab that the header has most of. Blank lines are skipped, and lines
    of separators alone at the end, as spreadsheets write them.

    Raises
    ------
    ValueError
        If it is no table of text.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(keepends=True), delimiter=max(_SEPARATORS, key=header.count))
    try:
        lines = [(reader.line_num, values) for values in reader if values]
    except csv.Error as error:
        raise ValueError(f"{os.fspath(path)}, line {reader.line_num}: expected a table of text, got {error}") from None
    while lines and len(lines[-1][1]) > 1 and not any(value.strip() for value in lines[-1][1]):
        lines.pop()
    return lines
