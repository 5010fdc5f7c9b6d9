"""Values and options given as text: ``name:option=value,option=value``, each read by its annotation."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from fewshot.checks import check_choice

__all__ = ["guess_value", "parse_options", "parse_value", "split_option", "split_options", "text_options"]


def parse_value(what: str, text: str, annotation: str) -> object:
    """Parse a value as the first kind of its annotation that fits, words last.

    Parameters
    ----------
    what : str
        Names the value in the message.
    text : str
        ``true`` or ``false``, a number, a word, ``none``, or several of these joined by ``+``.
    annotation : str
        As it stands in a signature or a dataclass: kinds among ``None``, ``bool``, ``int``, ``float``, ``str``,
        ``tuple[float, float]``, ``tuple[str, ...]`` and ``Sequence[str]``, with ``|`` between them. Other kinds cannot
        be given as text.

    Raises
    ------
    ValueError
        If no kind fits; NaN is not a number.

    Examples
    --------
    >>> parse_value("n_layers", "3", "int"), parse_value("tukey", "none", "float | None")
    (3, None)
    >>> parse_value("momentum", "0.99+1", "tuple[float, float]"), parse_value("layers", "a+b", "Sequence[str]")
    ((0.99, 1.0), ('a', 'b'))
    >>> parse_value("paddle:n_layers", "2.5", "int")
    Traceback (most recent call last):
    ...
    ValueError: paddle:n_layers must be a whole number, got '2.5'
    """
    kinds = _kinds(annotation)
    for kind in sorted(kinds, key=lambda kind: kind.is_word):
        try:
            return kind.read(text)
        except ValueError:
            continue
    raise ValueError(f"{what} must be {' or '.join(kind.noun for kind in kinds)}, got {text!r}")


def guess_value(text: str) -> object:
    """Parse a value of no declared kind: a number, ``true`` or ``false``, a list where there is a ``+``, or a word.

    Examples
    --------
    >>> [guess_value(text) for text in ("4", "2+6", "false", "avg")]
    [4, [2, 6], False, 'avg']
    """
    for kind in ("int", "float", "bool"):
        try:
            return _KINDS[kind].read(text)
        except ValueError:
            continue
    return [guess_value(part) for part in text.split("+")] if "+" in text else text


def split_option(text: str) -> tuple[str, str]:
    """Split ``KEY=VALUE``.

    Raises
    ------
    ValueError
        If it has another form.

    Examples
    --------
    >>> split_option("n_layers=3")
    ('n_layers', '3')
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"expected KEY=VALUE, got {text!r}")
    return key, value


def split_options(text: str) -> tuple[str, list[str]]:
    """Split ``name:option=value,option=value`` into the name and the options.

    Examples
    --------
    >>> split_options("paddle:n_layers=3,class_balance=1"), split_options("paddle")
    (('paddle', ['n_layers=3', 'class_balance=1']), ('paddle', []))
    """
    name, _, words = text.partition(":")
    return name, [word for word in words.split(",") if word]


def text_options(build: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function or a class that have a default and can be given as text.

    Examples
    --------
    >>> def build(x: int, scale: float = 1.0, center: Tensor | None = None): ...
    >>> list(text_options(build))
    ['scale']
    """
    parameters = inspect.signature(build).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty
        and any(kind.noun != "none" for kind in _kinds(parameter.annotation))
    }


def parse_options(owner: str, texts: Iterable[str], known: Mapping[str, inspect.Parameter]) -> dict[str, object]:
    """Parse ``option=value`` texts.

    Parameters
    ----------
    owner : str
        The method or family that the options belong to, for the messages.
    texts : iterable of str
    known : mapping of str to inspect.Parameter
        As `text_options` returns them.

    Raises
    ------
    ValueError
        If an option or a value is not known; the message names the known options and the nearest one.

    Examples
    --------
    >>> def build(n_layers: int = 5, tukey: float | None = 0.5): ...
    >>> parse_options("paddle", ["tukey=none", "n_layers=3"], text_options(build))
    {'tukey': None, 'n_layers': 3}
    >>> parse_options("paddle", ["n_layer=3"], text_options(build))
    Traceback (most recent call last):
    ...
    ValueError: unknown option of paddle 'n_layer': did you mean 'n_layers'? Known: n_layers, tukey
    """
    options = {}
    for option, value in map(split_option, texts):
        check_choice(f"option of {owner}", option, known)
        options[option] = parse_value(f"{owner}:{option}", value, known[option].annotation)
    return options


class _Kind(NamedTuple):
    """A kind of value: its noun in messages, and the reader, which raises ValueError for other texts."""

    noun: str
    read: Callable[[str], object]
    is_word: bool = False


def _none(text: str) -> None:
    if text != "none":
        raise ValueError(text)


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _number(text: str) -> float:
    value = float(text)
    if math.isnan(value):
        raise ValueError(text)
    return value


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split("+"))


_KINDS = {
    "None": _Kind("none", _none),
    "bool": _Kind("true or false", _bool),
    "int": _Kind("a whole number", int),
    "float": _Kind("a number", _number),
    "str": _Kind("a word", str, is_word=True),
    "Sequence[str]": _Kind("words joined by +", _words, is_word=True),
    "tuple[str, ...]": _Kind("words joined by +", _words, is_word=True),
}


def _kinds(annotation: str) -> list[_Kind]:
    """Return the kinds of an annotation that can be given as text."""
    names = [name.strip() for name in annotation.split("|")]
    return [
        _numbers(name.count("float")) if name.startswith("tuple[float,") else _KINDS[name]
        for name in names
        if name in _KINDS or name.startswith("tuple[float,")
    ]


def _numbers(n_numbers: int) -> _Kind:
    def read(text: str) -> tuple[float, ...]:
        parts = text.split("+")
        if len(parts) != n_numbers:
            raise ValueError(text)
        return tuple(map(_number, parts))

    return _Kind(f"{n_numbers} numbers joined by +", read)
