"""``fewshot cache``: compiled networks on this machine."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.table import Table

from fewshot.features.runtimes.cache import CachedNetwork, cache_folder, clear, networks

from ..shared import output
from ..shared.options import document_head, json_option
from ..shared.words import counted

__all__ = ["cache"]


@click.command()
@click.option("--clear", "is_cleared", is_flag=True, help="Remove them all; what is needed is compiled again.")
@json_option
@click.pass_context
def cache(context: click.Context, /, is_cleared: bool, is_json: bool) -> None:
    """List or clear the compiled networks on this machine.

    fewshot extract and classify compile a network once, for a runtime such as OpenVINO, and keep it in a folder of at
    most 4 GiB: $FEWSHOT_CACHE, or the user's folder of caches.

    \b
    Example:
      fewshot cache
      fewshot cache --clear
    """  # noqa: D301 (click's own mark)
    known = networks()
    n_freed = clear() if is_cleared else 0
    document = document_head(context) | {
        "warnings": [],
        "folder": str(cache_folder()),
        "networks": [_row(network) for network in known],
        "is_cleared": is_cleared,
        "n_freed_bytes": n_freed,
    }
    output.publish(document, [_summary(known, n_freed, is_cleared), *_tables(known, is_cleared)], is_json=is_json)


def _row(network: CachedNetwork) -> dict[str, Any]:
    return network._asdict() | {"folder": str(network.folder)}


def _summary(known: list[CachedNetwork], n_freed: int, is_cleared: bool) -> str:
    if is_cleared:
        return f"{n_freed / 2**20:,.1f} MiB freed in {cache_folder()}"
    n_bytes = sum(network.n_bytes for network in known)
    return f"{counted(len(known), 'network', 'networks')}, {n_bytes / 2**20:,.1f} MiB in {cache_folder()}"


def _tables(known: list[CachedNetwork], is_cleared: bool) -> list[Table]:
    if is_cleared or not known:
        return []
    table = Table("extractor", "runtime", "precision", "MiB", "last used", box=output.BOX)
    for network in known:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(network.used))
        version = network.version.partition("-")[0]
        size = f"{network.n_bytes / 2**20:.1f}"
        table.add_row(network.extractor, f"{network.runtime} {version}", network.precision, size, day)
    return [table]
