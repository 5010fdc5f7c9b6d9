"""The summary of a discovery as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewshot.discovery.profiles import Step
from fewshot.evaluation.discovery.experiment import DiscoveryResult
from fewshot.evaluation.discovery.files import FORMAT_VERSION, KIND, sorted_pool
from fewshot.evaluation.discovery.found import FoundClasses
from fewshot.evaluation.discovery.named_scores import TrueClass, named_confusion, true_classes
from fewshot.evaluation.discovery.profiles import ClassProfile

__all__ = ["discovery_summary", "lineage_words"]

_VERBS = {"shed": "left", "split": "split off", "merge": "merged from"}


def discovery_summary(features: str, out: str, result: DiscoveryResult) -> dict[str, Any]:
    """Return a discovery as JSON values, by which `read_sorted_pool` knows its pool again.

    Parameters
    ----------
    features : str
        Where the features were read from.
    out : str
        The folder of the results.
    result : DiscoveryResult
    """
    data, found = result.data, result.found
    n_labelled = int((~data.is_unlabelled).sum())
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "features": data.pool.describe(features) | sorted_pool(features, data.pool)._asdict(),
        "method": found.method,
        "protocol": data.protocol,
        "n_rows": len(data.shown),
        "n_labelled": n_labelled,
        "n_unlabelled": len(data.shown) - n_labelled,
        "n_classes": found.n_classes,
        "n_known": found.n_known,
        "n_new": found.n_classes - found.n_known,
        "classes": [_profile(profile, found) for profile in result.classes],
        "trace": [row._asdict() for row in found.trace],
        "proposals": [row._asdict() for row in found.proposals],
        "scores": _scores(result),
        "out": out,
    }


def _profile(profile: ClassProfile, found: FoundClasses) -> dict[str, Any]:
    words = lineage_words(profile.lineage, found)
    return profile._asdict() | {"came_from": words, "lineage": [step._asdict() for step in profile.lineage]}


def lineage_words(steps: Sequence[Step], found: FoundClasses) -> str:
    """Describe the lineage of a class, the last proposal first: "split off #12 (round 3); #12 left crow (round 1)".

    Rounds are counted from 1, as in the report's chart.
    """
    names = {component: found.names[number] for number, component in enumerate(found.component_ids or [])}
    words = []
    for step in steps:
        subject = "" if step.component == steps[0].component else f"{_component(step.component, names)} "
        others = [_component(parent, names) for parent in step.parents if parent != step.component]
        verb = "took in" if step.component in step.parents else _VERBS.get(step.kind, step.kind)
        words.append(f"{subject}{verb} {' and '.join(others)} (round {step.round + 1})")
    return "; ".join(words)


def _component(component: int, names: Mapping[int, str]) -> str:
    return names.get(component, f"#{component}")


def _scores(result: DiscoveryResult) -> dict[str, Any] | None:
    if result.scores is None:
        return None
    names = (result.data.pool.class_names, result.found.names)
    return result.scores.to_dict() | {
        "classes": [_true_class(row) for row in true_classes(result.scores, *names)],
        "confusion": named_confusion(result.scores, *names),
    }


def _true_class(row: TrueClass) -> dict[str, Any]:
    values = row._asdict()
    return {"class": values.pop("name"), **values}
