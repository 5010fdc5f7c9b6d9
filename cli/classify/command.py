"""``fewshot classify``: a few labelled images of each class and a folder of others in, their class names out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from fewshot.evaluation.fitted_methods import FittedMethod, check_unseen, warn_of_other_features
from fewshot.features import FeatureSet, load_features
from fewshot.few_shot_classifier import DEFAULT_METHOD, FewShotClassifier
from fewshot.registry.episodic import build_method
from fewshot.rejection import is_rejected, smallest_share
from fewshot.tuning.files import tuned_method

from ..shared import output
from ..shared.class_columns import check_columns
from ..shared.options import DEVICES, bundle, choice, document_head, resolve_device
from ..shared.result_folders import write_texts, writing_folder
from ..shared.tuned_option import tuned_facts, tuned_option
from .files import FORMAT_VERSION, KIND, PREDICTIONS, REPORT, SUMMARY, UNKNOWN, Answers, check_out, predictions_csv
from .images import list_support
from .inputs import Inputs, name_of, read_inputs
from .page import render_report
from .table import classification_report, unknown_words
from .view import gather_view

__all__ = ["classify"]

_SIDES = ("support", "query")

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
        help="Features to name in place of --query; labels in it are not looked at.",
    ),
    click.option(
        "--out",
        metavar="DIR",
        default="classified",
        help="The folder to write; what an earlier run wrote there is replaced.",
    ),
)

_how_options = bundle(
    click.option(
        "--extractor",
        "name",
        metavar="NAME",
        default="efficientnet_lite0",
        help="What makes features of images: a name that fewshot extractors lists, or any model of timm.",
    ),
    click.option(
        "--weights",
        metavar="FILE|random",
        show_default="the published ones",
        help="The extractor's weights on this machine.",
    ),
    click.option(
        "--option",
        "options",
        metavar="KEY=VALUE",
        multiple=True,
        help="An option of the extractor, such as readout=cls; repeatable.",
    ),
    click.option(
        "--method",
        metavar="NAME[:OPTION=VALUE,...]",
        default=DEFAULT_METHOD,
        help="How queries are answered, see fewshot methods. A transductive one answers all of them together.",
    ),
    tuned_option(is_repeatable=False),
    click.option(
        "--allow-seen-classes",
        is_flag=True,
        help="Take --tuned even if it was tuned on classes of these names: for names that mean other classes.",
    ),
    click.option(
        "--reject",
        type=click.FloatRange(0, 1, max_open=True),
        metavar="SHARE",
        default=0.05,
        help=f"Answer '{UNKNOWN}' where an image is farther from every class than all but about this share of images "
        "of these classes are; 0: never.",
    ),
    click.option(
        "--device", default="auto", **choice(DEVICES), help="Where to compute; auto takes a GPU if there is one."
    ),
    click.option("--json", "is_json", is_flag=True, help="Print one JSON document in place of tables."),
    click.option("--quiet", "is_quiet", is_flag=True, help="No progress bar on stderr."),
)


@click.command(short_help="Name your own images from a few labelled ones.")
@_what_options
@_how_options
@click.pass_context
def classify(context: click.Context, /, **settings: Any) -> None:
    """Name the class of each image in a folder, from a few labelled images of each class.

    \b
    OUT/report.html       look at this: the images by class, least sure first
    OUT/predictions.csv   a line an image: its class, probability, second choice, whether unknown
    OUT/summary.json      counts, settings, what was skipped, images that are in both folders

    One class must have two images or more for 'unknown' to be told; the more there are, the smaller --reject may be.

    \b
    Example:
      fewshot classify --support labelled/ --query unsorted/ --out classified/
      fewshot classify --support-features shots.npz --query-features store/ --method simpleshot
    """  # noqa: D301 (click's own mark)
    _check_words(context, settings)
    check_out(settings["out"])
    settings |= {"device": str(resolve_device(settings["device"]))}
    with tempfile.TemporaryDirectory(prefix="fewshot-") as scratch, output.gathered_warnings() as noticed:
        document, texts = _classified(context, settings, Path(scratch))
    document["warnings"] += noticed
    with writing_folder(settings["out"]) as folder:
        write_texts(folder, texts | {SUMMARY: output.json_text(document) + "\n"})
    output.publish(document, classification_report(document), is_json=settings["is_json"])


def _check_words(context: click.Context, settings: Mapping[str, Any]) -> None:
    """Check that each side is named one way, and the method is known."""
    for side in _SIDES:
        folder, features = settings[side], settings[f"{side}_features"]
        if folder is not None and features is not None:
            raise click.UsageError(f"give --{side} or --{side}-features, not both", context)
        if folder is None and features is None:
            raise click.UsageError(f"Missing option '--{side}' (or '--{side}-features').", context)
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    for name, word in (("name", "--extractor"), ("weights", "--weights"), ("options", "--option")):
        if name in given and settings["support"] is None and settings["query"] is None:
            raise click.UsageError(f"{word} makes features of images: give --support or --query", context)
    if settings["tuned"] is not None and "method" in given:
        raise click.UsageError("--tuned says the method: leave out --method", context)
    if settings["allow_seen_classes"] and settings["tuned"] is None:
        raise click.UsageError("--allow-seen-classes needs --tuned", context)
    try:
        build_method(settings["method"])
    except ValueError as error:
        raise click.BadParameter(str(error), context, param_hint="'--method'") from None


def _classified(
    context: click.Context, settings: dict[str, Any], scratch: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the summary, and the texts of the other files."""
    tuned = _tuned(settings)
    settings |= {} if tuned is None else {"method": tuned.text}
    with output.Progress("images", is_quiet=settings["is_quiet"], remark="; nothing was written") as progress:
        inputs = read_inputs(settings, scratch, progress)
        if tuned is not None:
            warn_of_other_features(tuned, inputs.support.source)
        model = _fitted(inputs.support, settings)
        answers = _answered(model, inputs, settings)
        view = gather_view(inputs, answers, progress)
    document = document_head(context) | _document(settings, inputs, model, answers)
    document["tuned"] = None if tuned is None else tuned_facts(tuned, inputs.support.class_names)
    document["warnings"] = [*inputs.warnings, *view.notes, *_warnings(context, document)]
    texts = {PREDICTIONS: predictions_csv(inputs.query, answers), REPORT: render_report(document, view)}
    return document, texts


