"""``fewshot calibrate``: incremental methods on the same class-incremental sessions, and what they forget."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from click.core import ParameterSource
from fewshot_episodes import SESSION_PROTOCOLS, Session, incremental_sessions, published_sessions
from torch import Tensor

from fewshot.evaluation.sessions import SessionResults, evaluate_sessions
from fewshot.features import FeatureSet
from fewshot.metrics.classification import mean_interval
from fewshot.registry.incremental import INCREMENTAL_METHODS, build_classifier

from ..shared import output
from ..shared.held_out import load_test_rows, matched_labels, test_options
from ..shared.options import (
    bundle,
    check_folder,
    choice,
    describe_pool,
    document_head,
    load_pool,
    pool_options,
    resolve_device,
    run_options_with,
    whole_numbers,
)
from .plot import check_plot, draw_sessions
from .table import calibrate_report

__all__ = ["calibrate"]

ALL = "all"
CUSTOM = "custom"
_COUNT = click.IntRange(min=1)
_SHARE_OF_BASE = 0.6
_SET_BY_INDEX_FILES = ("protocol", "n_base", "n_way", "n_shot", "draws", "class_order", "classes")
Draws = list[tuple[Session, ...]]


class Cut(NamedTuple):
    """A pool, and how it is cut into sessions: a list of draws for each number of shots (None: the files say)."""

    pool: FeatureSet
    draws: dict[int | None, Draws]
    protocol: str


def _one_way(context: click.Context, parameter: click.Parameter, value: str) -> int | str:
    found = whole_numbers(ALL)(context, parameter, value)
    if isinstance(found, list) and len(found) > 1:
        raise click.BadParameter(f"needs one whole number, or {ALL}; got {value!r}", context, parameter)
    return found if isinstance(found, str) else int(found[0])


def _method_words(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return each method's words; a comma begins another method where a method's name follows, else another option."""
    words: list[str] = []
    for text in texts:
        for number, part in enumerate(text.split(",")):
            if number and part.partition(":")[0] not in INCREMENTAL_METHODS and "=" in part:
                words[-1] += f",{part}"
            else:
                words.append(part)
    for word in words:
        try:
            build_classifier(word)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None
        if words.count(word) > 1:
            raise click.BadParameter(f"{word} is given twice", context, parameter)
    return tuple(words)


_data_options = bundle(
    test_options(
        "Rows to ask about, of the same extractor; their classes are matched by name. Without it, the queries are "
        "rows of --features that no session learned from.",
        "Share of each base class to ask about, where there is no --test. Of a new class, all rows but its shots.",
    ),
)

_session_options = bundle(
    click.option(
        "--method",
        "methods",
        multiple=True,
        default=("ncm", "teen", "teen-auto"),
        callback=_method_words,
        metavar="NAME[:OPTION=VALUE,...]",
        help="Methods to run on the same draws, see fewshot methods; several, as in teen,ncm or by giving it again.",
    ),
    click.option(
        "--protocol",
        default=CUSTOM,
        **choice([*SESSION_PROTOCOLS, CUSTOM]),
        help="A published split: sets the base classes, the classes per session, and how many sessions; and the shots "
        "unless --n-shot is given. custom: as the options below say, until the classes run out.",
    ),
    click.option(
        "--n-base", type=_COUNT, metavar="N", show_default="60 % of the classes", help="Classes of the base session."
    ),
    click.option(
        "--n-way",
        default="5",
        callback=_one_way,
        metavar=f"N|{ALL}",
        help="New classes per later session; all: one session of all of them.",
    ),
    click.option(
        "--n-shot",
        default="5",
        callback=whole_numbers(),
        metavar="LIST",
        help="Rows of each new class to learn from; a run for each.",
    ),
    click.option("--draws", type=_COUNT, metavar="N", default=10, help="Draws of the rows; intervals are over these."),
    click.option(
        "--class-order",
        default="file",
        **choice(("file", "random")),
        help="Which classes are the base: the file's first, or others in each draw.",
    ),
    click.option(
        "--index-files",
        metavar="DIR",
        help="Published lists of the rows of each session: session_1.txt, session_2.txt, ... They set classes and "
        "shots, and need --test.",
    ),
)


