"""``fewshot classify``: a few labelled images of each class and a folder of others in, their class names out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import click

from fewshot.evaluation.fitted_methods import FittedMethod, check_unseen, warn_of_other_features
from fewshot.features import load_features
from fewshot.features.families import extractor, parse_options, split_name
from fewshot.features.frozen import Extractor
from fewshot.features.support_query import (
    DEFAULT_EXTRACTOR,
    SupportQuerySources,
    list_support,
    read_support_query,
)
from fewshot.few_shot_classifier.classification import UNKNOWN, ClassifySettings
from fewshot.few_shot_classifier.classification import classify as classify_queries
from fewshot.few_shot_classifier.files import KIND, PREDICTIONS, Report, classification_summary, predictions_csv
from fewshot.storage.result_folders import SUMMARY, check_out, filling_folder, write_texts
from fewshot.storage.scratch import scratch_folder
from fewshot.tuning.files import tuned_method

from ..shared import output
from ..shared.options import (
    bit_range_option,
    bundle,
    device_option,
    document_head,
    given_options,
    json_option,
    pairs_option,
    quiet_option,
    refuse_together,
    refuse_unused,
    resolve_device,
    setting_option,
    tuned_option,
    usage_errors,
    weights_option,
)
from ..shared.page import REPORT
from .page import render_report
from .table import classification_report
from .view import View, gather_view
from .words import input_warnings, unknown_words

__all__ = ["classify"]


@dataclass(frozen=True, kw_only=True)
class ClassifyFiles:
    """Where the command writes, and how it runs."""

    out: str
    allow_seen_classes: bool
    device: str
    is_json: bool
    is_quiet: bool


_option = partial(setting_option, ClassifySettings)

_what_options = bundle(
    click.option("--support", metavar="DIR", help="Labelled images: a folder for each class, any number in each."),
    click.option("--query", metavar="DIR", help="Images to name, in folders or not; folders' names mean nothing."),
    click.option(
        "--support-features",
        metavar="STORE|FILE|digits",
        help="Labelled features in place of --support; read as by fewshot episode.",
    ),
    click.option(
        "--query-features",
        metavar="STORE|FILE|digits",
        help="Features to name in place of --query; its labels are not used.",
    ),
    click.option(
        "--out",
        metavar="DIR",
        default="classified",
        help="The folder to write; an earlier result in it is replaced.",
    ),
)

_how_options = bundle(
    click.option(
        "--extractor",
        "name",
        metavar="NAME",
        default=DEFAULT_EXTRACTOR,
        help="The extractor of image features: a name that fewshot extractors lists, or any model of timm.",
    ),
    weights_option("The extractor's weights on this machine."),
    pairs_option("--option", "options", "An option of the extractor, such as readout=cls; repeatable."),
    bit_range_option,
    _option(
        "method",
        "NAME[:OPTION=VALUE,...]",
        "How queries are answered, see fewshot methods. A transductive one answers all of them together.",
    ),
    tuned_option(is_repeatable=False),
    click.option(
        "--allow-seen-classes",
        is_flag=True,
        help="Take --tuned even if it was tuned on classes of these names: for names that mean other classes.",
    ),
    _option(
        "reject",
        click.FloatRange(0, 1, max_open=True),
        f"Answer '{UNKNOWN}' where an image is farther from every class than all but about this share of images of "
        "these classes are; 0: never.",
        metavar="SHARE",
    ),
    device_option,
    json_option,
    quiet_option,
)


@click.command()
@_what_options
@_how_options
@click.pass_context
def classify(
    context: click.Context,
    /,
    name: str,
    weights: str | None,
    options: tuple[str, ...],
    bit_range: tuple[int, int] | None,
    tuned: str | None,
    **words: Any,
) -> None:
    """Name the class of each image in a folder, from a few labelled images of each class.

    \b
    OUT/report.html       look at this: the images by class, least sure first
    OUT/predictions.csv   a line an image: its class, probability, second choice, whether unknown
    OUT/summary.json      counts, settings, what was skipped, images that are in both folders

    'unknown' needs a class with two images or more; the more there are, the smaller --reject may be.

    \b
    Example:
      fewshot classify --support labelled/ --query unsorted/ --out classified/
      fewshot classify --support-features shots.npz --query-features store/ --method simpleshot
    """  # noqa: D301 (click's own mark)
    files = ClassifyFiles(**{field.name: words.pop(field.name) for field in fields(ClassifyFiles)})
    method, reject = words.pop("method"), words.pop("reject")
    with usage_errors(context):
        sources = SupportQuerySources(**words)
    _check_applicable(context, files, sources, tuned)
    settings = _settings(context, method, reject)
    check_out(files.out, (PREDICTIONS, SUMMARY, REPORT), KIND)
    device = str(resolve_device(files.device))
    with scratch_folder() as scratch, output.gathered_warnings() as noticed:
        found = None if tuned is None else _tuned(tuned, sources, allow_seen_classes=files.allow_seen_classes)
        settings = settings if found is None else replace(settings, method=found.text)
        with output.Progress("images", is_quiet=files.is_quiet, remark="; nothing was written") as progress:
            inputs = read_support_query(
                sources,
                lambda: _extractor(name, weights, options, bit_range, device),
                scratch,
                progress=_reporter(progress),
            )
            if found is not None:
                warn_of_other_features(found, inputs.support.source)
            result = classify_queries(inputs.support.to(device), inputs.query, settings)
            report = Report(sources.names, inputs, settings, result)
            view = gather_view(report, progress)
        head = document_head(context) | {"settings": context.params | {"device": device, "method": settings.method}}
        document = head | classification_summary(report, files.out, found)
    document["warnings"] = [*input_warnings(inputs), *view.warnings, *_warnings(context, report), *noticed]
    _write(files.out, document, report, view)
    output.publish(document, classification_report(report, files.out), is_json=files.is_json)


def _settings(context: click.Context, method: str, reject: float) -> ClassifySettings:
    try:
        return ClassifySettings(method=method, reject=reject)
    except ValueError as error:
        raise click.BadParameter(str(error), context, param_hint="'--method'") from None


def _check_applicable(
    context: click.Context, files: ClassifyFiles, sources: SupportQuerySources, tuned: str | None
) -> None:
    """Refuse options that were given and would do nothing."""
    of_images = (sources.has_images, "makes features of images: give --support or --query")
    rules = {
        "name": of_images,
        "weights": of_images,
        "options": of_images,
        "bit_range": of_images,
        "allow_seen_classes": (tuned is not None, "needs --tuned"),
    }
    refuse_unused(context, rules)
    if tuned is not None:
        refuse_together(context, "--tuned says the method", ["method"])


def _tuned(path: str, sources: SupportQuerySources, *, allow_seen_classes: bool) -> FittedMethod:
    """Read a tuned method; refuse it, before any image is decoded, for classes that it was tuned on."""
    if sources.support is None:
        names = set(load_features(sources.names[0]).labelled().class_names)
    else:
        names = {f"{record.label}" for record in list_support(sources.support)}
    tuned = tuned_method(path)
    check_unseen(tuned, sorted(names), allow_seen_classes=allow_seen_classes)
    return tuned


def _extractor(
    name: str, weights: str | None, options: tuple[str, ...], bit_range: tuple[int, int] | None, device: str
) -> Extractor:
    recipe: dict[str, Any] = parse_options(split_name(name)[0], options)
    return extractor(name, weights=weights, device=device, bit_range=bit_range, **recipe)


def _reporter(progress: output.Progress) -> Callable[[str, int, int, int], None]:
    """Return the progress callback of each side's images."""

    def report(side: str, n_images: int, n_done: int, n_failed: int) -> None:
        if n_done == 0:
            progress.start(side, n_images)
        progress.update(n_done, f"{n_failed:,} failed" if n_failed else "")

    return report


def _warnings(context: click.Context, report: Report) -> list[str]:
    """Warn whoever asked for a share of unknown queries that none can be unknown; the table says it to everyone."""
    is_asked = "reject" in given_options(context) and report.settings.reject
    return [f"unknown: {unknown_words(report)}"] if is_asked and not report.result.can_be_unknown else []


def _write(out: str, document: dict[str, Any], report: Report, view: View) -> None:
    texts = {
        PREDICTIONS: predictions_csv(report),
        REPORT: render_report(report, view, document["command_line"], document["warnings"]),
        SUMMARY: output.json_text(document) + "\n",
    }
    with filling_folder(out) as folder:
        write_texts(folder, texts)
