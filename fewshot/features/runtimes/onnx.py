"""ONNX Runtime on a CPU: the network exported by torch.export."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot.features.runtimes.forward import CHUNK_SIZE, ForwardPass, Run

__all__ = ["PRECISIONS", "export", "load", "version"]

PRECISIONS = ("float32",)
_FILE = "model.onnx"


def version() -> str:
    """Return the version of ONNX Runtime.

    Raises
    ------
    ImportError
        If it, or what torch exports with, is not installed.
    """
    if None in map(find_spec, ("onnxruntime", "onnxscript")):  # torch exports by the second
        raise ImportError("the runtime onnxruntime needs: pip install onnxruntime onnxscript")
    return metadata.version("onnxruntime")


def export(forward: ForwardPass, example: Tensor, folder: Path) -> None:
    """Write the network to a folder, for `CHUNK_SIZE` images of the example's size."""
    chunk = example[:1].expand(CHUNK_SIZE, *example.shape[1:]).contiguous()
    torch.onnx.export(forward, (chunk,), str(folder / _FILE), dynamo=True, verbose=False)


def load(folder: Path, precision: str) -> Run:
    """Open the network of a folder."""
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(folder / _FILE), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(None, {name: images.numpy()})]

    return run