@click.command(short_help="Compare how methods learn new classes and keep the old.")
@pool_options
@_data_options
@_session_options
@run_options_with("Decides the draws: one seed, one list on any device.")
@click.option("--plot", metavar="FILE", help="Draw base, new and harmonic mean per session: .svg, .png or .pdf.")
@click.pass_context
def calibrate(context: click.Context, /, **settings: Any) -> None:
    """Learn base classes, then new ones from a few shots, and see what becomes of both.

    After every session the classifier is asked about all classes seen so far. Base and new are the mean recalls of the
    classes of the first session and of all later ones; their harmonic mean is what to compare, as the base classes
    outnumber the new in the overall accuracy. Session 0 is measured with the same classifier as the later ones.

    \b
    Example:
      fewshot calibrate --features digits --method ncm --method teen-auto --n-way 2 --n-shot 1,5
      fewshot calibrate --features F.npz:train --test F.npz:test --protocol cub200 --plot sessions.svg
    """  # noqa: D301 (click's own mark)
    _check_applicable(context, settings)
    if settings["plot"] is not None:
        check_folder(settings["plot"])
        check_plot(settings["plot"])
    with output.gathered_warnings() as noticed:
        document = document_head(context) | _calibrate(context, settings)
    document["warnings"] = noticed
    output.publish(document, calibrate_report(document), is_json=settings["is_json"])


def _check_applicable(context: click.Context, settings: Mapping[str, Any]) -> None:
    """Refuse options that were given and would do nothing."""
    given = [name for name in context.params if _is_given(context, name)]
    if settings["test_labels"] is not None and settings["test"] is None:
        raise click.UsageError("--test-labels needs --test", context)
    if settings["test"] == settings["features"]:
        raise click.UsageError("--test names the training features: leave it out to hold out a part of them", context)
    if settings["test"] is not None and "test_fraction" in given:
        raise click.UsageError("--test-fraction holds out test rows: leave it out, --test names them", context)
    if settings["index_files"] is not None:
        _refuse(context, "--index-files says which rows each session learns from", given, _SET_BY_INDEX_FILES)
        if settings["test"] is None:
            raise click.UsageError("--index-files counts training rows: name the test rows with --test", context)
    if settings["protocol"] != CUSTOM:
        _refuse(context, f"--protocol {settings['protocol']} sets the classes", given, ("n_base", "n_way"))


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _refuse(context: click.Context, why: str, given: Sequence[str], names: Sequence[str]) -> None:
    useless = [f"--{name.replace('_', '-')}" for name in names if name in given]
    if useless:
        raise click.UsageError(f"{why}: leave out {', '.join(useless)}", context)


