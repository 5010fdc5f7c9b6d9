"""GRIDS: method name → the values of its options that are worth a try, and the combinations of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from fewshot.checks import check_choice
from fewshot.parsing import parse_value, split_options
from fewshot.registry.episodic import METHODS, build_method

__all__ = ["GRIDS", "Candidate", "Value", "count_combinations", "default_grid", "tuning_candidates"]

Value = bool | int | float | str
Grid = Mapping[str, Sequence[Value]]

MAX_COMBINATIONS = 1_000_000

# What a user knows of the features, and no score may decide.
_FACTS = ("inputs", "n_cosines")
# λ/|Q|: [UNEM]'s sweep of λ with 75 queries goes from 150 to 7500 where its best values lie, and 75 is plain EM.
_DIRICHLET = {"class_balance": (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0), "softmax_scale": (10.0, 30.0, 100.0)}

GRIDS: dict[str, Grid] = {
    # Decades around [RFS]'s C.
    "logistic-regression": {"inverse_penalty": (0.01, 0.1, 1.0, 10.0, 100.0), "is_normalized": (True, False)},
    # s up to the scale of cosine heads elsewhere; decades around [ATIM]'s rate.
    "baseline++": {"softmax_scale": (1.0, 2.0, 5.0, 10.0, 20.0), "learning_rate": (1e-4, 1e-3, 1e-2)},
    # Both weights between [TIM]'s 0.1 and 1, with 0.3 of [UNEM]'s configuration; τ a factor 3 around [TIM]'s.
    "tim": {
        "marginal_entropy_weight": (0.1, 0.3, 1.0),
        "conditional_entropy_weight": (0.1, 0.3, 1.0),
        "softmax_scale": (5.0, 15.0, 45.0),
    },
    # Few, as each takes a thousand steps.
    "tim-gd": {"softmax_scale": (5.0, 15.0, 45.0), "learning_rate": (1e-4, 1e-3)},
    # 2 at one shot and 7 above in [ATIM]'s code, 5 in [UNEM]'s.
    "alpha-tim": {"alpha": ("by-shot", "1", "2", "5", "7")},
    # Decades around the rate of re-implementations.
    "transductive-fine-tuning": {"learning_rate": (5e-6, 5e-5, 5e-4), "softmax_scale": (5.0, 15.0, 45.0)},
    # 10 in the paper, 30 in [EMD]'s configuration, 50 in [UNEM]'s; the paper's Z is a number of confident queries.
    "bd-cspn": {"softmax_scale": (2.0, 5.0, 10.0, 20.0, 30.0, 50.0), "n_confident": (0, 1, 3, 8)},
    # λ over [LSHOT]'s range for validation, 0.1 to 1.5.
    "laplacian-shot": {
        "laplacian_weight": (0.1, 0.3, 0.5, 0.7, 0.8, 1.0, 1.2, 1.5),
        "n_neighbours": (3, 5, 10),
        "is_rectified": (True, False),
    },
    # α down to 0.02 of [UNEM]'s configuration; λ a factor 3 around [PTMAP]'s; β = 1 leaves features as they are.
    "pt-map": {"power": (0.5, 1.0), "cost_scale": (3.0, 10.0, 30.0), "step_size": (0.02, 0.2, 0.4)},
    "pt-map-balanced": {"power": (0.5, 1.0), "cost_scale": (3.0, 10.0, 30.0), "step_size": (0.02, 0.2, 0.4)},
    # The method is its class balance of 0, so that only the iterations are left.
    "soft-kmeans": {"n_layers": (1, 3, 10, 30, 100)},
    # α / 75 from [PADDLE]'s validation (60 to 90) and [UNEM]'s sweep (75 to 110), and where few classes are empty;
    # 20 iterations in [EMD]'s configuration, 100 in the authors'.
    "paddle": {"class_balance": (0.0, 0.25, 0.5, 0.8, 1.0, 1.2, 1.4, 2.0), "n_layers": (5, 20, 100)},
    # Around the defaults, whose scale was agreed upon by six feature sets; λ/|Q| from none to many empty classes.
    "em-gaussian": {
        "scale": (0.5, 0.65, 0.75, 0.85, 1.0),
        "class_balance": (0.0, 0.5, 1.0, 2.0, 4.0),
        "temperature": (1.0, 2.0),
    },
    # α and β around [TIP]'s 1 and 5.5.
    "tip-adapter": {"cache_weight": (0.1, 0.5, 1.0, 2.0, 3.0), "sharpness": (1.0, 3.0, 5.5, 7.0)},
    # [TRANSCLIP]'s own values for validation; the text weighs 1 where there is no support.
    "transclip": {"support_weight": (0.1, 0.5, 1.0, 10.0), "text_weight": (0.5, 1.0)},
    "em-dirichlet": _DIRICHLET,
    "hard-em-dirichlet": _DIRICHLET,
    "unem": {
        "preset": (
            "frozen-features",
            "mini-resnet18",
            "mini-wrn",
            "tiered-resnet18",
            "tiered-wrn",
            "cub-resnet18",
        )
    },
}


class Candidate(NamedTuple):
    """A method with values for the options that are tuned.

    Attributes
    ----------
    method : str
        As `build_method` takes it, every tuned option written out.
    options : dict
        The tuned options and their values.
    n_steps_away : int
        Steps on the grid from the default, summed over the options; one step between words.
    """

    method: str
    options: dict[str, Value]
    n_steps_away: int


def default_grid(name: str) -> dict[str, Sequence[Value]]:
    """Return the values that a method's options are tried at unless others are given; empty if none are known.

    Examples
    --------
    >>> default_grid("soft-kmeans")
    {'n_layers': (1, 3, 10, 30, 100)}
    >>> default_grid("simpleshot")
    {}
    """
    return dict(GRIDS.get(name, {}))


def tuning_candidates(
    method: str,
    grid: Grid | None = None,
    *,
    n_candidates: int | None = None,
    generator: torch.Generator | None = None,
) -> list[Candidate]:
    """Return the combinations of a grid, the default first.

    Parameters
    ----------
    method : str
        ``name`` or ``name:option=value,option=value``; options given here are held at their values.
    grid : mapping of str to sequence, optional
        Values of each option, as words or numbers. Default: `default_grid`. The method's own default joins each.
    n_candidates : int, optional
        At most so many combinations, the default and others drawn at random; without it, all.
    generator : torch.Generator, optional
        Decides which; needed when there are more combinations than ``n_candidates``.

    Returns
    -------
    list of Candidate

    Raises
    ------
    ValueError
        If the method, an option or a value is not known, an option is both held and tuned, there is nothing to tune,
        or the combinations are too many to be counted out.

    Examples
    --------
    >>> for candidate in tuning_candidates("soft-kmeans", {"n_layers": [10, "50"]}):
    ...     print(candidate.method, candidate.n_steps_away)
    soft-kmeans:n_layers=100 0
    soft-kmeans:n_layers=10 2
    soft-kmeans:n_layers=50 1
    """
    values = _grid_values(method, grid)
    defaults = METHODS[split_options(method)[0]].options()
    starts = [known.index(defaults[option]) for option, known in values.items()]  # type: ignore[arg-type]
    default = _candidate(method, values, starts, starts)
    positions = _positions([len(known) for known in values.values()], n_candidates, generator)
    found = [_candidate(method, values, starts, at) for at in positions]
    ordered = [default, *(candidate for candidate in found if candidate != default)][:n_candidates]
    for candidate in ordered:
        _check_builds(candidate.method)
    return ordered


def count_combinations(method: str, grid: Grid | None = None) -> int:
    """Return how many combinations a grid has, the default among them.

    Examples
    --------
    >>> count_combinations("paddle", {"class_balance": [0, 2], "n_layers": [5, 100]})
    6
    """
    return math.prod(len(known) for known in _grid_values(method, grid).values())


def _grid_values(method: str, grid: Grid | None) -> dict[str, list[Value]]:
    """Check a grid; return the values of each tuned option."""
    build_method(method)
    name, held = split_options(method)
    fixed = [word.partition("=")[0] for word in held]
    values = _values(name, _chosen(name, fixed, grid))
    if not values:
        raise ValueError(f"{_nothing_to_tune(name)}{' beside what is held' if fixed else ''}")
    if all(len(known) == 1 for known in values.values()):
        raise ValueError(f"the grid holds nothing but the default of {method}: name other values")
    return values


def _chosen(name: str, fixed: Sequence[str], grid: Grid | None) -> Grid:
    """Return the grid to use: the given one, or the method's own less the options that are held."""
    if grid is None:
        return {option: words for option, words in default_grid(name).items() if option not in fixed}
    both = next((option for option in grid if option in fixed), None)
    if both is not None:
        raise ValueError(f"{name}:{both} is held at one value and tuned: leave out one of the two")
    return grid


