"""``fewshot distill``: features from unlabelled images, by a student that its own running average teaches."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import click
import torch

from fewshot.distillation.training.monitor import CollapseError
from fewshot.distributed import rank
from fewshot.image_distillation import DistillResult, DistillRun, DistillSettings, plan
from fewshot.image_distillation.settings import parse_changes
from fewshot.image_distillation.stream import default_n_workers
from fewshot.parsing import guess_value, split_option

from ..shared import output
from ..shared.options import check_folder, document_head, process_device, refuse_unused, usage_errors
from .document import distillation_document
from .options import run_options, score_options, training_options, view_options, what_options
from .progress import Bars
from .table import distillation_report

__all__ = ["distill"]

_SUFFIX = ".safetensors"
_INTERRUPTED = 130
# The first process scores features while the others wait for it.
_PATIENCE = timedelta(hours=6)


@click.command()
@what_options
@view_options
@training_options
@score_options
@run_options
@click.pass_context
def distill(
    context: click.Context,
    /,
    images: str,
    out: str,
    evaluate: str | None,
    workers: int | None,
    device: str,
    is_overwritten: bool,
    is_resumed: bool,
    is_json: bool,
    is_quiet: bool,
    **words: Any,
) -> None:
    """Learn features from images without labels, and write a network that fewshot extract reads.

    Worth it where frozen features do not tell your classes apart, best from weights that are good already. A run that
    is stopped, even killed, goes on with the same command, after the last epoch kept beside --out, such as in
    student.state.safetensors. One whose features collapse is stopped, and says what to change. Under torchrun,
    processes share each batch.

    \b
    Example:
      fewshot distill --images photos/ --init mugs_vit_small.pth --epochs 20 --out own.safetensors
      fewshot extract --images photos/ --extractor distilled --weights own.safetensors --out store/
    """  # noqa: D301 (click's own mark)
    _check_out(context, out, is_overwritten)
    chosen = _settings(context, **words)
    needs_labels = (chosen.labels != "none", "needs labels, and --labels is none")
    refuse_unused(context, {"evaluate": needs_labels, "n_scored": needs_labels})
    place, n_workers = process_device(device), default_n_workers() if workers is None else workers
    with _processes(place):
        with output.gathered_warnings() as early:
            run = DistillRun(
                plan(images, chosen, evaluate=evaluate), out, device=place, n_workers=n_workers, is_resumed=is_resumed
            )
        if rank() == 0 and not is_json:
            for warning in early:  # before hours of work
                output.message(f"Warning: {warning}")
        with output.gathered_warnings() as late:
            result = _result(run, is_quiet=is_quiet)
        number = rank()
    used = context.params | {
        "backbone": run.plan.settings.backbone,
        "freeze_epochs": run.plan.settings.freeze_epochs,
        "workers": n_workers,
        "device": place,
        "rank": number,
    }
    inputs = f"--images {shlex.quote(images)} --extractor distilled --weights {shlex.quote(out)}"
    next_command = f"fewshot extract {inputs} --out store/"
    document = document_head(context) | distillation_document(used, run.plan, result, out, next_command)
    document["warnings"] = [*(early if is_json else ()), *document["warnings"], *late]
    if number == 0:
        output.publish(document, distillation_report(run.plan, result, out, next_command), is_json=is_json)


def _settings(
    context: click.Context, method: str, options: tuple[str, ...], changes: tuple[str, ...], **words: Any
) -> DistillSettings:
    with usage_errors(context):
        return DistillSettings(
            method=method,
            options={key: guess_value(text) for key, text in map(split_option, options)},
            changes=parse_changes(changes, method),
            **words,
        )


def _check_out(context: click.Context, out: str, is_overwritten: bool) -> None:
    if not out.endswith(_SUFFIX):
        raise click.UsageError(f"--out must end in {_SUFFIX}, got {out}", context)
    check_folder(out)
    if os.path.exists(out) and not is_overwritten:
        raise click.UsageError(f"{out} exists: give another --out, or --overwrite", context)


@contextmanager
def _processes(device: str) -> Iterator[None]:
    """Join the other processes where torchrun has started several."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    is_gpu = device.startswith("cuda")
    if is_gpu:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if is_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _result(run: DistillRun, *, is_quiet: bool) -> DistillResult:
    """Run a plan with bars; only the first process reports errors."""
    try:
        with Bars(run.plan.settings.batch_size, is_quiet=is_quiet or rank() > 0) as bars:
            return run(bars)
    except KeyboardInterrupt as interrupt:
        if rank() > 0:
            raise click.exceptions.Exit(_INTERRUPTED) from None
        raise KeyboardInterrupt(f"{str(interrupt) or 'Interrupted'}{_remark(run)}") from None
    except (CollapseError, FloatingPointError) as error:
        if rank() > 0:
            raise click.exceptions.Exit(1) from error
        raise click.ClickException(f"{error}; nothing was written, and this run does not go on") from error


def _remark(run: DistillRun) -> str:
    """Describe the state that a run stopped now leaves behind."""
    if not run.state.n_steps:
        return "; nothing was written"
    epoch = run.state.n_steps // run.plan.steps_per_epoch
    return f"; the same command goes on after epoch {epoch:,}, which {run.state.path} has"
