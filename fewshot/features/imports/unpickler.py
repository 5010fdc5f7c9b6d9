"""Pickles of arrays and tensors, read without running any code: the one door through which a pickle may come.

Three walls. The instructions are checked before any is carried out (`check_opcodes`). Names of functions are looked up
in a table written here and never imported; what stands behind them is ours, not NumPy's or torch's. What they
build is kept in `Built` boxes, which take no state but that of an array, until the whole file has been read.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NoReturn

from fewshot.features.imports.opcodes import BoundedFile, RefusedError, check_opcodes
from fewshot.features.imports.pickled_arrays import (
    Budget,
    Built,
    PickledArray,
    PickledDtype,
    from_buffer,
    scalar,
    storage,
    tensor,
)

__all__ = ["read_pickle"]

# Containers within containers, and rows within them: no known file of features goes deeper.
_MOST_DEPTH = 4


class _Name:
    """Stand-in for a global: it can be called, and has no attributes."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., object]) -> None:
        self._build = build

    def __call__(self, *parts: object) -> object:
        return self._build(*parts)

    def __setstate__(self, state: object) -> NoReturn:
        raise RefusedError("refused to change a function that a pickle names")


def _never(*parts: object) -> NoReturn:
    raise RefusedError("refused to call a type that a pickle names")


def _encoded(budget: Budget, text: object, encoding: object = "latin1") -> bytes:
    """Return bytes that old pickles keep as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedError(f"expected bytes kept as latin1 text, got {type(text).__name__} and encoding {encoding!r}")
    budget.charge(len(text))
    return text.encode("latin1")


def _mapping(budget: Budget, *items: object) -> dict[object, object]:
    """Return a plain dict for an ordered one or one with a default."""
    pairs = next((item for item in items if isinstance(item, list)), [])
    budget.charge(8 * len(pairs))
    return dict(pairs)


def _no_bytes() -> bytes:
    return b""


# What builds something takes the budget first.
_BUILDERS: Mapping[str, Callable[..., object]] = {
    **{f"numpy.{core}.multiarray._reconstruct": PickledArray for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": from_buffer for core in ("core", "_core")},
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch.storage._load_from_bytes": storage,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "_codecs.encode": _encoded,
}
_OTHERS: Mapping[str, Callable[..., object]] = {
    "numpy.ndarray": _never,
    "numpy.dtype": PickledDtype,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "builtins.list": _never,
    "__builtin__.list": _never,
    "builtins.bytes": _no_bytes,
    "__builtin__.bytes": _no_bytes,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Knows no global beyond `_BUILDERS` and `_OTHERS`."""

    def __init__(self, file: BoundedFile, budget: Budget) -> None:
        super().__init__(file, encoding="latin1")
        self._names = {name: _Name(partial(build, budget)) for name, build in _BUILDERS.items()}
        self._names |= {name: _Name(build) for name, build in _OTHERS.items()}

    def find_class(self, module_name: str, global_name: str) -> object:
        """Return the stand-in for a global, or refuse it by name."""
        found = self._names.get(f"{module_name}.{global_name}")
        if found is None:
            raise RefusedError(
                f"refused {module_name}.{global_name}: only arrays, tensors and plain containers are read from a "
                "pickle, never code; convert the file where it was made"
            )
        return found

    def persistent_load(self, pid: object) -> NoReturn:
        """Refuse objects that lie outside the file."""
        raise RefusedError("refused an object that lies outside the pickle")


def read_pickle(path: str | os.PathLike[str]) -> object:
    """Read a pickle of arrays, tensors, numbers, text and plain containers, running no code.

    Parameters
    ----------
    path
        Written by ``pickle.dump``, of any protocol, from Python 2 or 3.

    Returns
    -------
    object
        Of dict, list, tuple, str, bytes, int, float, bool, None, NumPy arrays of numbers or text, and CPU tensors.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    RefusedError
        A ValueError: if the file names anything else, which is then not imported; if it is damaged, or claims more than
        it holds.

    Notes
    -----
    NumPy's object arrays are refused: their elements can be anything. Tensors of ``pickle.dump`` hold a stream of
    ``torch.save``, which goes through ``torch.load(weights_only=True)``.

    Examples
    --------
    >>> import tempfile
    >>> class Bomb:
    ...     def __reduce__(self):
    ...         return print, ("a pickle ran code",)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.pkl").write_bytes(pickle.dumps(Bomb()))
    ...     read_pickle(f"{folder}/a.pkl")
    Traceback (most recent call last):
    ...
    fewshot.features.imports.opcodes.RefusedError: refused builtins.print: only arrays, tensors and plain containers are
        read from a pickle, never code; convert the file where it was made
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            bounded = BoundedFile(file, size)
            check_opcodes(bounded)
            file.seek(0, io.SEEK_SET)
            top = _ArrayUnpickler(bounded, Budget(size)).load()
        return _opened(top, {}, 0)
    except (OSError, RefusedError):
        raise
    except Exception as error:  # whatever a damaged file makes the unpickler say
        raise RefusedError(f"expected a pickle of arrays, got a damaged one or another file ({error})") from error


def _opened(value: object, done: dict[int, object], depth: int) -> object:
    """Unwrap the built objects; an object that occurs twice is unwrapped once."""
    if isinstance(value, Built):
        return value.value
    if not isinstance(value, (dict, list, tuple)):
        if isinstance(value, _Name):
            raise RefusedError("refused a function among the contents of a pickle")
        return value
    if depth == _MOST_DEPTH:
        raise RefusedError(f"refused containers nested more than {_MOST_DEPTH} deep: features need at most that")
    if id(value) not in done:
        if isinstance(value, dict):
            done[id(value)] = {key: _opened(item, done, depth + 1) for key, item in value.items()}
        else:
            done[id(value)] = type(value)(_opened(item, done, depth + 1) for item in value)
    return done[id(value)]
