"""``fewshot probe``: frozen features judged by a linear classifier, by nearest neighbours and by retrieval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import click
import torch

from fewshot.evaluation.probes import PROBES, RETRIEVAL_MODES, ProbeComparison, ProbeExperiment, run_probes
from fewshot.probing.linear import LOSSES, MULTI_CLASS

from ..shared import output
from ..shared.held_out import check_test_options, load_test_rows, test_options
from ..shared.options import (
    NUMBERS,
    POSITIVE,
    PoolFiles,
    bundle,
    document_head,
    pool_options,
    refuse_unused,
    resolve_device,
    run_options,
    setting_option,
    settings_object,
)
from .table import probe_report

__all__ = ["probe"]

_option = partial(setting_option, ProbeExperiment)

_data_options = bundle(
    test_options(
        ProbeExperiment,
        "Features to test on, of the same extractor; their classes are matched by name. Without it, a part of "
        "--features is held out.",
        "Share of each class to hold out, at random by --seed, where there is no --test.",
    ),
    _option(
        "post",
        "STEPS",
        "Steps on the features, fitted on the training rows: l2, power:P, standardise, pca:N (whitened; pca:N:raw is "
        "not, pca:N:EPS is damped), or a chain of its own name: none, cnnaug, retrieval-2014.",
    ),
)

_method_options = bundle(
    _option(
        "methods",
        "NAME",
        "svm, logistic, knn or retrieval. Give it several times to compare on the same rows.",
        multiple=True,
    ),
    _option("c", POSITIVE, "C of svm, for features of unit norm."),
    _option("loss", LOSSES, "What svm minimises."),
    _option("multi_class", MULTI_CLASS, "How svm tells classes apart."),
    _option("logistic_c", POSITIVE, "C of logistic.", show_default="chosen on a tenth of the training rows"),
    _option("k", NUMBERS, "Neighbours of knn; a row for each."),
    _option("temperature", POSITIVE, "Divides the cosines of knn."),
    _option(
        "retrieval_mode",
        RETRIEVAL_MODES,
        "leave-one-out: each test row among the other test rows. gallery: among the training rows.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ProbeFiles(PoolFiles):
    """Where the command reads, and how it runs."""

    test: str | None
    test_labels: str | None


@click.command()
@pool_options
@_data_options
@_method_options
@run_options(ProbeExperiment, "Decides what is held out, for the test and to choose C of logistic.")
@click.pass_context
def probe(context: click.Context, /, **words: Any) -> None:
    """Say what frozen features are worth, by the standard ways to find out.

    \b
    svm        linear support vector machine: accuracy over all rows, and mean over the classes
    logistic   logistic regression, C chosen on a tenth of the training rows, never on test rows
    knn        neighbours among the training rows, weighted by exp(cosine / temperature)
    retrieval  Rank-1, Rank-5, mAP and recall@4 by Euclidean distance

    \b
    Example:
      fewshot probe --features digits --method svm --method knn
      fewshot probe --features F.npz:train --test F.npz:test --method retrieval --post retrieval-2014
    """  # noqa: D301 (click's own mark)
    experiment = settings_object(context, ProbeExperiment, words)
    files = ProbeFiles(**words)
    needed = {option: name for name, entry in PROBES.items() for option in entry.options}
    rules = {option: (name in experiment.methods, f"needs --method {name}") for option, name in needed.items()}
    refuse_unused(context, rules)
    check_test_options(context, files.features, files.test)
    with output.gathered_warnings() as noticed:
        device = resolve_device(files.device)
        comparison = _compare(files, experiment, device)
    document = document_head(context) | {
        "settings": asdict(files) | asdict(experiment) | {"device": str(device)},
        "features": comparison.train.describe(files.features),
        "test_features": comparison.test.describe(files.test or files.features),
        "protocol": comparison.protocol(files.features, str(files.test)),
        "post": comparison.post,
        "results": [run.to_dict() for run in comparison.runs],
        "warnings": [*comparison.notes, *noticed],
    }
    output.publish(document, probe_report(comparison, files.features, files.test), is_json=files.is_json)


def _compare(files: ProbeFiles, experiment: ProbeExperiment, device: torch.device) -> ProbeComparison:
    pool = files.load()
    test = load_test_rows(files.test, files.test_labels, files.classes, pool, files.features)
    with output.Progress("fits", is_quiet=files.is_quiet) as progress:
        return run_probes(
            pool.to(device),
            experiment,
            test=None if test is None else test.to(device),
            progress=lambda name, n_done, n_fits, best: progress.report(
                name, n_done, n_fits, f"held out {100 * best:.1f} %"
            ),
        )
