"""Words of the form ``KEY=VALUE`` of ``fewshot distill``: options of the backbone, and changes of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewshot.checks import check_choice
from fewshot.image_distillation.settings import Number, changeable_numbers

__all__ = ["read_changes", "read_options"]

_KINDS = {int: "a whole number", float: "a number"}


def read_options(texts: Sequence[str]) -> dict[str, object]:
    """Read options of the backbone: numbers, true and false where they are some, lists where there is a +.

    Examples
    --------
    >>> read_options(["patch_size=4", "depths=2+6", "qkv_bias=false", "global_pool=avg"])
    {'patch_size': 4, 'depths': [2, 6], 'qkv_bias': False, 'global_pool': 'avg'}
    """
    return {key: _guessed(value) for key, value in map(_key_and_value, texts)}


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"expected KEY=VALUE, got {text!r}")
    return key, value


def _guessed(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if "+" in text:
        return [_guessed(part) for part in text.split("+")]
    return text == "true" if text in ("true", "false") else text


def read_changes(texts: Sequence[str], method: str) -> dict[str, object]:
    """Read numbers of a method, its views and its training as their defaults are; the settings refuse unknown keys."""
    known, word = changeable_numbers(method), Number("", is_optional=False)
    return {key: _read(key, value, known.get(key, word)) for key, value in map(_key_and_value, texts)}


def _read(key: str, text: str, number: Number) -> object:
    """Read a value; ``none`` where there may be none."""
    return None if text == "none" and number.is_optional else _read_as(key, text, number.default)


def _read_as(key: str, text: str, default: object) -> object:
    """Read a value as the default is: ``true`` or ``false``, a number, a word, or several with + between them."""
    if isinstance(default, tuple):
        parts = text.split("+")
        if len(parts) != len(default):
            like = "+".join(map(str, default))
            raise ValueError(f"{key} needs {len(default)} numbers with + between them, such as {like}, got {text!r}")
        return tuple(_read_as(key, part, default[0]) for part in parts)
    if isinstance(default, bool):
        return check_choice(key, text, ("true", "false")) == "true"
    kind: Any = float if default is None else type(default)
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{key} must be {_KINDS[kind]}, got {text!r}") from None
