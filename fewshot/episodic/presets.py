"""Learned schedules that ship with the library."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEFAULT_PRESET", "PRESETS", "Preset"]

DEFAULT_PRESET = "mini-resnet18"


class Preset(NamedTuple):
    """Numbers of a UNEM model.

    Attributes
    ----------
    likelihood : str
    scale : float
        In units of the episode's scatter for Gaussian classes.
    class_balance, temperature : tuple of float
        λ/|Q| and T, layer by layer.
    origin : str
        Where the numbers were learned.
    """

    likelihood: str
    scale: float
    class_balance: tuple[float, ...]
    temperature: tuple[float, ...]
    origin: str


PRESETS: dict[str, Preset] = {
    "mini-resnet18": Preset("gaussian", 0.65, (1.3,) * 10, (1.5,) * 10, "x"),
}