def _values(name: str, grid: Grid) -> dict[str, list[Value]]:
    """Return the values of each tuned option, the default among them, numbers in order."""
    defaults = METHODS[name].options()
    values: dict[str, list[Value]] = {}
    for option, words in grid.items():
        check_choice(f"option of {name}", option, defaults)
        if option in _FACTS:
            raise ValueError(
                f"{name}:{option} says what the features are and is not tuned: give it with the method, as in "
                f"{name}:{option}={defaults[option]}"
            )
        values[option] = _with_default(f"{name}:{option}", words, defaults[option])
    return values


def _with_default(what: str, words: Sequence[Value], default: object) -> list[Value]:
    assert isinstance(default, (bool, int, float, str))
    known = list(dict.fromkeys([*(_parsed(what, word, default) for word in words), default]))
    return known if _is_word(default) else sorted(known)


def _parsed(what: str, word: Value, default: Value) -> Value:
    """Return a value in the type of the default."""
    text = f"{word}".lower() if isinstance(default, bool) else f"{word}"
    value = parse_value(what, text, type(default).__name__)
    assert isinstance(value, (bool, int, float, str))
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} must be a finite number, got {word!r}")
    return value


def _is_word(value: Value) -> bool:
    return isinstance(value, (bool, str))


def _positions(sizes: Sequence[int], n_candidates: int | None, generator: torch.Generator | None) -> list[list[int]]:
    """Return positions on the grid: all of them, or ``n_candidates`` drawn at random, in the grid's order."""
    n_all = math.prod(sizes)
    if n_candidates is not None and n_candidates < 2:
        raise ValueError(f"n_candidates must be at least 2, the default and another, got {n_candidates}")
    if n_all > MAX_COMBINATIONS:
        raise ValueError(f"the grid has {n_all:,} combinations, at most {MAX_COMBINATIONS:,} can be: name fewer values")
    flat = torch.arange(n_all)
    if n_candidates is not None and n_candidates < n_all:
        if generator is None:
            raise ValueError(f"a generator is needed to draw {n_candidates} of {n_all:,} combinations: give one")
        flat = torch.randperm(n_all, generator=generator)[:n_candidates].sort().values
    return torch.stack(torch.unravel_index(flat, tuple(sizes)), -1).tolist()


def _candidate(method: str, values: Mapping[str, list[Value]], starts: Sequence[int], at: Sequence[int]) -> Candidate:
    options = {option: known[position] for (option, known), position in zip(values.items(), at, strict=True)}
    steps = [
        min(abs(position - start), 1 if _is_word(known[start]) else len(known))
        for known, position, start in zip(values.values(), at, starts, strict=True)
    ]
    words = ",".join(f"{option}={_word(value)}" for option, value in options.items())
    return Candidate(f"{method}{',' if ':' in method else ':'}{words}", options, sum(steps))


def _word(value: Value) -> str:
    """Write a value as it is given with a method."""
    return f"{value}".lower() if isinstance(value, bool) else f"{value}"


def _check_builds(method: str) -> None:
    try:
        build_method(method)
    except ValueError as error:
        raise ValueError(f"{method}: {error}") from None


def _nothing_to_tune(name: str) -> str:
    options = [option for option in METHODS[name].options() if option not in _FACTS]
    if not options:
        return f"{name} has no options to tune"
    return f"no values are known for {name}: give some of its options ({', '.join(options)}) values to try"
