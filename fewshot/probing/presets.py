"""Chains of steps as words: ``l2,pca:500,l2,power:2``, and the chains that have a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fewshot.checks import check_choice
from fewshot.probing.post import L2, PCA, Chain, SignedPower, Standardise, Step

__all__ = ["PRESETS", "parse_steps"]

PRESETS = {
    "none": "",
    # [OTS], classification with augmented data (CNNaug): the power transform.
    "cnnaug": "l2,power:2",
    # [OTS], instance retrieval.
    "retrieval-2014": "l2,pca:500,l2,power:2",
}


def parse_steps(text: str) -> Chain:
    """Turn words into a chain of steps.

    Parameters
    ----------
    text
        A name out of ``PRESETS``, or steps separated by commas: ``l2``, ``standardise``, ``power:P`` and
        ``pca:N``, which whitens; ``pca:N:raw`` does not, and ``pca:N:EPS`` adds EPS to the variances.

    Raises
    ------
    ValueError
        If a word is not known, or its numbers are missing, too many, or none.

    Examples
    --------
    >>> parse_steps("l2,pca:64:raw,power:0.5").describe()
    'L2-normalised, PCA to 64, signed power 0.5'
    >>> parse_steps("retrieval-2014") == parse_steps("l2,pca:500,l2,power:2")
    True
    """
    words = PRESETS.get(text.strip(), text)
    return Chain(tuple(_step(word.strip()) for word in words.split(",") if words))


def _step(text: str) -> Step:
    name, *arguments = text.split(":")
    check_choice("post-processing", name, [*_STEPS, *PRESETS])
    if name in PRESETS:
        raise ValueError(
            f"post-processing {name!r} is a whole chain: it stands alone, or is spelled out {PRESETS[name]!r}"
        )
    try:
        return _STEPS[name](*arguments)
    except TypeError:
        raise ValueError(f"post-processing {text!r}: {name} is written {_SPELLINGS[name]}") from None


def _power(p: str = "2") -> SignedPower:
    return SignedPower(_number("power", p))


def _pca(n_components: str, mode: str = "0") -> PCA:
    is_raw = mode == "raw"
    if not n_components.isdecimal():
        raise ValueError(f"pca needs a whole number of components, such as pca:500, got {n_components!r}")
    return PCA(int(n_components), whiten=not is_raw, eps=0.0 if is_raw else _number("eps of pca", mode))


def _number(what: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} must be a number, got {text!r}") from None


_STEPS: Mapping[str, Callable[..., Step]] = {"l2": L2, "pca": _pca, "power": _power, "standardise": Standardise}
_SPELLINGS = {"l2": "l2", "pca": "pca:N, pca:N:EPS or pca:N:raw", "power": "power:P", "standardise": "standardise"}
