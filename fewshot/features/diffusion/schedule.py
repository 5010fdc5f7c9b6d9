"""The forward process: how much of an image and how much noise there is at each timestep."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fewshot.checks import check_positive

__all__ = ["Schedule", "cosine_betas", "linear_betas"]

MAX_BETA = 0.999


def linear_betas(n_timesteps: int = 1000, *, beta_start: float | None = None, beta_end: float | None = None) -> Tensor:
    """Return evenly spaced betas, (n_timesteps,) float64.

    Parameters
    ----------
    n_timesteps
        T; default 1000, as in [DDPM].
    beta_start, beta_end
        First and last. Default: 1e-4 and 0.02, both times 1000 / T, as in [IDDPM].

    Examples
    --------
    >>> linear_betas()[[0, 999]].tolist()
    [0.0001, 0.02]
    >>> linear_betas(4000)[[0, 3999]].tolist()
    [2.5e-05, 0.005]
    """
    check_positive("n_timesteps", n_timesteps)
    scale = 1000 / n_timesteps
    start = 1e-4 * scale if beta_start is None else beta_start
    end = 0.02 * scale if beta_end is None else beta_end
    return torch.linspace(start, end, n_timesteps, dtype=torch.float64)


def cosine_betas(n_timesteps: int = 4000) -> Tensor:
    """Return the betas of the cosine schedule, (n_timesteps,) float64, none above 0.999.

    f(u) = cos²((u + 0.008) / 1.008 · π / 2) and beta_i = min(1 - f((i + 1) / T) / f(i / T), 0.999).

    Source
    ------
    [IDDPM] Section 3.2 and its released code.
    """
    check_positive("n_timesteps", n_timesteps)
    u = torch.arange(n_timesteps + 1, dtype=torch.float64) / n_timesteps
    f = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - f[1:] / f[:-1]).clamp(max=MAX_BETA)


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Noise levels by timestep, which counts from 0: already t = 0 means one step of noise.

    Parameters
    ----------
    betas
        (n_timesteps,) float64 in (0, 1): `linear_betas`, `cosine_betas` or a table of your own.

    Attributes
    ----------
    alphas_cumprod
        (n_timesteps,) float64 in (0, 1), decreasing: the product of 1 - beta up to and including t.

    Notes
    -----
    A timestep means little without its table: models are compared at equal signal-to-noise ratio, never at equal t.

    Source
    ------
    [DDPM] Section 2; timesteps as in the code of [ADM].

    Examples
    --------
    >>> schedule = Schedule(linear_betas())
    >>> round(schedule.snr(90), 2), schedule.timestep_of_snr(10.53)
    (10.53, 90)
    """

    betas: Tensor
    alphas_cumprod: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.betas.ndim != 1 or self.betas.dtype != torch.float64:
            raise ValueError(f"betas must be (n_timesteps,) float64, got {tuple(self.betas.shape)} {self.betas.dtype}")
        if not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise ValueError("betas must lie in (0, 1)")
        object.__setattr__(self, "alphas_cumprod", torch.cumprod(1 - self.betas, 0))

    @property
    def n_timesteps(self) -> int:
        """The number of timesteps, T."""
        return len(self.betas)

    def check_timestep(self, t: int) -> int:
        """Return ``t`` if the table has it.

        Raises
        ------
        ValueError
            Otherwise.
        """
        if not 0 <= t < self.n_timesteps:
            raise ValueError(f"t must lie in [0, {self.n_timesteps}), got {t}")
        return t

    def snr(self, t: int) -> float:
        """Return the signal-to-noise ratio alphas_cumprod / (1 - alphas_cumprod) at a timestep."""
        signal = float(self.alphas_cumprod[self.check_timestep(t)])
        return signal / (1 - signal)

    def timestep_of_snr(self, snr: float) -> int:
        """Return the timestep whose log signal-to-noise ratio is nearest: the inverse of `snr`.

        Raises
        ------
        ValueError
            If ``snr`` is not positive.
        """
        check_positive("snr", snr)
        log_snr = torch.log(self.alphas_cumprod) - torch.log1p(-self.alphas_cumprod)
        return int((log_snr - math.log(snr)).abs().argmin())

    def add_noise(self, images: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """Return sqrt(alphas_cumprod) · images + sqrt(1 - alphas_cumprod) · noise.

        Parameters
        ----------
        images
            (b, channels, height, width) in [-1, 1].
        noise
            As ``images``, standard normal.
        t
            One timestep for all, or (b,) int64, one for each; in [0, n_timesteps).

        Returns
        -------
        Tensor
            As ``images``, in dtype and device too.
        """
        signal = self.alphas_cumprod[t][..., None, None, None]
        return signal.sqrt().to(images) * images + (1 - signal).sqrt().to(images) * noise
