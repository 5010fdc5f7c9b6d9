"""What made features, and whether two sets of them belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fewshot.features.feature_set import FeatureSet

__all__ = ["check_same_extractor", "check_same_source", "spec_differences"]


def check_same_extractor(a: FeatureSet, b: FeatureSet, names: tuple[str, str]) -> None:
    """Check that two pools do not come from different extractors; one that does not say which it had may pass.

    Raises
    ------
    ValueError
        If their keys differ; the message names the first difference between the two specifications.

    Examples
    --------
    >>> spec = {"extractor_key": "1f", "extractor": {"name": "resnet50", "preprocess": {"size": [224, 224]}}}
    >>> other = {"extractor_key": "2e", "extractor": {"name": "resnet50", "preprocess": {"size": [288, 288]}}}
    >>> import torch
    >>> old, new = (FeatureSet(torch.eye(2), torch.tensor([0, 1]), ("crow", "wren"), s) for s in (spec, other))
    >>> check_same_extractor(old, new, ("old", "new"))
    Traceback (most recent call last):
    ...
    ValueError: old and new come from different extractors (preprocess.size is [224, 224] and [288, 288]): extract both
        with one
    """
    check_same_source(a.source, b.source, names)


def check_same_source(a: Mapping[str, object], b: Mapping[str, object], names: tuple[str, str]) -> None:
    """Check the same of what two pools, or a model and a pool, say of their ``source``."""
    keys = [source.get("extractor_key") for source in (a, b)]
    if None in keys or keys[0] == keys[1]:
        return
    found = spec_differences(a.get("extractor"), b.get("extractor"))
    field_name, value, other = next(found, ("extractor_key", *keys))
    raise ValueError(
        f"{names[0]} and {names[1]} come from different extractors ({field_name} is {value!r} and {other!r}): "
        "extract both with one"
    )


def spec_differences(a: object, b: object, name: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield the fields in which two specifications differ, as (dotted name, value of a, value of b)."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a, *b}):
            yield from spec_differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    elif a != b:
        yield name, a, b
