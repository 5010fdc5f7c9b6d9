"""The choice of a method's options as a table and lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fewshot_episodes import EpisodeSampler
from rich.console import RenderableType
from rich.table import Table

from fewshot.metrics import Interval
from fewshot.tuning.experiment import TuningExperiment, TuningResult
from fewshot.tuning.search import Score, Tuning

from ..shared.output import BOX
from ..shared.tables import fact_lines
from ..shared.words import counted

__all__ = ["edges", "tune_report"]

_N_SHOWN = 10


def tune_report(
    experiment: TuningExperiment, result: TuningResult, class_names: Sequence[str], facts: Sequence[tuple[str, str]]
) -> list[RenderableType]:
    """Return the best candidates and the default, the decision, and facts about the files.

    Parameters
    ----------
    experiment
    result
    class_names
        Of the pool.
    facts
        Labels and sentences.
    """
    found = result.tuning
    regimes = counted(len(result.samplers), "regime", "regimes")
    below = [score for score in found.scores[_N_SHOWN:] if score in (found.default, found.chosen)]
    return [
        f"Accuracy in %, mean over {regimes} of {experiment.n_episodes:,} episodes each ± 95 % interval; "
        f"difference to the default in points ± interval for all {len(found.scores) - 1} differences together",
        _table([*found.scores[:_N_SHOWN], *below], found),
        *fact_lines([*_facts(experiment, result, class_names), *facts]),
    ]


def _table(scores: Sequence[Score], found: Tuning) -> Table:
    table = Table(*scores[0].candidate.options, box=BOX)
    for name in ("accuracy", "difference"):
        table.add_column(name, justify="right")
    table.add_column("")
    for score in scores:
        marks = {"chosen": score is found.chosen, "default": score is found.default}
        table.add_row(
            *[_word(value) for value in score.candidate.options.values()],
            _percent(score.accuracy),
            "" if marks["default"] else _percent(score.difference, sign="+"),
            ", ".join(word for word, is_so in marks.items() if is_so),
            style="bold" if marks["chosen"] else "",
        )
    return table


def _percent(interval: Interval, sign: str = "") -> str:
    return f"{100 * interval.mean:{sign}.2f} ± {100 * interval.half_width:.2f}"


def _word(value: object) -> str:
    """Write a value as it is given on the command line."""
    return f"{value}".lower() if isinstance(value, bool) else f"{value}"


def _facts(experiment: TuningExperiment, result: TuningResult, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield labels and sentences."""
    found, n_all = result.tuning, experiment.n_combinations
    n_tried, method = len(found.scores), found.chosen.candidate.method
    if found.is_default_kept:
        yield "chosen", f"{method}, the default: no candidate is better beyond its interval"
    else:
        yield "chosen", method
        yield from (("edge", words) for words in edges(found))
    if n_tried < n_all:
        yield "tried", f"{n_tried:,} of {n_all:,} combinations, drawn at random; more with --n-candidates"
    if n_tried > _N_SHOWN:
        yield "shown", f"the best {_N_SHOWN} of {n_tried:,} candidates, and the default; all of them are in the file"
    for name, sampler in result.samplers.items():
        yield "episodes", f"{sampler.describe()} (episodes {found.episode_hashes[name]})"
        yield from _skipped(sampler, class_names)


def edges(found: Tuning) -> Iterator[str]:
    """Name the chosen numbers that are the first or last of those tried, so that others beyond may be better."""
    for option, value in found.chosen.candidate.options.items():
        if isinstance(value, (bool, str)):
            continue
        tried = {float(score.candidate.options[option]) for score in found.scores}
        if len(tried) > 1 and value in (min(tried), max(tried)):
            end, beyond = ("lowest", "lower") if value == min(tried) else ("highest", "higher")
            yield f"{option} {value:g} is the {end} tried: {beyond} ones may be better, see --grid"


def _skipped(sampler: EpisodeSampler, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    names = [class_names[class_id] for class_id in sampler.skipped_class_ids]
    if names:
        yield "skipped", f"{len(names)} classes with too few items: {', '.join(names)}"
