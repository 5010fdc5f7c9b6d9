"""``fewshot calibrate``: incremental methods on the same class-incremental sessions, and their forgetting."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from fewshot_episodes import SESSION_PROTOCOLS

from fewshot.evaluation.sessions import (
    SessionComparison,
    SessionExperiment,
    draw_sessions,
    read_index_files,
    run_sessions,
)
from fewshot.evaluation.sessions.experiment import ALL, BASE_SHARE, CLASS_ORDERS, CUSTOM, N_SHOT, N_WAY
from fewshot.features import FeatureSet
from fewshot.registry.incremental import INCREMENTAL_METHODS

from ..shared import output
from ..shared.held_out import check_test_options, load_test_rows, test_options
from ..shared.options import (
    COUNT,
    NUMBERS,
    PoolFiles,
    bundle,
    check_folder,
    document_head,
    pool_options,
    refuse_together,
    refuse_unused,
    resolve_device,
    run_options,
    setting_option,
    settings_object,
    whole_numbers,
)
from ..shared.tables import pool_words
from .table import calibrate_report

__all__ = ["calibrate"]

_PICTURES = (".svg", ".png", ".pdf")
_SET_BY_INDEX_FILES = ("protocol", "n_base", "n_way", "n_shot", "n_draws", "class_order", "classes")


def _one_way(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    ways = whole_numbers(ALL)(context, parameter, value)
    if ways is None or ways == ALL:
        return value
    if len(ways) > 1:
        raise click.BadParameter(f"needs one whole number, or {ALL}; got {value!r}", context, parameter)
    return int(ways[0])


def _split_methods(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Split at commas, except before an option of the method that came before."""
    methods: list[str] = []
    for text in texts:
        for number, part in enumerate(text.split(",")):
            if number and part.partition(":")[0] not in INCREMENTAL_METHODS and "=" in part:
                methods[-1] += f",{part}"
            else:
                methods.append(part)
    return tuple(methods)


_option = partial(setting_option, SessionExperiment)

_data_options = test_options(
    SessionExperiment,
    "Rows to ask about, of the same extractor; their classes are matched by name. Without it, the queries are "
    "rows of --features that no session learned from.",
    "Share of each base class to ask about, where there is no --test. Of a new class, all rows but its shots.",
)

