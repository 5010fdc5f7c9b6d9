"""``fewshot inspect``: the contents and origin of features, and a map of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fewshot.features.inspection import Inspection, PoolFacts, StoreFacts, describe_features, inspect_features
from fewshot.features.map2d import draw_map

from ..shared import output
from ..shared.options import FROM_0, argument_default, check_folder, document_head, json_option, labels_option
from ..shared.tables import fact_lines

__all__ = ["inspect"]

_OF_HEAD = (
    *("n_images", "n_features", "n_shards", "shard_size", "dtype", "images_root"),
    *("extractor", "extractor_key", "columns", "about"),
)


@click.command()
@click.argument("features", metavar="STORE|FILE")
@labels_option("Labels in place of the file's own.")
@click.option("--verify", "is_verified", is_flag=True, help="Read every shard of a store and compare its checksum.")
@click.option("--plot", metavar="FILE", help="Draw a map in two dimensions (t-SNE): .png, .svg or .pdf.")
@click.option(
    "--rows",
    "n_rows",
    type=click.IntRange(min=3),
    metavar="N",
    default=argument_default(draw_map, "n_rows"),
    help="Rows on the map, drawn at random.",
)
@click.option("--seed", type=FROM_0, metavar="N", default=argument_default(draw_map, "seed"), help="Decides the map.")
@json_option
@click.pass_context
def inspect(
    context: click.Context,
    /,
    features: str,
    labels: str | None,
    is_verified: bool,
    plot: str | None,
    n_rows: int,
    seed: int,
    is_json: bool,
) -> None:
    """Say what is in a feature store or file and how it was made.

    For a store: the extractor's whole specification, how much is done, the images that could not be read and why.

    \b
    Example:
      fewshot inspect store/ --verify --plot map.png
    """  # noqa: D301 (click's own mark)
    if plot is not None:
        check_folder(plot)
    if is_verified and not Path(features).is_dir():
        raise click.UsageError(f"--verify reads the checksums of a store's folder, and {features} is not one")
    with output.gathered_warnings() as noticed:
        found = inspect_features(features, labels=labels, is_verified=is_verified)
        if plot is not None:
            _draw(found, features, plot, n_rows, seed)
        pool = None if found.pool is None else describe_features(found.pool)
    document = document_head(context) | {
        "settings": context.params,
        "store": found.store and _store_document(found.store),
        "pool": pool and pool._asdict(),
        "damaged_shards": found.damaged_shards,
        "warnings": noticed,
    }
    verdict = _verdict(found.damaged_shards) if is_verified else None
    facts = [*_pool_facts(pool), *_store_facts(found.store), *_facts(verified=verdict, map=plot)]
    output.publish(document, [features, *fact_lines(facts)], is_json=is_json)
    if found.damaged_shards:
        context.exit(1)


def _draw(found: Inspection, features: str, plot: str, n_rows: int, seed: int) -> None:
    if found.pool is None:
        raise ValueError(f"{features} is not finished: run the command that made it again before you draw it")
    draw_map(found.pool, plot, title=features, n_rows=n_rows, seed=seed)


def _store_document(store: StoreFacts) -> dict[str, Any]:
    return {
        **{name: getattr(store.head, name) for name in _OF_HEAD},
        "n_shards_done": store.n_shards_done,
        "failures": [failure._asdict() for failure in store.failures],
    }


def _verdict(damaged_shards: list[int]) -> str:
    return f"DAMAGED: shards {damaged_shards}" if damaged_shards else "every shard is as it was written"


def _facts(**facts: str | None) -> list[tuple[str, str]]:
    """Return the facts that there are."""
    return [(label, text) for label, text in facts.items() if text is not None]


def _pool_facts(pool: PoolFacts | None) -> list[tuple[str, str]]:
    if pool is None:
        return []
    counts, norms = pool.classes.values(), pool.norms
    facts = [("rows", f"{pool.n:,} of {pool.n_features:,} features, {pool.n_unlabelled:,} without a label")]
    if counts:
        facts.append(("classes", f"{len(counts):,} of {min(counts):,} to {max(counts):,} rows"))
    norm = f"norms {norms['min']:.4g} to {norms['max']:.4g}, mean {norms['mean']:.4g}"
    return [*facts, ("values", f"{norm}; {100 * pool.share_of_zeros:.1f} % zeros")]


def _store_facts(store: StoreFacts | None) -> list[tuple[str, str]]:
    if store is None:
        return []
    head = store.head
    facts = [
        ("store", f"{head.n_images:,} images of {head.images_root}, {head.dtype}, "
                  f"{store.n_shards_done:,} of {head.n_shards:,} shards done"),
        ("key", head.extractor_key),
    ]  # fmt: skip
    facts += [("extractor", f"{name}: {value}") for name, value in head.extractor.items()]
    facts += [("about", f"{name}: {value}") for name, value in head.about.items()]
    facts += [("columns", f"{start} to {stop - 1}: {layer}") for layer, (start, stop) in head.columns.items()]
    return facts + [("failed", failure.text) for failure in store.failures]
