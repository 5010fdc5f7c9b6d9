"""Sentences about the inputs and answers of ``fewshot classify``."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fewshot.features.images.rgb import narrow_words
from fewshot.features.support_query import SupportQuery
from fewshot.few_shot_classifier.files import Report

from ..shared.words import counted, option_name

__all__ = ["input_warnings", "unknown_words"]

_N_NAMED = 3


def unknown_words(report: Report) -> str:
    """Return how queries of no class are recognised, in words."""
    share = report.settings.reject
    if not share:
        return "not asked for: each image has its most likely class"
    if report.result.can_be_unknown:
        return f"about {100 * share:.3g} % of images of these classes are called so by mistake (--reject {share:g})"
    least = math.ceil(1000 * report.result.smallest_reject - 1e-3) / 1000
    other = f"more, or --reject {least:g} or more" if least < 1 else "two or more of a class"
    return f"not possible at --reject {share:g} with so few labelled images: give {other}"


def input_warnings(inputs: SupportQuery) -> list[str]:
    """Return warnings about images of kinds that are not read, skipped ones, and queries that are labelled too."""
    found = [
        f"{option_name(side)}: images of kinds that are not read are left out: {left_out.unread_words()}"
        for side, left_out in inputs.left_out.items()
        if left_out.unread
    ]
    if inputs.n_narrow:
        found.append(narrow_words(inputs.n_narrow).format(bit_range="--bit-range LOW:HIGH"))
    if inputs.skipped:
        found.append(_named("could not be used", [image.reason for image in inputs.skipped]))
    if inputs.duplicates:
        same = [f"{pair.query} is {pair.support}" for pair in inputs.duplicates]
        found.append(_named("to name are labelled ones too", same))
    return found


def _named(remark: str, texts: Sequence[str]) -> str:
    more = "; summary.json lists all" if len(texts) > _N_NAMED else ""
    return f"{counted(len(texts), 'image', 'images')} {remark}: {'; '.join(texts[:_N_NAMED])}{more}"