_session_options = bundle(
    _option(
        "methods",
        "NAME[:OPTION=VALUE,...]",
        "Methods to run on the same draws, see fewshot methods; several, as in teen,ncm or by giving it again.",
        multiple=True,
        callback=_split_methods,
    ),
    _option(
        "protocol",
        [*SESSION_PROTOCOLS, CUSTOM],
        "A published split: sets the base classes, the classes per session, and how many sessions; and the shots "
        "unless --n-shot is given. custom: as the options below say, until the classes run out.",
    ),
    _option("n_base", COUNT, "Classes of the base session.", show_default=f"{100 * BASE_SHARE:g} % of the classes"),
    _option(
        "n_way",
        f"N|{ALL}",
        "New classes per later session; all: one session of all of them.",
        callback=_one_way,
        show_default=f"{N_WAY}",
    ),
    _option(
        "n_shot",
        NUMBERS,
        "Rows of each new class to learn from; a run for each.",
        show_default=f"{N_SHOT}, or the protocol's",
    ),
    _option("n_draws", COUNT, "Draws of the rows; intervals are over these."),
    _option("class_order", CLASS_ORDERS, "Which classes are the base: the file's first, or others in each draw."),
    click.option(
        "--index-files",
        metavar="DIR",
        help="Published lists of the rows of each session: session_1.txt, session_2.txt, ... They set classes and "
        "shots, and need --test.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class CalibrateFiles(PoolFiles):
    """Where the command reads and writes, and how it runs."""

    test: str | None
    test_labels: str | None
    index_files: str | None
    plot: str | None


@click.command()
@pool_options
@_data_options
@_session_options
@run_options(SessionExperiment, "Decides the draws: one seed, one list on any device.")
@click.option("--plot", metavar="FILE", help="Draw base, new and harmonic mean per session: .svg, .png or .pdf.")
@click.pass_context
def calibrate(context: click.Context, /, **words: Any) -> None:
    """Learn base classes, then new ones from a few shots, and see what becomes of both.

    After every session the classifier is asked about all classes seen so far. Base and new are the mean recalls of the
    classes of the first session and of all later ones; their harmonic mean is what to compare, as the base classes
    outnumber the new in the overall accuracy. Session 0 is measured with the same classifier as the later ones.

    \b
    Example:
      fewshot calibrate --features digits --method ncm --method teen-auto --n-way 2 --n-shot 1,5
      fewshot calibrate --features F.npz:train --test F.npz:test --protocol cub200 --plot sessions.svg
    """  # noqa: D301 (click's own mark)
    experiment = settings_object(context, SessionExperiment, words)
    files = CalibrateFiles(**words)
    _check_applicable(context, files)
    if files.plot is not None:
        _check_plot(files.plot)
    with output.gathered_warnings() as noticed:
        device = resolve_device(files.device)
        pool = files.load()
        test = load_test_rows(files.test, files.test_labels, files.classes, pool, files.features)
        comparison = _compare(files, experiment, pool.to(device), None if test is None else test.to(device))
        if files.plot is not None:
            draw_sessions(comparison, files.plot)
    protocol = comparison.protocol(str(files.test), str(files.index_files))
    pools = {"features": (files.features, pool)} | ({} if test is None else {"test": (str(files.test), test)})
    document = document_head(context) | {
        "settings": asdict(files) | _resolved(comparison) | {"device": str(device)},
        "features": pool.describe(files.features),
        "test_features": None if test is None else test.describe(str(files.test)),
        "protocol": protocol,
        "results": [run.to_dict() for run in comparison.runs],
        "differences": comparison.difference_rows(),
        "warnings": noticed,
    }
    facts = [(label, pool_words(name, rows)) for label, (name, rows) in pools.items()]
    output.publish(document, calibrate_report(comparison, protocol, facts, files.plot), is_json=files.is_json)


def _check_applicable(context: click.Context, files: CalibrateFiles) -> None:
    """Refuse options that were given and would do nothing."""
    check_test_options(context, files.features, files.test)
    if files.index_files is not None:
        refuse_together(context, "--index-files says which rows each session learns from", _SET_BY_INDEX_FILES)
    has_test = files.test is not None
    refuse_unused(context, {"index_files": (has_test, "counts training rows: name the test rows with --test")})


def _check_plot(path: str) -> None:
    """Check that a picture can be drawn, before the work."""
    check_folder(path)
    if Path(path).suffix.lower() not in _PICTURES:
        raise ValueError(f"--plot draws {', '.join(_PICTURES)}, got {path!r}: name one of these")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError('--plot is drawn by matplotlib: pip install "fewshot[plots]"') from error


def _compare(
    files: CalibrateFiles, experiment: SessionExperiment, pool: FeatureSet, test: FeatureSet | None
) -> SessionComparison:
    with output.Progress("sessions", is_quiet=files.is_quiet) as progress:
        return run_sessions(
            pool,
            experiment,
            test=test,
            index_lines=None if files.index_files is None else read_index_files(files.index_files),
            progress=progress.report,
        )


def _resolved(comparison: SessionComparison) -> dict[str, Any]:
    """Return the settings with the sizes of the sessions; with published lists, which set all of them, without."""
    settings = asdict(comparison.experiment)
    draws = {"draws": settings.pop("n_draws")}
    if comparison.sizes is not None:
        return settings | draws | comparison.sizes._asdict()
    return settings | {"n_base": None, "n_way": None, "n_shot": [None], "draws": 1, "class_order": None}
