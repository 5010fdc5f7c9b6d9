"""What rounding may do to an answer: a bound from the number of terms, the dtype and the conditioning."""

import torch


def rounding(n_terms: int, dtype: torch.dtype, *, condition: float = 1.0) -> float:
    """Return how far apart two orders of the same sums may end, relative to their size.

    A sum of n terms is off by at most n u, where u = ε / 2 is the unit roundoff (Higham, Accuracy and Stability of
    Numerical Algorithms, section 4.2), so two orders of it are at most n ε apart. ``condition`` is how many times
    that a later step makes of it.

    Examples
    --------
    >>> rounding(16, torch.float32) == 2.0**-19
    True
    """
    return condition * n_terms * torch.finfo(dtype).eps
