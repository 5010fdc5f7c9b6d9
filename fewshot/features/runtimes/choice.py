"""Choice of a runtime: compiled, checked against eager torch, cached."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.features.runtimes import cache
from fewshot.features.runtimes.forward import ForwardPass, Run, in_chunks

__all__ = ["AUTO", "RUNTIMES", "Prepared", "UnfitRuntimeError", "is_cached", "prepare"]

AUTO, EAGER, INDUCTOR = "auto", "eager", "inductor"
RUNTIMES = (AUTO, "openvino", "onnxruntime", INDUCTOR, EAGER)
# Runtimes that keep the exported network in a file; the fastest first, as measured.
_EXPORTED = {
    "openvino": "fewshot.features.runtimes.openvino",
    "onnxruntime": "fewshot.features.runtimes.onnx",
}
# Largest relative difference of a feature vector to eager torch's, Euclidean.
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.1}
_N_PROBES = 4


class UnfitRuntimeError(ValueError):
    """A runtime that cannot compile the network, or computes other features than eager torch."""


class Prepared(NamedTuple):
    """A forward pass by a runtime.

    Attributes
    ----------
    runtime : str
        One of `RUNTIMES` but ``auto``.
    run : callable
        From uint8 images (b, height, width, 3) on the CPU to the outputs of each layer.
    refusals : dict of str to str
        The runtimes that ``auto`` tried before, and why they are not used.
    """

    runtime: str
    run: Run
    refusals: Mapping[str, str] = {}


def prepare(
    forward: ForwardPass, eager: Run, *, runtime: str, precision: str, network: cache.NetworkName | None
) -> Prepared:
    """Compile a forward pass and check it against eager torch on a few images.

    Parameters
    ----------
    forward
        In evaluation mode, on the CPU.
    eager
        The same by eager torch, in the precision that is asked for: the answer where no runtime is used.
    runtime
        ``auto`` takes the fastest that is installed and agrees with eager torch in float32: to 1e-5 in float32, 0.1
        in bfloat16 (relative Euclidean difference of each feature vector). A name takes this one or fails.
    precision
        ``float32`` or ``bfloat16``; eager torch computes all others.
    network
        Its name in the cache of compiled networks; None keeps nothing.

    Raises
    ------
    ImportError
        If the runtime that is named is not installed.
    UnfitRuntimeError
        If it cannot compile the network, or does not agree.
    """
    check_choice("runtime", runtime, RUNTIMES)
    if runtime == EAGER:
        return Prepared(EAGER, eager)
    if runtime != AUTO:
        return Prepared(runtime, _compiled(forward, runtime, precision, network))
    refusals: dict[str, str] = {}
    for name in filter(_is_installed, _EXPORTED):
        try:
            return Prepared(name, _compiled(forward, name, precision, network), refusals)
        except UnfitRuntimeError as error:
            refusals[name] = str(error)
    return Prepared(EAGER, eager, refusals)


def _compiled(forward: ForwardPass, name: str, precision: str, network: cache.NetworkName | None) -> Run:
    if name == INDUCTOR:
        return _checked(_inductor(forward), forward, name, precision)
    module = import_module(_EXPORTED[name])
    version = module.version()
    if precision not in module.PRECISIONS:
        raise UnfitRuntimeError(f"{name} computes in {' or '.join(module.PRECISIONS)}, not in {precision}: use eager")
    if network is None:
        with tempfile.TemporaryDirectory(prefix="fewshot-") as scratch:
            _exported(module, forward, name, Path(scratch))
            return _checked(_loaded(module, name, Path(scratch), precision), forward, name, precision)
    entry = cache.entry(network, name, version, precision)
    if (folder := entry.folder()) is not None:
        try:
            return _padded(module.load(folder, precision))
        except Exception:  # whatever a damaged file makes the runtime raise: it is made again
            entry.remove()
    with entry.filling() as scratch:
        _exported(module, forward, name, scratch)
        return _checked(_loaded(module, name, scratch, precision), forward, name, precision)


def _exported(module: ModuleType, forward: ForwardPass, name: str, folder: Path) -> None:
    try:
        with _quiet():
            module.export(forward, _noise(forward, 2, seed=1), folder)
    except Exception as error:  # exporters raise anything at all
        raise UnfitRuntimeError(f"{name} cannot export this network ({_first_line(error)}): use eager") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence tracers and exporters, which warn of each Python number that they take as constant."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(level)


def _loaded(module: ModuleType, name: str, folder: Path, precision: str) -> Run:
    try:
        run: Run = module.load(folder, precision)
    except Exception as error:
        raise UnfitRuntimeError(f"{name} cannot compile this network ({_first_line(error)}): use eager") from error
    return _padded(run)


def _padded(run: Run) -> Run:
    return lambda images: in_chunks(run, images, is_padded=True)


def _inductor(forward: ForwardPass) -> Run:
    compiled = torch.compile(forward, dynamic=False)

    def run(images: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            return list(compiled(images))

    return _padded(run)


def _checked(run: Run, forward: ForwardPass, name: str, precision: str) -> Run:
    """Return a runtime that agrees with eager torch."""
    probes = _noise(forward, _N_PROBES, seed=0)  # not those of the export, whose values a tracer may have kept
    try:
        computed = torch.cat(list(run(probes)), dim=1)
    except Exception as error:
        raise UnfitRuntimeError(f"{name} cannot run this network ({_first_line(error)}): use eager") from error
    with torch.inference_mode():
        expected = torch.cat(forward(probes), dim=1)  # in float32: two ways of rounding to bfloat16 differ by more
    difference = ((computed - expected).norm(dim=1) / expected.norm(dim=1).clamp(min=1e-30)).max()
    if not difference <= TOLERANCES[precision]:
        raise UnfitRuntimeError(
            f"{name} differs from eager torch by {float(difference):.1e}, more than {TOLERANCES[precision]:.0e}: use "
            "eager"
        )
    return run


def _noise(forward: ForwardPass, n_images: int, *, seed: int) -> Tensor:
    """Return smooth noise, (n_images, height, width, 3) uint8."""
    height, width = forward.preprocess.size
    coarse = torch.rand((n_images, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear", antialias=True)
    return (255 * smooth).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def is_cached(network: cache.NetworkName, precision: str) -> bool:
    """Whether the fastest runtime that is installed has compiled a network before."""
    name = next(filter(_is_installed, _EXPORTED), None)
    if name is None:
        return False
    version = import_module(_EXPORTED[name]).version()
    return cache.entry(network, name, version, precision).folder() is not None


def _is_installed(name: str) -> bool:
    try:
        import_module(_EXPORTED[name]).version()
    except ImportError:  # of the metadata too: a broken installation is none
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
