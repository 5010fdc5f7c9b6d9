"""``fewshot inspect``: what features are, how they were made, and a picture of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import RenderableType

from fewshot.features import FeatureSet, load_features
from fewshot.features.store.layout import StoreFolder

from ..shared import output
from ..shared.options import check_folder, document_head, json_option
from ..shared.tables import fact_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["inspect"]

_N_IN_LEGEND = 20


@click.command(short_help="Say what features are and how they were made; draw them.")
@click.argument("features", metavar="STORE|FILE")
@click.option("--labels", metavar="FILE", help="Labels in place of the file's own.")
@click.option("--verify", "is_verified", is_flag=True, help="Read every shard of a store and compare its checksum.")
@click.option("--plot", metavar="FILE", help="Draw a map in two dimensions (t-SNE): .png, .svg or .pdf.")
@click.option(
    "--rows", "n_rows", type=click.IntRange(min=3), metavar="N", default=2000, help="Rows on the map, drawn at random."
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", default=0, help="Decides the map.")
@json_option
@click.pass_context
def inspect(context: click.Context, /, **settings: Any) -> None:
    """Say what is in a feature store or file and how it was made.

    For a store: the extractor's whole specification, how much is done, the images that could not be read and why.

    \b
    Example:
      fewshot inspect store/ --verify --plot map.png
    """  # noqa: D301 (click's own mark)
    if settings["plot"] is not None:
        check_folder(settings["plot"])
    with output.gathered_warnings() as noticed:
        document = document_head(context) | _inspected(settings)
    document["warnings"] = noticed
    output.publish(document, _report(document), is_json=settings["is_json"])
    if document["damaged_shards"]:
        context.exit(1)


def _inspected(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document, less its head and warnings."""
    path = settings["features"]
    store = StoreFolder(path) if Path(path).is_dir() else None
    if store is None and settings["is_verified"]:
        raise click.UsageError(f"--verify reads the checksums of a store's folder, and {path} is not one")
    is_finished = store is None or len(store.done_shards()) == store.head.n_shards
    if not is_finished and settings["plot"] is not None:
        raise ValueError(f"{path} is not finished: run the command that made it again before you draw it")
    pool = load_features(path, labels=settings["labels"]) if is_finished else None
    if pool is not None and settings["plot"] is not None:
        _draw(pool, settings)
    return {
        "settings": dict(settings),
        "store": None if store is None else _told(store),
        "pool": None if pool is None else _described(pool),
        "damaged_shards": store.damaged_shards() if store is not None and settings["is_verified"] else [],
    }


def _told(store: StoreFolder) -> dict[str, Any]:
    """Return what a store says of itself."""
    head, done = store.head, store.done_shards()
    failures = [
        {"id": store.images(shard)[row].id, "code": failure.code, "text": failure.text}
        for shard in done
        for row, failure in store.record(shard).failures.items()
    ]
    return {
        **{name: getattr(head, name) for name in ("n_images", "n_features", "n_shards", "shard_size", "dtype")},
        **{name: getattr(head, name) for name in ("images_root", "extractor", "extractor_key", "columns", "about")},
        "n_shards_done": len(done),
        "failures": failures,
    }


def _described(pool: FeatureSet) -> dict[str, Any]:
    n, n_features = pool.features.shape
    norms = pool.features.norm(dim=1)
    return {
        "n": n,
        "n_features": n_features,
        "n_unlabelled": int((pool.labels < 0).sum()),
        "classes": dict(zip(pool.class_names, pool.class_counts().tolist(), strict=True)),
        "norms": {"min": float(norms.min()), "mean": float(norms.mean()), "max": float(norms.max())},
        "share_of_zeros": float((pool.features == 0).float().mean()),
        "source": dict(pool.source),
    }


def _report(document: Mapping[str, Any]) -> list[RenderableType]:
    store, pool = document["store"], document["pool"]
    facts = [] if pool is None else _pool_facts(pool)
    facts += [] if store is None else _store_facts(store)
    if document["settings"]["is_verified"]:
        damaged = document["damaged_shards"]
        facts.append(("verified", f"DAMAGED: shards {damaged}" if damaged else "every shard is as it was written"))
    if document["settings"]["plot"] is not None:
        facts.append(("map", document["settings"]["plot"]))
    return [document["settings"]["features"], *fact_lines(facts)]


def _pool_facts(pool: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts, norms = pool["classes"].values(), pool["norms"]
    facts = [("rows", f"{pool['n']:,} of {pool['n_features']:,} features, {pool['n_unlabelled']:,} without a label")]
    if counts:
        facts.append(("classes", f"{len(counts):,} of {min(counts):,} to {max(counts):,} rows"))
    norm = f"norms {norms['min']:.4g} to {norms['max']:.4g}, mean {norms['mean']:.4g}"
    return [*facts, ("values", f"{norm}; {100 * pool['share_of_zeros']:.1f} % zeros")]


def _store_facts(store: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("store", f"{store['n_images']:,} images of {store['images_root']}, {store['dtype']}, "
                  f"{store['n_shards_done']:,} of {store['n_shards']:,} shards done"),
        ("key", store["extractor_key"]),
    ]  # fmt: skip
    facts += [("extractor", f"{name}: {value}") for name, value in store["extractor"].items()]
    facts += [("about", f"{name}: {value}") for name, value in store["about"].items()]
    facts += [("columns", f"{start} to {stop - 1}: {layer}") for layer, (start, stop) in store["columns"].items()]
    return facts + [("failed", failure["text"]) for failure in store["failures"]]


def _draw(pool: FeatureSet, settings: Mapping[str, Any]) -> None:
    """Draw the map, a colour for each class."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('a map is drawn by matplotlib: pip install "fewshot[plots]"') from error
    from fewshot.features.map2d import map_in_2d

    rows, places = map_in_2d(pool, n_rows=settings["n_rows"], seed=settings["seed"])
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.add_subplot()
    _scatter(axes, places, pool.labels[rows].numpy(), pool.class_names)
    axes.set(title=f"{settings['features']}: {len(rows):,} of {len(pool.labels):,} rows", xticks=[], yticks=[])
    figure.savefig(settings["plot"], dpi=150)


def _scatter(axes: Axes, places: Any, labels: Any, names: tuple[str, ...]) -> None:
    from matplotlib import colormaps

    colours = colormaps["tab20" if len(names) <= _N_IN_LEGEND else "gist_rainbow"].resampled(max(1, len(names)))
    unlabelled = places[labels < 0]
    axes.scatter(unlabelled[:, 0], unlabelled[:, 1], s=6, color="0.75", label="unlabelled" if len(unlabelled) else None)
    for class_id, name in enumerate(names):
        members = places[labels == class_id]
        axes.scatter(members[:, 0], members[:, 1], s=8, color=colours(class_id), label=name)
    if len(names) <= _N_IN_LEGEND:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
