"""Learned schedules that ship with the library."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEFAULT_PRESET", "PRESETS", "Preset"]

DEFAULT_PRESET = "frozen-features"


class Preset(NamedTuple):
    """Numbers of a UNEM model, one schedule per shot count.

    Attributes
    ----------
    likelihood : str
    shots : tuple of int
        Shot counts that the schedules were learned at.
    scale : tuple of float
        In units of the episode's scatter for Gaussian classes; a factor of cosines for Dirichlet classes.
    class_balance, temperature : tuple of tuples of float
        λ/|Q| and T: one row per shot count, one number per layer.
    origin : str
        Where the numbers were learned.
    """

    likelihood: str
    shots: tuple[int, ...]
    scale: tuple[float, ...]
    class_balance: tuple[tuple[float, ...], ...]
    temperature: tuple[tuple[float, ...], ...]
    origin: str


PRESETS: dict[str, Preset] = {
    "frozen-features": Preset("gaussian", (5,), (0.65,), ((1.3,) * 10,), ((1.5,) * 10,), "x"),
    "dirichlet": Preset("dirichlet", (5,), (10.0,), ((1.3,) * 10,), ((1.5,) * 10,), "x"),
}