def _calibrate(context: click.Context, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document, less its head and warnings."""
    train = load_pool(given["features"], given["labels"], given["classes"])
    settings = _resolved(context, given, train.n_classes)
    test = None if settings["test"] is None else load_test_rows(settings, train)
    cut = _cut(settings, train, test)
    results = _run_all(settings, cut)
    document = {
        "settings": settings,
        "features": describe_pool(settings["features"], train),
        "test_features": None if test is None else describe_pool(settings["test"], test),
        "protocol": cut.protocol,
        "results": [_told(text, n_shot, found) for (n_shot, text), found in results.items()],
        "differences": _differences(settings["methods"], results),
    }
    if settings["plot"] is not None:
        draw_sessions(document, settings["plot"])
    return document


def _resolved(context: click.Context, settings: Mapping[str, Any], n_classes: int) -> dict[str, Any]:
    """Fill in what the protocol, or the number of classes, sets."""
    resolved = {**settings, "n_sessions": None, "device": str(resolve_device(settings["device"]))}
    if settings["index_files"] is not None:
        return resolved | {"n_base": None, "n_way": None, "n_shot": [None], "draws": 1, "class_order": None}
    if settings["protocol"] != CUSTOM:
        preset = SESSION_PROTOCOLS[settings["protocol"]]
        n_needed = preset.n_base + preset.n_sessions * preset.n_way
        if n_needed > n_classes:
            raise ValueError(
                f"--protocol {settings['protocol']} needs {n_needed} classes, {settings['features']} has {n_classes}: "
                "leave it out, and give --n-base and --n-way"
            )
        n_shot = settings["n_shot"] if _is_given(context, "n_shot") else [preset.n_shot]
        return resolved | preset._asdict() | {"n_shot": n_shot}
    n_base = settings["n_base"] or max(1, min(round(_SHARE_OF_BASE * n_classes), n_classes - 1))
    n_way = max(1, n_classes - n_base) if settings["n_way"] == ALL else settings["n_way"]
    return resolved | {"n_base": n_base, "n_way": n_way}


def _cut(settings: Mapping[str, Any], train: FeatureSet, test: FeatureSet | None) -> Cut:
    """Draw all sessions before the first run, so that what is wrong shows at once."""
    pool, is_test = (train, None) if test is None else _joined(settings, train, test)
    if settings["index_files"] is not None:
        assert is_test is not None
        drawn = _listed(settings, pool, is_test)
        protocol = f"{_sizes(drawn)}; rows as listed in {settings['index_files']}; tested on {settings['test']}"
        return Cut(pool, {None: [drawn]}, protocol)
    draws: dict[int | None, Draws] = {n_shot: _drawn(settings, pool, is_test, n_shot) for n_shot in settings["n_shot"]}
    return Cut(pool, draws, _protocol(settings, next(iter(draws.values()))[0]))


def _joined(settings: Mapping[str, Any], train: FeatureSet, test: FeatureSet) -> tuple[FeatureSet, Tensor]:
    """Return training and test rows as one pool, and which rows are test rows."""
    labels = torch.cat([train.labels, matched_labels(settings, train, test)])
    features = torch.cat([train.features, test.features.to(train.features.dtype)])
    ids = None if train.ids is None else train.ids + (test.ids or ("",) * len(test.labels))
    pool = replace(train, features=features, labels=labels, ids=ids)
    return pool, torch.arange(len(labels)) >= len(train.labels)


def _drawn(settings: Mapping[str, Any], pool: FeatureSet, is_test: Tensor | None, n_shot: int) -> Draws:
    generator = torch.Generator().manual_seed(settings["seed"])
    return [
        incremental_sessions(
            pool.labels,
            settings["n_base"],
            settings["n_way"],
            n_shot,
            n_sessions=settings["n_sessions"],
            is_test=is_test,
            test_fraction=settings["test_fraction"],
            class_order="random" if settings["class_order"] == "random" else None,
            class_names=pool.class_names,
            generator=generator,
        )
        for _ in range(settings["draws"])
    ]


def _listed(settings: Mapping[str, Any], pool: FeatureSet, is_test: Tensor) -> tuple[Session, ...]:
    """Return the sessions of the index files."""
    lines = _index_lines(Path(settings["index_files"]))
    path = next((line for file in lines for line in file if line.strip() and not line.strip().isdecimal()), None)
    if path is not None and pool.ids is None:
        raise ValueError(
            f"{settings['index_files']} names files, such as {path!r}, and {settings['features']} does not say which "
            "file a row is from: make the features with fewshot extract"
        )
    return published_sessions(pool.labels, pool.ids, lines, is_test, class_names=pool.class_names)


def _index_lines(folder: Path) -> list[list[str]]:
    """Read the lines of session_1.txt, session_2.txt, and so on."""
    if not folder.is_dir():
        raise FileNotFoundError(f"--index-files: no such folder: {folder}")
    names = {path.name: path for path in folder.iterdir()}
    numbers = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"session_(\d+)\.txt", name)))
    if numbers != list(range(1, len(numbers) + 1)) or not numbers:
        missing = next(number for number in range(1, len(numbers) + 2) if number not in numbers)
        raise FileNotFoundError(f"{folder} has no session_{missing}.txt: --index-files needs session_1.txt, and so on")
    return [names[f"session_{number}.txt"].read_text(encoding="utf-8").splitlines() for number in numbers]


def _protocol(settings: Mapping[str, Any], draw: Sequence[Session]) -> str:
    """Say what was done, clause by clause."""
    shots, n_draws = ", ".join(map(str, settings["n_shot"])), settings["draws"]
    order = "in the file's order" if settings["class_order"] == "file" else "in a random order in each draw"
    share = f"{100 * settings['test_fraction']:g} %"
    tested = (
        f"asked about {share} of the rows of each base class, and all rows of a new class but its shots"
        if settings["test"] is None
        else f"tested on {settings['test']}"
    )
    named = "" if settings["protocol"] == CUSTOM else f"{settings['protocol']}: "
    clauses = [
        f"{named}{_sizes(draw)}",
        f"{shots} {'shot' if shots == '1' else 'shots'} of each new class, classes {order}",
        f"{n_draws:,} {'draw' if n_draws == 1 else 'draws'} of the rows (seed {settings['seed']})",
        tested,
    ]
    return "; ".join(clauses)


def _sizes(draw: Sequence[Session]) -> str:
    """Say how many classes each session brings."""
    n_base, *n_new = (len(session.new_class_ids) for session in draw)
    if len(set(n_new)) == 1:
        sessions = "1 session" if len(n_new) == 1 else f"{len(n_new):,} sessions"
        return f"{n_base:,} base classes, then {sessions} of {n_new[0]:,} new ones"
    return f"{n_base:,} base classes, then sessions of {' + '.join(map(str, n_new))} new ones"


def _run_all(settings: Mapping[str, Any], cut: Cut) -> dict[tuple[int | None, str], SessionResults]:
    features = cut.pool.features.to(settings["device"])
    results = {}
    with output.Progress("sessions", is_quiet=settings["is_quiet"]) as progress:
        for n_shot, draws in cut.draws.items():
            for text in settings["methods"]:
                n_sessions = len(draws[0])
                progress.start(text if n_shot is None else f"{text}, {n_shot}-shot", len(draws) * n_sessions)
                results[n_shot, text] = evaluate_sessions(
                    lambda words=text: build_classifier(words),  # type: ignore[misc]
                    features,
                    cut.pool.labels,
                    draws,
                    progress=lambda draw, session, n=n_sessions: progress.update(draw * n + session + 1, ""),  # type: ignore[misc]
                )
    return results


def _told(text: str, n_shot: int | None, results: SessionResults) -> dict[str, Any]:
    """Return a method's results; the AUROC is that of classes which later sessions bring, told in all but the last."""
    average_auroc = mean_interval(results.auroc[:, :-1].mean(1))._asdict()
    return {
        "method": text,
        "settings": repr(build_classifier(text)),
        "n_shot": n_shot,
        **results.to_dict(),
        "average_auroc": average_auroc,
    }


def _differences(
    methods: Sequence[str], results: Mapping[tuple[int | None, str], SessionResults]
) -> list[dict[str, Any]]:
    """Return the paired differences of every score to the first method, session by session."""
    return [
        {
            "method": text,
            "against": methods[0],
            "n_shot": n_shot,
            "per_session": {
                name: [interval._asdict() for interval in intervals]
                for name, intervals in found.difference(results[n_shot, methods[0]]).items()
            },
        }
        for (n_shot, text), found in results.items()
        if text != methods[0]
    ]
