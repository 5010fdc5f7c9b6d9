"""``fewshot distill``: features from unlabelled images, by a student that its own running average teaches."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import click
import torch
from click.core import ParameterSource

from fewshot.distillation.training.health import Health
from fewshot.distillation.training.monitor import CollapseError
from fewshot.distillation.training.state import DistillationTrace, StepReport
from fewshot.distributed import world_size
from fewshot.image_distillation.backbones import image_extractor

from ..shared import output
from ..shared.options import check_folder, document_head, resolve_device
from ..shared.words import counted
from .options import run_options, score_options, training_options, view_options, what_options
from .run import Plan, all_failures, prepare
from .scores import ScoredImages, Scores, choose_images, score
from .settings import SAME_AS, key_and_value
from .table import distillation_report

__all__ = ["distill"]

_BACKBONE = "vit_small_patch16_224"
_SUFFIX = ".safetensors"
_N_SHOWN = 5
_MOST_WORKERS = 16
_INTERRUPTED = 130
# The first process scores features while the others wait for it.
_PATIENCE = timedelta(hours=6)


@click.command(short_help="Learn features from unlabelled images.")
@what_options
@view_options
@training_options
@score_options
@run_options
@click.pass_context
def distill(context: click.Context, /, **words: Any) -> None:
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
    _check_applicable(context, words)
    words = _resolved(words)
    _check_out(context, words)
    with _processes(words):
        with output.gathered_warnings() as early:
            plan, images = prepare(words), _scored_images(words)
        if not words["is_json"]:
            _tell(early, words)
        with output.gathered_warnings() as late:
            document = document_head(context) | _distilled(words, plan, images)
    document["warnings"] += late
    if words["is_json"]:
        document["warnings"] = early + document["warnings"]
    if words["rank"] == 0:
        output.publish(document, distillation_report(document), is_json=words["is_json"])


def _tell(warnings: list[str], words: Mapping[str, Any]) -> None:
    """Say what is to be known before hours of work; with ``--json`` the document has it."""
    for warning in warnings if words["rank"] == 0 else ():
        output.message(f"Warning: {warning}")


# What is checked before any work


def _check_applicable(context: click.Context, words: Mapping[str, Any]) -> None:
    """Refuse options that would do nothing, or contradict each other."""
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if words["method"] == "cmd" and "memory" in given:
        raise click.UsageError("--memory is of mugs: cmd remembers no images", context)
    if words["n_local"] == 0 and "local_size" in given:
        raise click.UsageError("--local-size needs local crops, and --n-local is 0", context)
    if words["labels"] == "none" and given & {"evaluate", "n_scored"}:
        raise click.UsageError("--evaluate and --n-scored need labels, and --labels is none", context)
    for name in ("warmup_epochs", "freeze_epochs"):
        if words[name] is not None and words[name] >= words["epochs"]:
            flag = _flag(context, name)
            raise click.UsageError(f"{flag} must be less than --epochs, {words['epochs']}, got {words[name]}", context)
    for key, _ in map(key_and_value, words["changes"]):
        if SAME_AS.get(key) in given:
            raise click.UsageError(f"give {_flag(context, SAME_AS[key])} or --set {key}, not both", context)


def _flag(context: click.Context, name: str) -> str:
    """Return an option as people write it."""
    return next(parameter.opts[0] for parameter in context.command.params if parameter.name == name)


def _resolved(words: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what depends on the machine, on other words, and on who started the process."""
    rank = int(os.environ.get("RANK", 0)) if _is_shared() else 0
    resolved = {**words, "device": str(resolve_device(words["device"])), "rank": rank}
    if words["workers"] is None:
        n_cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        resolved["workers"] = min(_MOST_WORKERS, max(0, n_cores - 1))
    if resolved["device"] == "cuda":
        resolved["device"] = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    if words["backbone"] is None and words["init"] in ("random", "published"):
        resolved["backbone"] = _BACKBONE
    if words["freeze_epochs"] is None:
        resolved["freeze_epochs"] = min(1, words["epochs"] // 10)
    return resolved


def _check_out(context: click.Context, words: Mapping[str, Any]) -> None:
    out = words["out"]
    if not out.endswith(_SUFFIX):
        raise click.UsageError(f"--out must end in {_SUFFIX}, got {out}", context)
    check_folder(out)
    if os.path.exists(out) and not words["is_overwritten"]:
        raise click.UsageError(f"{out} exists: give another --out, or --overwrite", context)


def _scored_images(words: Mapping[str, Any]) -> ScoredImages | None:
    """Return the images to score on, in the first process alone.

    Raises
    ------
    ValueError
        If scores were asked for and there are none.
    """
    if words["labels"] == "none" or words["rank"] > 0:
        return None
    folder = words["evaluate"] or words["images"]
    images = choose_images(folder, words["labels"], words["n_scored"], seed=words["seed"])
    if images is None and (words["evaluate"], words["labels"]) != (None, "auto"):
        raise ValueError(
            f"scores need two classes with two images each, which those drawn from {folder} are not: give --labels "
            "none, more images or a larger --n-scored"
        )
    return images


def _is_shared() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def _processes(words: Mapping[str, Any]) -> Iterator[None]:
    """Join the other processes where torchrun has started several."""
    if not _is_shared():
        yield
        return
    is_gpu = words["device"].startswith("cuda")
    if is_gpu:
        torch.cuda.set_device(words["device"])
    torch.distributed.init_process_group("nccl" if is_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


# What is done


def _distilled(words: Mapping[str, Any], plan: Plan, images: ScoredImages | None) -> dict[str, Any]:
    """Train and write the network; return the document, less its head."""
    if not words["is_resumed"] and words["rank"] == 0:
        plan.kept.remove()
    try:
        before = _scored("before", plan, words, images)
        trace = _fit(plan, words)
        failures = all_failures(plan.stream.failures)
        after = _scored("after", plan, words, images)
    except KeyboardInterrupt as interrupt:
        if words["rank"] > 0:
            raise click.exceptions.Exit(_INTERRUPTED) from None
        raise KeyboardInterrupt(f"{str(interrupt) or 'Interrupted'}{plan.kept.remark()}") from None
    if words["rank"] == 0:
        plan.write(words["out"])
    return {
        "settings": dict(words),
        "run": _run_facts(plan, trace),
        "epochs": _epochs(trace, plan.stream.steps_per_epoch),
        "seconds": trace.seconds,
        "images_per_second": trace.n_run * words["batch_size"] / trace.seconds if trace.n_run else None,
        "seconds_waiting": trace.seconds_waiting,
        "scores": None if before is None or after is None else {"before": before.rows, "after": after.rows},
        "protocol": None if after is None else after.protocol,
        "failures": failures,
        "out": words["out"],
        "next_command": _next_command(words),
        "warnings": _failure_warnings(failures),
    }


def _scored(when: str, plan: Plan, words: Mapping[str, Any], images: ScoredImages | None) -> Scores | None:
    """Return the scores of the teacher's features, if there is something to score."""
    if images is None:
        return None
    extractor = image_extractor(plan.method.teacher.backbone, plan.built.preprocess, device=words["device"])
    with output.Progress("images", is_quiet=words["is_quiet"]) as progress:
        progress.start(f"scores {when}", len(images.records))
        return score(
            extractor,
            images,
            batch_size=words["batch_size"],
            n_threads=words["workers"],
            progress=lambda n_done: progress.update(n_done, ""),
        )


def _fit(plan: Plan, words: Mapping[str, Any]) -> DistillationTrace:
    with output.Progress("steps", is_quiet=words["is_quiet"] or words["rank"] > 0) as progress:
        progress.start("training", plan.n_steps)
        try:
            return plan.fit(_Told(progress, words["batch_size"]))
        except (CollapseError, FloatingPointError) as error:
            if words["rank"] > 0:
                raise click.exceptions.Exit(1) from error
            plan.kept.remove()
            raise click.ClickException(f"{error}; nothing was written, and this run does not go on") from error


class _Told:
    """What the bar says after a step: losses, the features' health when it was last measured, speed."""

    def __init__(self, progress: output.Progress, batch_size: int) -> None:
        self._progress, self._batch_size = progress, batch_size
        self._start, self._n_done, self._health = time.perf_counter(), 0, ""

    def __call__(self, report: StepReport) -> None:
        self._n_done += 1
        if report.health is not None:
            spread, rank = report.health.feature_spread, report.health.effective_rank
            self._health = f"; spread {spread:.2f}, rank {rank:.1f}"
        parts = ", ".join(f"{name} {value:.2f}" for name, value in report.losses.items() if name != "total")
        speed = self._n_done * self._batch_size / (time.perf_counter() - self._start)
        self._progress.update(
            report.step, f"loss {report.losses['total']:.3f} ({parts}){self._health}; {speed:,.0f} images/s"
        )


# What is told


def _run_facts(plan: Plan, trace: DistillationTrace) -> dict[str, Any]:
    return {
        **plan.identity,
        "preprocess": plan.built.preprocess.spec(),
        "n_steps": plan.n_steps,
        "n_steps_before": plan.n_steps - trace.n_run,
        "n_processes": world_size(),
        "memory_bytes": plan.method.memory_bytes(),
    }


def _epochs(trace: DistillationTrace, n_steps: int) -> list[dict[str, float | None]]:
    """Return means of the losses over each epoch, and the features' health when it was last measured in it."""
    epochs = []
    for number, losses in enumerate(torch.split(trace.losses, n_steps)):
        looks = trace.health[trace.health_steps // n_steps == number]
        health = looks[-1].tolist() if len(looks) else [None] * len(Health._fields)
        epochs.append(
            {"epoch": number + 1}
            | dict(zip(trace.names, losses.nanmean(0).tolist(), strict=True))
            | dict(zip(Health._fields, health, strict=True))
        )
    return epochs


def _next_command(words: Mapping[str, Any]) -> str:
    images, out = shlex.quote(words["images"]), shlex.quote(words["out"])
    return f"fewshot extract --images {images} --extractor distilled --weights {out} --out store/"


def _failure_warnings(failures: Mapping[str, str]) -> list[str]:
    if not failures:
        return []
    named = "; ".join(f"{name} ({text})" for name, text in list(failures.items())[:_N_SHOWN])
    more = f" and {len(failures) - _N_SHOWN:,} more" if len(failures) > _N_SHOWN else ""
    return [f"{counted(len(failures), 'image', 'images')} could not be read, others took their place: {named}{more}"]
