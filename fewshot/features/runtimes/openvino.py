"""OpenVINO on a CPU: the traced network, converted and compiled."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot.features.runtimes.forward import CHUNK_SIZE, ForwardPass, Run

__all__ = ["PRECISIONS", "export", "load", "version"]

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
_FILE = "model.xml"


def version() -> str:
    """Return the version of OpenVINO.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    if find_spec("openvino") is None:
        raise ImportError('the runtime openvino needs OpenVINO: pip install "fewshot[images]"')
    return metadata.version("openvino")


def export(forward: ForwardPass, example: Tensor, folder: Path) -> None:
    """Write the network to a folder, for any number of images of the example's size."""
    import openvino

    with torch.no_grad():
        model = openvino.convert_model(forward, example_input=example, input=[(-1, *example.shape[1:])])
    openvino.save_model(model, folder / _FILE, compress_to_fp16=False)


@cache
def _core() -> Any:
    """Return the one core of this process, which is never destroyed.

    A core gives the thread that made it a stack for signals, and frees that stack wherever it is destroyed itself, by
    the garbage collector perhaps in another thread: the next signal would be written to freed memory.
    """
    import openvino

    return openvino.Core()


def load(folder: Path, precision: str) -> Run:
    """Compile the network of a folder."""
    core = _core()
    model = core.read_model(folder / _FILE)
    model.reshape([CHUNK_SIZE, *list(model.inputs[0].partial_shape)[1:]])
    compiled = core.compile_model(
        model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
    )
    request = compiled.create_infer_request()

    def run(images: Tensor) -> list[Tensor]:
        results = request.infer([images.contiguous().numpy()])
        return [torch.from_numpy(results[output]) for output in compiled.outputs]

    return run
