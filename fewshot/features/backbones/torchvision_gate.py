"""The one way to torchvision: import it, and mend the one import that fails beside a CPU-only torch.

PyPI's torchvision is built for CUDA. Beside a CPU-only torch its compiled library does not load, which it forgives,
but the schemas of its operators are then undefined, which it does not: ``operator torchvision::nms does not exist``.
Defining two schemas makes the rest of the package work. They are only ever defined after an import has failed in this
way: with the genuine library loaded they would be defined twice, which aborts the process.
"""

from __future__ import annotations

import importlib
import sys
from typing import Literal

import torch

__all__ = ["ensure_torchvision", "require_torchvision"]

Status = Literal["already", "native", "schema-only", "absent"]
_NATIVE_MISSING = "operator torchvision::nms does not exist"
_SCHEMA = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# The schemas live as long as the library object that defined them.
_libraries: list[torch.library.Library] = []


def ensure_torchvision() -> Status:
    """Import torchvision, beside a CPU-only torch too.

    Returns
    -------
    str
        - ``already``: it had been imported before.
        - ``native``: imported now, as it is.
        - ``schema-only``: imported now, without its compiled operators: transforms and models work, ``ops.nms`` and
          ``io.read_image`` do not, which torchvision says where they are called; nothing here calls them.
        - ``absent``: it is not installed.

    Raises
    ------
    ImportError
        If it is installed and cannot be imported; the message has the command that installs the one that belongs to
        this torch.
    """
    if sys.modules.get("torchvision") is not None:
        return "already"
    try:
        return _import_or_mend()
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torchvision":
            return "absent"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImportError(
            f"torchvision does not import beside torch {torch.__version__} ({reason}): "
            f"install the pair that belongs together with `{_pip_command()}`"
        ) from error


def require_torchvision(what: str) -> Status:
    """Return `ensure_torchvision`'s status, where torchvision is needed.

    Parameters
    ----------
    what
        What needs it, for the message.

    Raises
    ------
    ImportError
        If it is not installed, or cannot be imported.
    """
    status = ensure_torchvision()
    if status == "absent":
        raise ImportError(f"{what} needs torchvision: install it with `{_pip_command()}`")
    return status


def _import_or_mend() -> Status:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _NATIVE_MISSING not in str(error):
            raise
    else:
        return "native"
    _forget_torchvision()
    _define_schemas()
    importlib.import_module("torchvision")
    return "schema-only"


def _forget_torchvision() -> None:
    """Remove the modules of a failed import."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "torchvision":
            del sys.modules[name]


def _define_schemas() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(_SCHEMA.format(operator))  # type: ignore[no-untyped-call]
    _libraries.append(library)


def _pip_command() -> str:
    """Name the torch that is here, so that pip looks for its torchvision and does not replace it."""
    return f"pip install torchvision torch=={torch.__version__}"
