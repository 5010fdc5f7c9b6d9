"""``fewshot extract``: images in, a feature store out."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import click
from rich.console import RenderableType

from fewshot.features.extraction.batches import default_n_workers
from fewshot.features.extraction.loop import ExtractReport, RunFigures
from fewshot.features.extraction.to_store import ENGINES, Extraction, ExtractSettings, extract_store
from fewshot.features.families import extractor, parse_options, split_name
from fewshot.features.frozen import PRECISIONS, Extractor
from fewshot.features.images.rgb import NARROW, narrow_words
from fewshot.features.runtimes.choice import AUTO, RUNTIMES
from fewshot.features.store.layout import DTYPES
from fewshot.features.support_query import DEFAULT_EXTRACTOR

from ..shared import output
from ..shared.options import (
    COUNT,
    FROM_0,
    argument_default,
    bit_range_option,
    bundle,
    choice,
    device_option_with,
    document_head,
    json_option,
    pairs_option,
    process_device,
    quiet_option,
    resume_option,
    setting_option,
    weights_option,
    workers_option,
)
from ..shared.tables import fact_lines

__all__ = ["extract"]

_N_SHOWN = 5
_option = partial(setting_option, ExtractSettings)

_what_options = bundle(
    click.option("--images", metavar="DIR", required=True, help="A folder of images, or of .tar archives of them."),
    click.option(
        "--extractor",
        "name",
        metavar="NAME",
        default=DEFAULT_EXTRACTOR,
        help="What makes the features: a name that fewshot extractors lists, or any model of timm.",
    ),
    click.option("--out", metavar="DIR", required=True, help="The store's folder; one that is begun is gone on with."),
    _option(
        "labels",
        "folder|none|FILE",
        "folder: the first folder of an image's path is its class. FILE: a CSV with columns file and label. auto: "
        "folder if every image lies in one, else none.",
    ),
    weights_option("Weights on this machine; random: as the network was initialised, the baseline."),
    click.option(
        "--layer",
        "layers",
        metavar="NAME",
        multiple=True,
        help="A layer to read in place of the last; repeatable: they stand side by side in the store, STORE:LAYER is "
        "one of them.",
    ),
    pairs_option(
        "--option",
        "options",
        "An option of the extractor, such as readout=cls; repeatable; a+b is a list. fewshot extractors lists them.",
    ),
    bit_range_option,
)

_how_options = bundle(
    click.option(
        "--precision",
        default=argument_default(extractor, "precision"),
        **choice(PRECISIONS),
        help="Of the arithmetic; features of two precisions are not mixed.",
    ),
    click.option(
        "--runtime",
        default=AUTO,
        **choice(RUNTIMES),
        help="How the network runs on a CPU. auto: of many images, by the fastest runtime that is installed and agrees "
        "with torch to 1e-5, or to 0.1 in bfloat16; eager: torch itself. fewshot cache lists compiled networks.",
    ),
    _option("dtype", DTYPES, "On disk; float16 is half the size and off by 0.05 %."),
    _option("shard_size", COUNT, "Rows per file of the store."),
    _option("batch_size", COUNT, "Images at once."),
    workers_option("Processes that decode images.", show_default="half of the cores, at most 8"),
    _option(
        "engine",
        ENGINES,
        "local: this process; started by torchrun, its share of the shards. ray: the workers of a Ray cluster.",
    ),
    resume_option("Go on with a store that is begun, or delete it and start anew."),
    click.option(
        "--max-failures",
        type=FROM_0,
        metavar="N",
        show_default="any number",
        help="End with exit code 1 if more images than this could not be read.",
    ),
    device_option_with("Where to compute; auto takes a GPU."),
    json_option,
    quiet_option,
)


@click.command()
@_what_options
@_how_options
@click.pass_context
def extract(
    context: click.Context,
    /,
    images: str,
    name: str,
    out: str,
    weights: str | None,
    layers: tuple[str, ...],
    options: tuple[str, ...],
    bit_range: tuple[int, int] | None,
    precision: str,
    runtime: str,
    workers: int | None,
    is_resumed: bool,
    max_failures: int | None,
    device: str,
    is_json: bool,
    is_quiet: bool,
    **settings: Any,
) -> None:
    """Extract features from images once, into a store that every other command reads.

    A run that is stopped, even killed, goes on where it was with the same command. Images that cannot be read are
    listed, and left out when the store is read. Two runs of one store share its files; one that ends while the other is
    at work says so, with exit code 1. Under torchrun, or with RANK and WORLD_SIZE set, processes share the
    work.

    \b
    Example:
      fewshot extract --images photos/ --out store/
      fewshot episode --features store/ --method unem
    """  # noqa: D301 (click's own mark)
    place = process_device(device)
    workers = default_n_workers() if workers is None else workers
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    with output.gathered_warnings() as noticed:
        chosen = _options(name, options, layers) | {"bit_range": bit_range}
        network = extractor(name, weights, precision=precision, device=place, runtime=runtime, **chosen)
        with _bar(is_quiet) as progress:
            extraction = extract_store(
                network,
                images,
                out,
                ExtractSettings(**settings),
                n_workers=workers,
                rank=rank,
                world_size=world_size,
                is_resumed=is_resumed,
                progress=progress,
            )
    words = context.params | {"workers": workers, "rank": rank, "world_size": world_size, "device": place}
    document = document_head(context) | {"settings": words} | _document(out, network, extraction)
    document["warnings"] = [*noticed, *_warnings(extraction)]
    output.publish(document, _report(name, out, network, extraction), is_json=is_json)
    has_too_many_failures = max_failures is not None and len(extraction.failures) > max_failures
    if has_too_many_failures or extraction.run.n_elsewhere:
        context.exit(1)


def _options(name: str, options: tuple[str, ...], layers: tuple[str, ...]) -> dict[str, Any]:
    """Return the options of the extractor's family."""
    family, _ = split_name(name)
    return parse_options(family, options) | ({"layers": layers} if layers else {})


