"""METHODS: episode methods by the names of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot.registry.entry import Entry, build_entry

if TYPE_CHECKING:
    from fewshot.episodic.method import Method

__all__ = ["METHODS", "build_method"]


def _inductive(path: str, summary: str, reference: str, **settings: object) -> Entry[Method]:
    return Entry(f"fewshot.{path}", summary, reference, settings)


def _transductive(path: str, summary: str, reference: str, **settings: object) -> Entry[Method]:
    return Entry(f"fewshot.{path}", summary, reference, settings, is_transductive=True)


METHODS: dict[str, Entry[Method]] = {
    "nearest-prototype": _inductive(
        "episodic:NearestPrototype", "nearest class mean, Euclidean distance", "Snell et al. 2017"
    ),
    "simpleshot": _inductive("episodic:SimpleShot", "nearest class mean of L2-normalised features", "Wang et al. 2019"),
    "logistic-regression": _inductive("episodic:LogisticHead", "logistic regression on the support, exact", "RFS"),
    "baseline++": _inductive("episodic:CosineHead", "head of cosines trained on the support", "CLOSER"),
    "tim": _transductive(
        "episodic:TimADM", "information maximisation, closed-form updates; draws to balanced classes", "TIM"
    ),
    "tim-gd": _transductive(
        "episodic:TimGD", "information maximisation by gradients; draws to balanced classes", "TIM"
    ),
    "alpha-tim": _transductive("episodic:AlphaTim", "information maximisation with Tsallis entropies", "ATIM"),
    "transductive-fine-tuning": _transductive(
        "episodic:TransductiveFineTuning", "head trained for confident answers on the queries", "Dhillon et al. 2020"
    ),
    "bd-cspn": _transductive(
        "episodic:BDCSPN", "nearest prototype by cosine, prototypes rectified by the queries", "Liu et al. 2020"
    ),
    "laplacian-shot": _transductive(
        "episodic:LaplacianShot", "nearest prototype, neighbouring queries drawn together", "LSHOT"
    ),
    "pt-map": _transductive(
        "episodic:PTMAP", "optimal transport to moving class centers, class shares estimated", "PTMAP"
    ),
    "pt-map-balanced": _transductive(
        "episodic:PTMAP", "the same as published: as many queries of each class", "PTMAP", prior="balanced"
    ),
    "tip-adapter": _inductive("episodic:TipAdapter", "image-text cosines plus a cache of the support", "TIP"),
    "transclip": _transductive(
        "episodic:TransClip", "Gaussian mixture held to the texts and to neighbours", "TRANSCLIP"
    ),
    "soft-kmeans": _transductive(
        "episodic:Paddle", "soft k-means with clamped support", "Ren et al. 2018", class_balance=0.0
    ),
    "paddle": _transductive("episodic:Paddle", "EM that penalises the number of classes in use", "PADDLE"),
    "em-gaussian": _transductive("episodic:EMGaussian", "EM with chosen scale, class balance and temperature", "UNEM"),
    "em-dirichlet": _transductive("episodic:EMDirichlet", "EM on class probabilities, Dirichlet classes", "EMD"),
    "hard-em-dirichlet": _transductive(
        "episodic:EMDirichlet", "EM-Dirichlet with one-hot assignments", "EMD", n_layers=10, is_hard=True
    ),
    "unem": _transductive("episodic:UNEM.from_preset", "unrolled EM with learned schedules, Gaussian classes", "UNEM"),
    "unem-adaptive": _transductive(
        "shipped:adaptive_unem",
        "unrolled EM that finds out how many of the classes the queries come from",
        "UNEM",
    ),
    "unem-dirichlet": _transductive(
        "episodic:UNEM.from_preset",
        "unrolled EM with learned schedules, Dirichlet classes",
        "UNEM",
        preset="dirichlet",
    ),
}


def build_method(text: str) -> Method:
    """Build an episode method from ``name`` or ``name:option=value,option=value``.

    Raises
    ------
    ValueError
        If the name, an option or a value is not known; the message names the known ones and the nearest.

    Examples
    --------
    >>> build_method("em-gaussian:class_balance=0.5,n_layers=3").describe()
    "scale 0.75 in units of the episode's scatter, class balance 0.5, temperature 1, 3 layers"
    """
    return build_entry(METHODS, text)
