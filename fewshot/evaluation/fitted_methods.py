"""Methods with numbers learned, or options chosen, on some classes, for evaluation on other ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot.checks import SettingError
from fewshot.episodic.method import Method, check_class_columns, n_class_columns
from fewshot.features import FeatureSet
from fewshot.features.feature_set import spec_differences
from fewshot.models import load_unem

__all__ = ["FittedMethod", "check_columns", "check_unseen", "fitted_by_name", "trained_unem", "warn_of_other_features"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedMethod:
    """A method with learned numbers or chosen options.

    Attributes
    ----------
    name : str
        The method's name, without options.
    text : str
        As `build_method` takes it, options included.
    method : Method
    file : str
        The file that it was read from.
    class_names : tuple of str
        The classes that it was fitted on; empty if the file does not say.
    source : mapping
        What made the features that it was fitted on, as far as it is to be compared with that of others.
    facts : mapping
        What else the file says (JSON values).
    kind : {"trained", "tuned"}
    """

    name: str
    text: str
    method: Method
    file: str
    class_names: tuple[str, ...] = ()
    source: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    kind: str = "tuned"

    def seen_classes(self, class_names: Iterable[str]) -> tuple[str, ...]:
        """Return those of some classes that it was fitted on."""
        fitted_on = set(self.class_names)
        return tuple(name for name in class_names if name in fitted_on)

    def describe(self, class_names: Iterable[str]) -> dict[str, Any]:
        """Return the file, the method, and those of some classes that it was fitted on, as JSON values."""
        seen = sorted({*self.seen_classes(class_names)})
        return {"file": self.file, "method": self.text, "n_classes": len(self.class_names), "seen_classes": seen}


def trained_unem(path: str | Path) -> FittedMethod:
    """Read the weights of `fewshot train unem` (`fewshot.save_unem`).

    Raises
    ------
    FileNotFoundError, ValueError
        As `fewshot.load_unem`.
    """
    model, training = load_unem(path)
    names = training.get("class_names", [])
    assert isinstance(names, list)
    return FittedMethod(
        name="unem", text="unem", method=model, file=f"{path}", class_names=(*names,), facts=training, kind="trained"
    )


def check_unseen(fitted: FittedMethod, class_names: Sequence[str], *, allow_seen_classes: bool = False) -> None:
    """Refuse a method for classes that it was fitted on.

    Raises
    ------
    SettingError
        If it was fitted on some of the classes, unless that is allowed.
    """
    seen = fitted.seen_classes(class_names)
    if seen and not allow_seen_classes:
        raise SettingError(
            "{0} was {1} on {2} of these {3} classes, such as {4!r}: take other classes, or, if the names mean other "
            "classes (as numbers often do), add {allow_seen_classes}",
            fitted.file,
            fitted.kind,
            len(seen),
            len(class_names),
            seen[0],
        )


def fitted_by_name(fitted: Sequence[FittedMethod]) -> dict[str, FittedMethod]:
    """Return fitted methods by name.

    Raises
    ------
    ValueError
        If two are of one name.
    """
    found: dict[str, FittedMethod] = {}
    for each in fitted:
        if each.name in found:
            raise ValueError(f"{found[each.name].file} and {each.file} are both for {each.name}: give one")
        found[each.name] = each
    return found


def warn_of_other_features(fitted: FittedMethod, source: Mapping[str, object]) -> None:
    """Warn if the features at hand and those of the fit come from different extractors."""
    keys = [each.get("extractor_key") for each in (fitted.source, source)]
    if None in keys or keys[0] == keys[1]:
        return
    differences = spec_differences(fitted.source.get("extractor"), source.get("extractor"))
    name, value, other = next(differences, ("extractor_key", *keys))
    warnings.warn(
        f"{fitted.file} was {fitted.kind} on features of another extractor ({name} is {value!r} and here {other!r}): "
        "its settings may not fit these",
        stacklevel=2,
    )


def check_columns(methods: Mapping[str, Method], pool: FeatureSet) -> None:
    """Check that methods that find a class's column by its number have one for each class of a pool, in its order.

    Raises
    ------
    ValueError
        If the columns are not as many as the classes, or were made in another order of their names.
    """
    for name, method in methods.items():
        try:
            check_class_columns(method, pool.features.shape[1], pool.n_classes)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if n_class_columns(method, pool.features.shape[1]):
            _check_order(name, pool)


def _check_order(name: str, pool: FeatureSet) -> None:
    spec = pool.source.get("extractor")
    texts = spec.get("class_names") if isinstance(spec, Mapping) else None
    own = list(pool.class_names)
    if texts is None or list(texts) == own or sorted(texts) != sorted(own):
        return
    place, (text, own_name) = next(
        (place, pair) for place, pair in enumerate(zip(texts, own, strict=True)) if len({*pair}) > 1
    )
    raise ValueError(
        f"{name}: column {place} of the cosines was made for {text!r}, but class {place} of the features is "
        f"{own_name!r}: extract them again with class_names in the order of the classes"
    )