@contextmanager
def _bar(is_quiet: bool) -> Iterator[Callable[[ExtractReport], None]]:
    """Show images a second while the store is written."""
    with output.Progress("images", is_quiet=is_quiet, remark="; the same command goes on from there") as progress:
        start = time.perf_counter()

        def update(report: ExtractReport) -> None:
            if not report.n_done:
                progress.start("", report.n_todo)
            failed = f", {report.n_failed:,} failed" if report.n_failed else ""
            rate = report.n_done / (time.perf_counter() - start)
            progress.update(report.n_done, f"{rate:,.1f} images/s{failed}")

        yield update


def _document(out: str, network: Extractor, extraction: Extraction) -> dict[str, Any]:
    """Return the document, less its head, settings and warnings."""
    run, head = extraction.run, extraction.store.head
    return {
        "extractor": {
            "key": network.key,
            "runtime": network.runtime,
            "n_features": network.n_features,
            "spec": network.spec,
            "about": network.about,
        },
        "store": {
            "path": out,
            "is_finished": extraction.is_finished,
            "n_images": head.n_images,
            "n_shards": head.n_shards,
            "class_names": head.class_names,
            "dtype": head.dtype,
        },
        "run": {**run._asdict(), "images_per_second": run.n_done / run.seconds if run.n_done else None},
        "failures": [failure._asdict() for failure in extraction.failures],
        "notes": extraction.notes,
        "left_out": extraction.left_out.as_document(),
    }


def _warnings(extraction: Extraction) -> list[str]:
    """Build the warnings about unreadable images and locked shards."""
    failures, n_elsewhere = extraction.failures, extraction.run.n_elsewhere
    warnings = []
    if extraction.left_out.unread:
        warnings.append(f"images of kinds that are not read are left out: {extraction.left_out.unread_words()}")
    if NARROW in extraction.notes:
        warnings.append(narrow_words(extraction.notes[NARROW]).format(bit_range="--bit-range LOW:HIGH"))
    if failures:
        codes = Counter(failure.code for failure in failures)
        counts = ", ".join(f"{count:,} {code}" for code, count in sorted(codes.items()))
        named = "; ".join(failure.text for failure in failures[:_N_SHOWN])
        more = "; fewshot inspect lists all" if len(failures) > _N_SHOWN else ""
        warnings.append(f"{len(failures):,} images could not be read and are left out ({counts}): {named}{more}")
    if n_elsewhere:
        warnings.append(
            f"another process is at work on {n_elsewhere:,} images of this store, unfinished here: wait for it"
        )
    return warnings


def _report(name: str, out: str, network: Extractor, extraction: Extraction) -> list[RenderableType]:
    head = extraction.store.head
    facts = [
        ("store", f"{out}: {head.n_images:,} images, {len(head.class_names):,} classes, {head.n_features:,} features, "
                  f"{head.dtype}, {head.n_shards:,} shards"),
        ("extractor", f"{name} (key {network.key[:12]})"),
        ("this run", _run_line(extraction.run, network.runtime)),
    ]  # fmt: skip
    facts += [("treated", f"{count:,} images: {note}") for note, count in sorted(extraction.notes.items())]
    if extraction.left_out.n:
        facts.append(("left out", extraction.left_out.words()))
    if extraction.is_finished:
        facts.append(("use it", f"fewshot episode --features {out} --method unem"))
    return ["Features extracted" if extraction.is_finished else "Features extracted in part", *fact_lines(facts)]


def _run_line(run: RunFigures, runtime: str) -> str:
    if not run.n_done and run.n_elsewhere:
        return (
            f"nothing: another process is at work on {run.n_elsewhere:,} images; {run.n_found_done:,} were done before"
        )
    if not run.n_done:
        return f"nothing to do: {run.n_found_done:,} images were done before"
    before = f"; {run.n_found_done:,} were done before" if run.n_found_done else ""
    waiting = 100 * run.seconds_waiting / run.seconds
    return (
        f"{run.n_done:,} images in {run.seconds:,.1f} s, {run.n_done / run.seconds:,.1f} a second by "
        f"{runtime}, {waiting:.0f} % of the time spent waiting for decoded images{before}"
    )
