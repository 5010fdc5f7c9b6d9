"""``fewshot extract``: images in, a feature store out."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import click
from rich.console import RenderableType

from fewshot.features.extraction.loop import Extraction, extract_shards, prepare_store
from fewshot.features.extraction.ray import extract_on_ray
from fewshot.features.families import extractor, parse_options, split_name
from fewshot.features.frozen import PRECISIONS, Extractor
from fewshot.features.store.layout import DTYPES, StoreFolder
from fewshot.features.store.writing import delete_store

from ..shared import output
from ..shared.options import DEVICES, bundle, choice, document_head, resolve_device
from ..shared.tables import fact_lines

__all__ = ["extract"]

_COUNT = click.IntRange(min=1)
_N_SHOWN = 5
ENGINES = ("local", "ray")

_what_options = bundle(
    click.option("--images", metavar="DIR", required=True, help="A folder of images, or of .tar archives of them."),
    click.option(
        "--extractor",
        "name",
        metavar="NAME",
        default="efficientnet_lite0",
        help="What makes the features: a name that fewshot extractors lists, or any model of timm.",
    ),
    click.option("--out", metavar="DIR", required=True, help="The store's folder; one that is begun is gone on with."),
    click.option(
        "--labels",
        metavar="folder|none|FILE",
        default="auto",
        help="folder: the first folder of an image's path is its class. FILE: a CSV with columns file and label. auto: "
        "folder if every image lies in one, else none.",
    ),
    click.option(
        "--weights",
        metavar="FILE|random",
        show_default="the published ones",
        help="Weights on this machine; random: as the network was initialised, the baseline.",
    ),
    click.option(
        "--layer",
        "layers",
        metavar="NAME",
        multiple=True,
        help="A layer to read in place of the last; repeatable: they stand side by side in the store, STORE:LAYER is "
        "one of them.",
    ),
    click.option(
        "--option",
        "options",
        metavar="KEY=VALUE",
        multiple=True,
        help="An option of the extractor, such as readout=cls; repeatable; a+b is a list. fewshot extractors lists "
        "them.",
    ),
)

_how_options = bundle(
    click.option(
        "--precision",
        default="float32",
        **choice(PRECISIONS),
        help="Of the arithmetic; features of two precisions are not mixed.",
    ),
    click.option(
        "--dtype", default="float16", **choice(DTYPES), help="On disk; float16 is half the size and off by 0.05 %."
    ),
    click.option("--shard-size", type=_COUNT, metavar="N", default=4096, help="Rows per file of the store."),
    click.option("--batch-size", type=_COUNT, metavar="N", default=64, help="Images at once."),
    click.option(
        "--workers",
        type=click.IntRange(min=0),
        metavar="N",
        show_default="half of the cores, at most 8",
        help="Processes that decode images.",
    ),
    click.option(
        "--engine",
        default="local",
        **choice(ENGINES),
        help="local: this process; started by torchrun, its share of the shards. ray: the workers of a Ray cluster.",
    ),
    click.option(
        "--resume/--no-resume",
        "is_resumed",
        default=True,
        help="Go on with a store that is begun, or delete it and start anew.",
    ),
    click.option(
        "--max-failures",
        type=click.IntRange(min=0),
        metavar="N",
        show_default="any number",
        help="End with exit code 1 if more images than this could not be read.",
    ),
    click.option("--device", default="auto", **choice(DEVICES), help="Where to compute; auto takes a GPU."),
    click.option("--json", "is_json", is_flag=True, help="Print one JSON document in place of tables."),
    click.option("--quiet", "is_quiet", is_flag=True, help="No progress bar on stderr."),
)


@click.command(short_help="Extract features from a folder of images.")
@_what_options
@_how_options
@click.pass_context
def extract(context: click.Context, /, **settings: Any) -> None:
    """Extract features from images once, into a store that every other command reads.

    A run that is stopped, even killed, goes on where it was with the same command. Images that cannot be read are
    listed, and left out when the store is read. Under torchrun, or with RANK and WORLD_SIZE set, processes share the
    work.

    \b
    Example:
      fewshot extract --images photos/ --out store/
      fewshot episode --features store/ --method unem
    """  # noqa: D301 (click's own mark)
    settings = _resolved(settings)
    with output.gathered_warnings() as noticed:
        document = document_head(context) | _extracted(settings)
    document["warnings"] = [*noticed, *_failure_warnings(document)]
    output.publish(document, _report(document), is_json=settings["is_json"])
    if settings["max_failures"] is not None and len(document["failures"]) > settings["max_failures"]:
        context.exit(1)


def _resolved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what depends on the machine and on who started the process."""
    n_workers = settings["workers"]
    if n_workers is None:
        n_workers = min(8, max(1, (os.cpu_count() or 1) // 2))
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = str(resolve_device(settings["device"]))
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return {**settings, "workers": n_workers, "rank": rank, "world_size": world_size, "device": device}


def _extracted(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the document, less its head and warnings."""
    recipe = _recipe(settings)
    made = extractor(settings["name"], **recipe, device=settings["device"])
    if not settings["is_resumed"]:
        delete_store(settings["out"])
    store = prepare_store(made, **{name: settings[name] for name in ("images", "out", "labels", "dtype", "shard_size")})
    run = _run(made, recipe, store, settings)
    failures, notes = _outcomes(store)
    return {
        "settings": settings,
        "extractor": {"key": made.key, "n_features": made.n_features, "spec": made.spec, "about": made.about},
        "store": {
            "path": settings["out"],
            "is_finished": len(store.done_shards()) == store.head.n_shards,
            **{name: getattr(store.head, name) for name in ("n_images", "n_shards", "class_names", "dtype")},
        },
        "run": {**run._asdict(), "images_per_second": run.n_done / run.seconds if run.n_done else None},
        "failures": failures,
        "notes": notes,
    }


def _recipe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `extractor` takes besides the name."""
    family, _ = split_name(settings["name"])
    options = parse_options(family, settings["options"])
    if settings["layers"]:
        options["layers"] = settings["layers"]
    return {**{name: settings[name] for name in ("weights", "precision")}, **options}


def _run(made: Extractor, recipe: dict[str, Any], store: StoreFolder, settings: Mapping[str, Any]) -> Extraction:
    shards = range(settings["rank"], store.head.n_shards, settings["world_size"])
    n_todo = sum(store.head.n_rows(shard) for shard in shards if not store.is_done(shard))
    shared = {"batch_size": settings["batch_size"], "n_workers": settings["workers"]}
    remark = "; the same command goes on from there"
    with output.Progress("images", is_quiet=settings["is_quiet"], remark=remark) as progress:
        progress.start("", n_todo)
        start = time.perf_counter()

        def update(n_done: int, n_failed: int) -> None:
            failed = f", {n_failed:,} failed" if n_failed else ""
            progress.update(n_done, f"{n_done / (time.perf_counter() - start):,.1f} images/s{failed}")

        if settings["engine"] == "ray":
            return extract_on_ray(
                settings["name"], recipe, store, shards, **shared, device=settings["device"], progress=update
            )
        return extract_shards(made, store, shards, **shared, progress=update)


def _outcomes(store: StoreFolder) -> tuple[list[dict[str, str]], dict[str, int]]:
    """Return the images that could not be read, and how many needed what treatment."""
    failures, notes = [], Counter[str]()
    for shard in store.done_shards():
        record = store.record(shard)
        notes.update(note for texts in record.notes.values() for note in texts)
        images = store.images(shard) if record.failures else []
        failures += [
            {"id": images[row].id, "code": code, "text": text} for row, (code, text) in record.failures.items()
        ]
    return failures, dict(notes)


def _failure_warnings(document: Mapping[str, Any]) -> list[str]:
    """Return what is to be said of images without features, and of shards that others work on."""
    failures, n_elsewhere = document["failures"], document["run"]["n_elsewhere"]
    warnings = []
    if failures:
        codes = Counter(failure["code"] for failure in failures)
        counts = ", ".join(f"{count:,} {code}" for code, count in sorted(codes.items()))
        named = "; ".join(failure["text"] for failure in failures[:_N_SHOWN])
        more = "; fewshot inspect lists all" if len(failures) > _N_SHOWN else ""
        warnings.append(f"{len(failures):,} images could not be read and are left out ({counts}): {named}{more}")
    if n_elsewhere:
        warnings.append(f"another process is at work on {n_elsewhere:,} images of this store")
    return warnings


def _report(document: Mapping[str, Any]) -> list[RenderableType]:
    store, run, made = document["store"], document["run"], document["extractor"]
    facts = [
        ("store", f"{store['path']}: {store['n_images']:,} images, {len(store['class_names']):,} classes, "
                  f"{made['n_features']:,} features, {store['dtype']}, {store['n_shards']:,} shards"),
        ("extractor", f"{document['settings']['name']} (key {made['key'][:12]})"),
        ("this run", _run_line(run)),
    ]  # fmt: skip
    facts += [("treated", f"{count:,} images: {note}") for note, count in sorted(document["notes"].items())]
    if store["is_finished"]:
        facts.append(("use it", f"fewshot episode --features {store['path']} --method unem"))
    return ["Features extracted" if store["is_finished"] else "Features extracted in part", *fact_lines(facts)]


def _run_line(run: Mapping[str, Any]) -> str:
    if not run["n_done"]:
        return f"nothing to do: {run['n_found_done']:,} images were done before"
    before = f"; {run['n_found_done']:,} were done before" if run["n_found_done"] else ""
    waiting = 100 * run["seconds_waiting"] / run["seconds"]
    return (
        f"{run['n_done']:,} images in {run['seconds']:,.1f} s, {run['images_per_second']:,.1f} a second, "
        f"{waiting:.0f} % of the time spent waiting for decoded images{before}"
    )
