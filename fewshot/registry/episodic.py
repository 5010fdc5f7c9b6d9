"""METHODS: name → what the command line can run on an episode."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from fewshot.checks import check_choice
from fewshot.episodic.alpha_tim import AlphaTim
from fewshot.episodic.bd_cspn import BDCSPN
from fewshot.episodic.em_dirichlet import EMDirichlet
from fewshot.episodic.em_gaussian import EMGaussian
from fewshot.episodic.laplacian_shot import LaplacianShot
from fewshot.episodic.linear_head import CosineHead, LogisticHead
from fewshot.episodic.method import Method
from fewshot.episodic.nearest_prototype import NearestPrototype
from fewshot.episodic.paddle import Paddle
from fewshot.episodic.pt_map import PTMAP
from fewshot.episodic.simple_shot import SimpleShot
from fewshot.episodic.tim import TimADM, TimGD
from fewshot.episodic.tip_adapter import TipAdapter
from fewshot.episodic.transclip import TransClip
from fewshot.episodic.transductive_fine_tuning import TransductiveFineTuning
from fewshot.episodic.unem.adaptive import UNEMAdaptive
from fewshot.episodic.unem.model import UNEM
from fewshot.episodic.unem.presets import DEFAULT_PRESET

__all__ = ["METHODS", "MethodEntry", "build_method", "method_options"]


class MethodEntry(NamedTuple):
    """A method that the command line knows.

    Attributes
    ----------
    build : callable
        Takes the method's options as keywords.
    is_transductive : bool
        Whether a query's answer depends on the other queries.
    summary : str
    reference : str
        A key of README's reference list.
    """

    build: Callable[..., Method]
    is_transductive: bool
    summary: str
    reference: str


def _unem_adaptive() -> UNEMAdaptive:
    from fewshot.shipped import adaptive_unem  # reads a file, which few need

    return adaptive_unem()


def _unem(preset: str = DEFAULT_PRESET) -> UNEM:
    return UNEM.from_preset(preset)


METHODS: dict[str, MethodEntry] = {
    "nearest-prototype": MethodEntry(
        NearestPrototype, False, "nearest class mean, Euclidean distance", "Snell et al. 2017"
    ),
    "simpleshot": MethodEntry(SimpleShot, False, "nearest class mean of L2-normalised features", "Wang et al. 2019"),
    "logistic-regression": MethodEntry(LogisticHead, False, "logistic regression on the support, exact", "RFS"),
    "baseline++": MethodEntry(CosineHead, False, "head of cosines trained on the support", "CLOSER"),
    "tim": MethodEntry(TimADM, True, "information maximisation, closed-form updates; draws to balanced classes", "TIM"),
    "tim-gd": MethodEntry(TimGD, True, "information maximisation by gradients; draws to balanced classes", "TIM"),
    "alpha-tim": MethodEntry(AlphaTim, True, "information maximisation with Tsallis entropies", "ATIM"),
    "transductive-fine-tuning": MethodEntry(
        TransductiveFineTuning, True, "head trained for confident answers on the queries", "Dhillon et al. 2020"
    ),
    "bd-cspn": MethodEntry(
        BDCSPN, True, "nearest prototype by cosine, prototypes rectified by the queries", "Liu et al. 2020"
    ),
    "laplacian-shot": MethodEntry(
        LaplacianShot, True, "nearest prototype, neighbouring queries drawn together", "LSHOT"
    ),
    "pt-map": MethodEntry(PTMAP, True, "optimal transport to moving class centres, class shares estimated", "PTMAP"),
    "pt-map-balanced": MethodEntry(
        partial(PTMAP, prior="balanced"), True, "the same as published: as many queries of each class", "PTMAP"
    ),
    "tip-adapter": MethodEntry(TipAdapter, False, "image-text cosines plus a cache of the support", "TIP"),
    "transclip": MethodEntry(TransClip, True, "Gaussian mixture held to the texts and to neighbours", "TRANSCLIP"),
    "soft-kmeans": MethodEntry(
        partial(Paddle, class_balance=0.0), True, "soft k-means with clamped support", "Ren et al. 2018"
    ),
    "paddle": MethodEntry(Paddle, True, "EM that penalises the number of classes in use", "PADDLE"),
    "em-gaussian": MethodEntry(EMGaussian, True, "EM with chosen scale, class balance and temperature", "UNEM"),
    "em-dirichlet": MethodEntry(EMDirichlet, True, "EM on class probabilities, Dirichlet classes", "EMD"),
    "hard-em-dirichlet": MethodEntry(
        partial(EMDirichlet, n_layers=10, is_hard=True), True, "EM-Dirichlet with one-hot assignments", "EMD"
    ),
    "unem": MethodEntry(_unem, True, "unrolled EM with learned schedules, Gaussian classes", "UNEM"),
    "unem-adaptive": MethodEntry(
        _unem_adaptive, True, "unrolled EM that finds out how many of the classes the queries come from", "UNEM"
    ),
    "unem-dirichlet": MethodEntry(
        partial(_unem, preset="dirichlet"), True, "unrolled EM with learned schedules, Dirichlet classes", "UNEM"
    ),
}


def method_options(name: str) -> dict[str, object]:
    """Return a method's options that can be given as text, with their defaults."""
    parameters = inspect.signature(METHODS[name].build).parameters
    return {
        option: parameter.default
        for option, parameter in parameters.items()
        if isinstance(parameter.default, (bool, int, float, str))
    }


def build_method(text: str) -> Method:
    """Build a method from words: ``name`` or ``name:option=value,option=value``.

    Raises
    ------
    ValueError
        If the name, an option or a value is not known; the message names the known ones and the nearest.

    Examples
    --------
    >>> build_method("em-gaussian:class_balance=0.5,n_layers=3").describe()
    "scale 0.75 in units of the episode's scatter, class balance 0.5, temperature 1, 3 layers"
    """
    name, _, words = text.partition(":")
    check_choice("method", name, METHODS)
    defaults = method_options(name)
    options = {}
    for word in filter(None, words.split(",")):
        option, _, value = word.partition("=")
        check_choice(f"option of {name}", option, defaults)
        options[option] = _parsed(f"{name}:{option}", value, type(defaults[option]))
    return METHODS[name].build(**options)


def _parsed(what: str, value: str, kind: type) -> object:
    if kind is bool:
        return check_choice(what, value, ("true", "false")) == "true"
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{what} must be {kind.__name__}, got {value!r}") from None
