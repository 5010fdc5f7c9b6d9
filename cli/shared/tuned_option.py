"""``--tuned``: settings that ``fewshot tune`` chose, for classes that it did not see."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from fewshot.features.feature_set import spec_differences
from fewshot.tuning.files import load_tuned

__all__ = ["TunedMethod", "tuned_method", "tuned_methods", "tuned_option", "warn_of_other_features", "with_tuned"]


def tuned_option(*, is_repeatable: bool) -> Callable[[Any], Any]:
    """Return the option ``--tuned``; unless it is repeatable, it takes the place of ``--method``."""
    several = "A method with the settings that fewshot tune wrote, in place of the --method of that name or beside the"
    one = "The method, with the settings that fewshot tune wrote; in place of --method."
    return click.option(
        "--tuned",
        multiple=is_repeatable,
        metavar="FILE",
        help=f"{several} others; repeatable." if is_repeatable else one,
    )


class TunedMethod(NamedTuple):
    """A method with tuned settings.

    Attributes
    ----------
    name : str
        The method's name, without settings.
    text : str
        As ``--method`` takes it.
    source : dict
        What made the features that it was tuned on, as far as the file says.
    facts : dict
        For the JSON document: the file, the method, how many classes it was tuned on, and which of these are here too.
    """

    name: str
    text: str
    source: dict[str, Any]
    facts: dict[str, Any]


def tuned_method(path: str, class_names: Sequence[str], *, allow_seen_classes: bool) -> TunedMethod:
    """Read a tuned method; refuse it for classes that it was tuned on.

    Parameters
    ----------
    path : str
    class_names : sequence of str
        The classes to evaluate or to tell apart.
    allow_seen_classes : bool
        Take it all the same.

    Raises
    ------
    ValueError
        If it was tuned on some of the classes, or the file is not one of tuned settings.
    """
    text, document = load_tuned(path)
    seen = sorted({*class_names} & {*document["class_names"]})
    if seen and not allow_seen_classes:
        raise ValueError(
            f"{path} was tuned on {len(seen)} of these {len(class_names)} classes, such as {seen[0]!r}: take other "
            "classes, or, if the names mean other classes (as numbers often do), add --allow-seen-classes"
        )
    features = document.get("features")
    source = features.get("source") if isinstance(features, dict) else None
    facts = {"file": path, "method": text, "n_classes": len(document["class_names"]), "seen_classes": seen}
    return TunedMethod(text.partition(":")[0], text, source if isinstance(source, dict) else {}, facts)


def tuned_methods(
    paths: Sequence[str],
    class_names: Sequence[str],
    *,
    allow_seen_classes: bool,
    source: Mapping[str, object],
) -> dict[str, TunedMethod]:
    """Read several, by name; each name once. Features of another ``source`` are worth a warning.

    Raises
    ------
    ValueError
        As `tuned_method`, or if two are of one method.
    """
    found: dict[str, TunedMethod] = {}
    for path in paths:
        tuned = tuned_method(path, class_names, allow_seen_classes=allow_seen_classes)
        if tuned.name in found:
            raise ValueError(
                f"--tuned {found[tuned.name].facts['file']} and --tuned {path} are both for {tuned.name}: give one"
            )
        warn_of_other_features(tuned, source)
        found[tuned.name] = tuned
    return found


def with_tuned(methods: Sequence[str], tuned: Mapping[str, TunedMethod]) -> list[str]:
    """Return the methods to run: tuned ones in place of those of their names, or else after the others.

    Examples
    --------
    >>> tuned = {"paddle": TunedMethod("paddle", "paddle:n_layers=5", {}, {})}
    >>> with_tuned(["paddle", "unem"], tuned), with_tuned(["paddle:n_layers=100"], tuned)
    (['paddle:n_layers=5', 'unem'], ['paddle:n_layers=100', 'paddle:n_layers=5'])
    """
    placed = [tuned[method].text if method in tuned else method for method in methods]
    return list(dict.fromkeys([*placed, *(each.text for each in tuned.values())]))


def warn_of_other_features(tuned: TunedMethod, source: Mapping[str, object]) -> None:
    """Warn if the features at hand and those of the tuning come from different extractors."""
    keys = [each.get("extractor_key") for each in (tuned.source, source)]
    if None in keys or keys[0] == keys[1]:
        return
    differences = spec_differences(tuned.source.get("extractor"), source.get("extractor"))
    name, value, other = next(differences, ("extractor_key", *keys))
    warnings.warn(
        f"{tuned.facts['file']} was tuned on features of another extractor ({name} is {value!r} and here {other!r}): "
        "its settings may not fit these",
        stacklevel=2,
    )
