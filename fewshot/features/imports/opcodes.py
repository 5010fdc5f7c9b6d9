"""Opcodes of a pickle, read without running it: only those of arrays and plain containers are allowed."""

from __future__ import annotations

import pickletools
from typing import BinaryIO

__all__ = ["BoundedFile", "RefusedError", "check_opcodes"]

# No persistent ids, no extension registry, no instances by class (INST, OBJ, NEWOBJ), no buffers from elsewhere.
# fmt: off
_ALLOWED = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1",
    "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT",
    "DICT", "SETITEM", "SETITEMS", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
))
# fmt: on
_STORES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


class RefusedError(ValueError):
    """A pickle that is refused, with the reason."""


class BoundedFile:
    """A file whose reads are clamped to its size, so that a false length allocates nothing."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, n: int = -1) -> bytes:
        """Return ``n`` bytes, or those that are left."""
        left = self._size - self._file.tell()
        return self._file.read(left if n < 0 else min(n, left))

    def readline(self) -> bytes:
        """Return the rest of a line."""
        return self._file.readline()

    def tell(self) -> int:
        """Return the place in the file."""
        return self._file.tell()


def check_opcodes(file: BoundedFile) -> None:
    """Check that a pickle uses no instruction beyond those of arrays and plain containers.

    Raises
    ------
    RefusedError
        If it does; the message names the instruction. If a length or a place in the memo is beyond the file.
    """
    for count, (opcode, value, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
        if opcode.name not in _ALLOWED:
            raise RefusedError(
                f"refused the pickle instruction {opcode.name}: arrays, tensors and containers need none"
            )
        # A writer numbers its memo from 0; a large number would make room for all below it.
        if opcode.name in _STORES and isinstance(value, int) and value > count:
            raise RefusedError(f"refused a memo of {value:,} entries after {count:,} instructions: the file is damaged")
