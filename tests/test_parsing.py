"""Options given as text: one reader, and one wording of what is wrong, in every table that takes them."""

from __future__ import annotations

import re

import pytest

from fewshot.features.families import parse_options as parse_extractor_options
from fewshot.parsing import parse_value, split_option, text_options
from fewshot.registry import INCREMENTAL_METHODS, METHODS, build_classifier, build_method
from fewshot.tuning.grids import tuning_candidates


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("bool", "true", True),
        ("bool", "false", False),
        ("int", "-3", -3),
        ("float", "1e-3", 0.001),
        ("float", "inf", float("inf")),
        ("str", "none", "none"),
        ("float | None", "none", None),
        ("str | npt.ArrayLike | None", "none", None),
        ("str | npt.ArrayLike | None", "base", "base"),
        ("float | str", "2", 2.0),
        ("str | float", "2", 2.0),
        ("float | str", "auto", "auto"),
        ("float | str", "nan", "nan"),
        ("int | np.random.RandomState | None", "7", 7),
        ("tuple[float, float]", "1+0.5", (1.0, 0.5)),
        ("tuple[float, float, float]", "1+0.5+2", (1.0, 0.5, 2.0)),
        ("tuple[str, ...]", "a+b+c", ("a", "b", "c")),
        ("Sequence[str]", "a", ("a",)),
    ],
)
def test_a_value_is_read_by_its_annotation(annotation, text, value):
    read = parse_value("x", text, annotation)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "text", "needed"),
    [
        ("bool", "yes", "true or false"),
        ("int", "1.5", "a whole number"),
        ("float", "nan", "a number"),
        ("float", "none", "a number"),
        ("float | None", "x", "a number or none"),
        ("tuple[float, float]", "1", "2 numbers joined by +"),
        ("tuple[float, float]", "1+nan", "2 numbers joined by +"),
        ("tuple[float, float, float]", "1+2", "3 numbers joined by +"),
    ],
)
def test_a_value_of_no_such_kind_is_refused(annotation, text, needed):
    with pytest.raises(ValueError, match=f"^{re.escape(f'x must be {needed}, got {text!r}')}$"):
        parse_value("x", text, annotation)


@pytest.mark.parametrize("text", ["n_layers", "=3", ""])
def test_an_option_needs_a_key_and_a_value(text):
    with pytest.raises(ValueError, match=f"^expected KEY=VALUE, got {text!r}$"):
        split_option(text)


def test_options_are_parameters_with_a_default_and_a_readable_annotation():
    def build(rows: int, scale: float = 1.0, center: Tensor | None = None, *, word: str | Tensor = "a"):  # noqa: F821
        pass

    assert list(text_options(build)) == ["scale", "word"]


@pytest.mark.parametrize(
    ("build", "text", "message"),
    [
        (build_method, "paddle:n_layers=x", "paddle:n_layers must be a whole number, got 'x'"),
        (build_method, "paddle:class_balance=nan", "paddle:class_balance must be a number, got 'nan'"),
        (build_method, "paddle:n_layers", "expected KEY=VALUE, got 'n_layers'"),
        (build_classifier, "ridge:n_expanded=x", "ridge:n_expanded must be a whole number, got 'x'"),
        (build_classifier, "fecam:tukey=nan", "fecam:tukey must be a number or none, got 'nan'"),
        (lambda text: parse_extractor_options("timm", [text]), "size=x", "timm:size must be a whole number, got 'x'"),
        (lambda text: parse_extractor_options("open_clip", [text]), "softmax_scale=nan",
         "open_clip:softmax_scale must be a number, got 'nan'"),
        (lambda text: tuning_candidates("paddle", {"n_layers": [text]}), "x",
         "paddle:n_layers must be a whole number, got 'x'"),
        (lambda text: tuning_candidates("paddle", {"class_balance": [text]}), "nan",
         "paddle:class_balance must be a number, got 'nan'"),
    ],
)  # fmt: skip
def test_every_table_refuses_in_the_same_words(build, text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(text)


@pytest.mark.parametrize("name", [*METHODS, *INCREMENTAL_METHODS])
def test_every_entry_is_of_a_public_class_and_its_options_can_be_written(name):
    entry = {**METHODS, **INCREMENTAL_METHODS}[name]
    assert callable(entry.target())
    for option, parameter in entry.parameters().items():
        value = entry.options()[option]
        text = "+".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
        text = text.lower() if isinstance(value, bool) or value is None else text
        assert parse_value(option, text, parameter.annotation) == value