def _tuned(settings: Mapping[str, Any]) -> FittedMethod | None:
    """Read a tuned method; refuse it, before any image is decoded, for classes that it was tuned on."""
    if settings["tuned"] is None:
        return None
    if settings["support"] is None:
        names = set(load_features(settings["support_features"]).labelled().class_names)
    else:
        names = {f"{record.label}" for record in list_support(settings["support"])}
    tuned = tuned_method(settings["tuned"])
    check_unseen(tuned, sorted(names), allow_seen_classes=settings["allow_seen_classes"])
    return tuned


def _fitted(support: FeatureSet, settings: Mapping[str, Any]) -> FewShotClassifier:
    if settings["reject"] and UNKNOWN in support.class_names:
        raise ValueError(f"a class is named {UNKNOWN!r}, as are images of no class: rename it, or give --reject 0")
    check_columns({settings["method"]: build_method(settings["method"])}, support)
    model = FewShotClassifier(settings["method"]).fit(support.features.to(settings["device"]), support.labels)
    is_possible = bool(is_rejected(smallest_share(model.calibration_scores_), settings["reject"]))
    model.set_params(reject=settings["reject"] if is_possible else None)
    return model


def _answered(model: FewShotClassifier, inputs: Inputs, settings: Mapping[str, Any]) -> Answers:
    top = model.predict_proba(inputs.query.features).topk(2)
    p_value = model.known_p_values(inputs.query.features)
    is_unknown = is_rejected(p_value, settings["reject"])
    best, second = top.indices.unbind(-1)
    probability, second_probability = top.values.unbind(-1)
    return Answers(inputs.support.class_names, best, second, probability, second_probability, p_value, is_unknown)


def _document(
    settings: Mapping[str, Any], inputs: Inputs, model: FewShotClassifier, answers: Answers
) -> dict[str, Any]:
    source = inputs.support.source
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "settings": dict(settings),
        "out": settings["out"],
        "method": settings["method"],
        "method_settings": model.method_.describe(),
        "is_transductive": model.is_transductive_,
        "extractor": {"key": source.get("extractor_key"), "spec": source.get("extractor")},
        "n_support": len(inputs.support.labels),
        "n_queries": len(inputs.query.labels),
        "n_classes": inputs.support.n_classes,
        "n_unknown": int(answers.is_unknown.sum()),
        "reject": settings["reject"],
        "can_be_unknown": model.reject is not None,
        "smallest_reject": float(smallest_share(model.calibration_scores_)),
        "classes": _classes(inputs, answers),
        "skipped": inputs.skipped,
        "duplicates": inputs.duplicates,
    }


def _classes(inputs: Inputs, answers: Answers) -> list[dict[str, Any]]:
    """Return what the summary says of each class; unknown images are of none."""
    counts = dict(zip(inputs.support.class_names, inputs.support.class_counts().tolist(), strict=True))
    kept = torch.where(answers.is_unknown, -1, answers.best)
    return [
        {
            "name": name,
            "n_support": counts[name],
            **_of_class(inputs.query, answers, torch.nonzero(kept == label)[:, 0]),
        }
        for label, name in enumerate(answers.class_names)
    ]


def _of_class(query: FeatureSet, answers: Answers, rows: torch.Tensor) -> dict[str, Any]:
    if not len(rows):
        return {"n_queries": 0, "mean_probability": None, "least_sure": None}
    probability = answers.probability[rows]
    least = int(probability.argmin())
    return {
        "n_queries": len(rows),
        "mean_probability": float(probability.mean()),
        "least_sure": {"file": name_of(query, int(rows[least])), "probability": float(probability[least])},
    }


def _warnings(context: click.Context, document: Mapping[str, Any]) -> list[str]:
    """Say that nothing can be called unknown to who asked for it; the table says it to everyone."""
    is_asked = context.get_parameter_source("reject") is ParameterSource.COMMANDLINE and document["reject"]
    return [f"unknown: {unknown_words(document)}"] if is_asked and not document["can_be_unknown"] else []
