"""Tuned settings ⇄ disk: a JSON file of the chosen settings, their validation classes, and all candidates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot.evaluation.fitted_methods import FittedMethod
from fewshot.registry.episodic import build_method
from fewshot.storage import write_text_atomic

__all__ = ["load_tuned", "save_tuned", "tuned_method"]

FORMAT_VERSION = 1
_KIND = "tuned-method"
_REMEDY = "write it again with `fewshot tune`"


def save_tuned(path: str | Path, method: str, class_names: Sequence[str], facts: Mapping[str, object]) -> None:
    """Write a method's tuned settings to a JSON file, whole or not at all.

    Parameters
    ----------
    path : str or Path
    method : str
        As `build_method` takes it.
    class_names : sequence of str
        The validation classes. Written in sorted order.
    facts : mapping
        What else is worth keeping (JSON values): the protocol, the features' source, all candidates' scores.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_tuned(f"{folder}/paddle.json", "paddle:class_balance=0.5", ["wren", "crow"], {"seed": 0})
    ...     method, document = load_tuned(f"{folder}/paddle.json")
    >>> method, document["class_names"], document["seed"]
    ('paddle:class_balance=0.5', ['crow', 'wren'], 0)
    """
    build_method(method)
    head = {"kind": _KIND, "format_version": FORMAT_VERSION, "method": method, "class_names": sorted(class_names)}
    text = json.dumps({**head, **{key: fact for key, fact in facts.items() if key not in head}}, indent=2)
    write_text_atomic(path, text + "\n")


def load_tuned(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Read tuned settings.

    Returns
    -------
    method : str
        As `build_method` takes it.
    document : dict
        The whole file; ``class_names`` are the classes that the settings were chosen on.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a file of tuned settings, or of a format or method that this version does not know.
    """
    document = _read(Path(path))
    if not isinstance(document, dict) or document.get("kind") != _KIND:
        raise ValueError(f"{path}: expected a file of `fewshot tune`, got other JSON")
    if document.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format version {FORMAT_VERSION}, got {document.get('format_version')!r}: "
            "upgrade fewshot to read it"
        )
    method, names = document.get("method"), document.get("class_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} does not say which classes it was tuned on: {_REMEDY}")
    if not isinstance(method, str):
        raise ValueError(f"{path} does not say which method was tuned: {_REMEDY}")
    try:
        build_method(method)
    except ValueError as error:
        raise ValueError(f"{path} is for another version of fewshot ({error}): {_REMEDY}") from None
    return method, document


def tuned_method(path: str | Path) -> FittedMethod:
    """Read tuned settings as a method that `fewshot.evaluation.run_episodes` takes.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_tuned`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_tuned(f"{folder}/paddle.json", "paddle:class_balance=0.5", ["wren", "crow"], {})
    ...     fitted = tuned_method(f"{folder}/paddle.json")
    >>> fitted.name, fitted.seen_classes(["jay", "wren"])
    ('paddle', ('wren',))
    """
    text, document = load_tuned(path)
    features = document.get("features")
    source = features.get("source") if isinstance(features, dict) else None
    return FittedMethod(
        name=text.partition(":")[0],
        text=text,
        method=build_method(text),
        file=f"{path}",
        class_names=(*document["class_names"],),
        source=source if isinstance(source, dict) else {},
    )


def _read(path: Path) -> object:
    if path.is_dir():
        raise ValueError(f"{path}: expected a file of `fewshot tune`, got a folder")
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}: write it with `fewshot tune --out {path}`")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: expected a file of `fewshot tune` (JSON), got something else") from None
