"""``fewshot distill`` as a user drives it: what it writes, where it goes on, what it refuses, and what it says."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import sys
import tarfile
from dataclasses import fields
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="pillow, of the extra images, is not installed")
import click
from fewshot.cli.distill import command as distill_command
from fewshot.cli.distill.progress import Bars
from PIL import Image

from fewshot.distillation.training import loop as training
from fewshot.distillation.training.health import Health
from fewshot.distillation.training.monitor import CollapseMonitor
from fewshot.distillation.training.state import TrainingState
from fewshot.features.backbones.distilled import read_distilled
from fewshot.features.backbones.torchvision_gate import ensure_torchvision
from fewshot.image_distillation import DistillRun, DistillSettings, distill, planning, resuming, running
from fewshot.image_distillation.backbones import build_backbone, load_training
from fewshot.image_distillation.resuming import StateFile, state_path
from fewshot.image_distillation.stream import ImageStream, default_n_workers
from tests.kits.cli import document, fails, fewshot, succeeds
from tests.kits.vit import mugs_training

if ensure_torchvision() == "absent":
    pytest.skip("torchvision is not installed", allow_module_level=True)
pytest.importorskip("timm", reason="the networks are timm's")

ROOT = Path(__file__).parents[2]
SIZES = {"crow": 5, "owl": 4, "wren": 3}
COLOURS = {"crow": (250, 10, 10), "owl": (10, 250, 10), "wren": (10, 10, 250), "lone": (128, 128, 128)}
N = sum(SIZES.values())
BATCH, STEPS = 4, 3  # of an epoch
NETWORK = ("--backbone", "vit_tiny_patch16_224", "--option", "patch_size=4", "--option", "embed_dim=16", "--option",
           "depth=1", "--option", "num_heads=2", "--size", 16)  # fmt: skip
RUN = ("--n-local", 1, "--batch-size", BATCH, "--n-prototypes", 8, "--workers", 0, "--quiet", "--device", "cpu",
       "--set", "hidden=8")  # fmt: skip
MUGS = ("--set", "n_out=8", "--set", "predictor_hidden=8")
CMD = ("--method", "cmd", "--set", "bottleneck=8")


def write(folder: Path, sizes: dict[str, int], seed: int = 0) -> Path:
    """Write images of a little noise on their class's colour."""
    generator = np.random.default_rng(seed)
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True)
        for number in range(size):
            noise = generator.integers(-9, 10, (20, 17, 3))
            pixels = (np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("images"), SIZES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "student.safetensors"


def words(
    images: Path,
    out: Path,
    *more: object,
    network: tuple[object, ...] = NETWORK,
    method: tuple[str, ...] = MUGS,
    epochs: int = 1,
) -> list[object]:
    return ["distill", "--images", images, "--out", out, *network, *RUN, *method, "--epochs", epochs, *more]


def bare(images: Path, out: Path, *more: object, **settings: Any) -> list[object]:
    """Words of a run without scores."""
    return words(images, out, *more, "--labels", "none", **settings)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, images: Path, out: Path) -> Any:
    """Return the run of some words, ready to begin."""

    def run_of(*more: object, **settings: Any) -> DistillRun:
        runs: list[DistillRun] = []

        def stop(run: DistillRun, *, is_quiet: bool) -> None:
            runs.append(run)
            raise click.exceptions.Exit(0)

        with monkeypatch.context() as patch:
            patch.setattr(distill_command, "_result", stop)
            succeeds(*bare(images, out, *more, **settings))
        return runs[0]

    return run_of


def interrupted(monkeypatch: pytest.MonkeyPatch, n_steps: int, *command: object) -> str:
    """Return what a command says that is stopped by Ctrl-C in its last of some steps; every epoch's state is kept."""
    show, steps = Bars.__call__, []

    def stop(bars: Bars, report: Any) -> None:
        show(bars, report)
        steps.extend([] if report.step is None else [report.step])
        if len(steps) == n_steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bars, "__call__", stop)
        patch.setattr(resuming, "_SAVING_PART", 1)
        result = fewshot(*command)
    assert (result.exit_code, result.stdout) == (130, ""), result.output
    return result.stderr


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "method"), [("mugs", MUGS), ("cmd", CMD)])
def test_images_in_a_network_out_that_extract_and_probe_take(
    images: Path, out: Path, tmp_path: Path, name: str, method: tuple[str, ...]
) -> None:
    told = document(*words(images, out, method=method, epochs=2))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    file = read_distilled(out)
    assert (file.name, file.recipe, file.size) == ("vit_tiny_patch16_224", "token", 16)
    assert file.options == {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    run = told["run"]
    assert file.training == {key: run[key] for key in file.training}
    assert (run["method"], run["n_images"], run["n_steps"], run["epochs"]) == (name, N, 2 * STEPS, 2)
    store = tmp_path / "store"
    next_words = told["next_command"].split()
    assert next_words[:-1] == [
        "fewshot", "extract", "--images", f"{images}", "--extractor", "distilled", "--weights", f"{out}", "--out",
    ]  # fmt: skip
    extracted = document(*next_words[1:-1], store, "--workers", 0, "--quiet", "--device", "cpu")
    assert extracted["store"]["n_images"] == N
    assert extracted["extractor"]["n_features"] == 16
    probed = document("probe", "--features", store, "--method", "knn", "--k", 1)
    assert probed["results"][0]["accuracy"] == 1.0


@pytest.mark.parametrize(("name", "method"), [("mugs", MUGS), ("cmd", CMD)])
def test_a_python_call_writes_the_same_network_and_gives_the_same_numbers(
    images: Path, out: Path, tmp_path: Path, name: str, method: tuple[str, ...]
) -> None:
    told = document(*words(images, out, method=method, epochs=2))
    changes = {"hidden": 8, **({"n_out": 8, "predictor_hidden": 8} if name == "mugs" else {"bottleneck": 8})}
    settings = DistillSettings(
        method=name,
        backbone="vit_tiny_patch16_224",
        options={"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
        size=16,
        n_local=1,
        batch_size=BATCH,
        n_prototypes=8,
        epochs=2,
        changes=changes,
    )
    result = distill(images, settings, out=tmp_path / "python.safetensors", n_workers=0)
    assert (tmp_path / "python.safetensors").read_bytes() == out.read_bytes()
    for row, epoch in zip(told["epochs"], result.trace.epochs(STEPS), strict=True):
        losses = {key: None if math.isnan(loss) else loss for key, loss in epoch.losses.items()}  # as JSON has it
        assert losses == {key: row[key] for key in losses}
    for when, scores in (("before", result.before), ("after", result.after)):
        knn, svm, retrieval = told["scores"][when]
        assert scores.knn._asdict() == {key: knn[key] for key in ("accuracy", "mean_class_accuracy")}
        assert scores.svm._asdict() == {key: svm[key] for key in ("accuracy", "mean_class_accuracy")}
        assert scores.retrieval.means() == {key: retrieval[key] for key in scores.retrieval.means()}
    assert (result.memory_bytes, result.n_processes) == (told["run"]["memory_bytes"], 1)


def test_the_defaults_of_the_options_are_those_of_the_settings() -> None:
    context = distill_command.distill.make_context("distill", ["--images", "x", "--out", "y.safetensors"])
    settings = {entry.name: getattr(DistillSettings(), entry.name) for entry in fields(DistillSettings)}
    assert {name: context.params[name] for name in settings} == settings | {"options": (), "changes": ()}


def test_the_document_is_whole_and_has_no_nan(images: Path, out: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    told = json.loads(succeeds(*words(images, out, "--memory", 3, "--json", epochs=2)), parse_constant=refuse)
    assert list(told) == [
        "command", "command_line", "version", "torch_version", "versions", "settings", "run", "epochs", "seconds",
        "images_per_second",
        "seconds_waiting", "scores", "protocol", "failures", "out", "next_command", "warnings",
    ]  # fmt: skip
    losses = ["total", "instance", "local_group", "group"]
    assert [list(row) for row in told["epochs"]] == 2 * [["epoch", *losses, *Health._fields]]
    assert [row["epoch"] for row in told["epochs"]] == [1, 2]
    assert all(isinstance(row[key], (int, float)) for row in told["epochs"] for key in row if key != "local_group")
    assert told["run"] | {"n_processes": 1, "n_steps_before": 0} == told["run"]
    # Two queues of 3 rows of 8 numbers, two memories of 3 rows of 16, four bytes each.
    assert told["run"]["memory_bytes"] == 3 * (8 + 8 + 16 + 16) * 4
    assert told["run"]["preprocess"]["size"] == [16, 16]
    assert (told["failures"], told["warnings"], told["out"]) == ({}, [], f"{out}")
    assert 0 < told["images_per_second"] * told["seconds"] - 2 * STEPS * BATCH + 1e-6 < 1e-3


@pytest.mark.filterwarnings("default")
def test_a_loss_that_does_not_apply_yet_is_null(images: Path, out: Path) -> None:
    result = fewshot(*bare(images, out, "--memory", 11, "--json"))
    (row,) = json.loads(result.stdout)["epochs"]
    assert (row["local_group"], row["instance"] is None) == (None, False)


def test_the_table_says_how_it_went_and_what_to_do_next(images: Path, out: Path) -> None:
    said = succeeds(*words(images, out, epochs=12))
    rows = re.findall(r"^ +(\d+) +[\d.]+ ", said, re.MULTILINE)
    assert (len(rows), rows[0], rows[-1]) == (10, "1", "12")
    assert "epoch   total   instance   local group   group   spread   rank   prototypes used" in said
    assert re.search(r"^ +before +100.00 +100.00 +100.00 +100.00 +100.00$", said, re.MULTILINE)
    assert "method    mugs, vit_tiny_patch16_224 at 16 pixels from random\n" in said
    assert "images    12, 12 epochs of 4 a step\n" in said
    assert "scores    6 test images against 6 with labels, 3 classes; k = 6; retrieval of each" in said
    assert f"use it    fewshot extract --images {images} --extractor distilled --weights {out} --out store/\n" in said


# --- the words reach the run ------------------------------------------------------------------------------------------


def test_a_teacher_that_stands_still_is_the_network_that_was_begun_with(images: Path, out: Path) -> None:
    told = document(*words(images, out, "--set", "momentum=1+1", "--seed", 3))
    options = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    begun = build_backbone("vit_tiny_patch16_224", size=16, options=options, seed=3).backbone
    written = read_distilled(out).tensors
    assert torch.equal(written["norm.weight"], begun.norm.weight)
    assert torch.equal(written["pos_embed"], begun.trunk.network.pos_embed)
    assert told["scores"]["before"] == told["scores"]["after"]


def test_defaults_follow_from_the_size_of_the_run(planned: Any) -> None:
    short = planned(epochs=9).plan.numbers
    assert (short.training.n_frozen_steps, short.training.n_warmup_steps) == (0, 9 * STEPS // 10)
    assert short.training.learning_rate == 2e-3 * BATCH / 256
    assert (short.training.health_every, short.views.local_size, short.method.capacity) == (STEPS, 8, N // 4)
    long = planned(epochs=20).plan.numbers
    assert (long.training.n_frozen_steps, long.training.n_warmup_steps) == (STEPS, 2 * STEPS)
    assert planned(method=CMD).plan.numbers.views.weak_probability is None


def test_every_number_can_be_given(planned: Any) -> None:
    method, views, trained = planned(
        "--momentum", 0.5, "--memory", 2, "--learning-rate", 0.25, "--warmup-epochs", 2, "--freeze-epochs", 3,
        "--local-size", 12, "--no-flip", "--precision", "bfloat16", "--set", "weight_decay=0.1+0.2",
        "--set", "loss_weights=1+2+0", "--set", "weak_probability=none", "--set", "colour=false",
        "--set", "local_query=patches", "--set", "clip=2", epochs=4,
    ).plan.numbers  # fmt: skip
    assert (method.capacity, method.n_neighbours, method.n_out, method.n_prototypes) == (2, 2, 8, 8)
    assert (method.loss_weights, method.local_query) == ((1.0, 2.0, 0.0), "patches")
    assert (views.local_size, views.n_local, views.flip_probability) == (12, 1, 0.0)
    assert (views.weak_probability, views.colour) == (None, False)
    assert (trained.momentum, trained.learning_rate, trained.precision) == ((0.5, 1.0), 0.25, "bfloat16")
    assert (trained.n_warmup_steps, trained.n_frozen_steps) == (2 * STEPS, 3 * STEPS)
    assert (trained.weight_decay, trained.clip) == ((0.1, 0.2), 2.0)


def test_workers_leave_a_core_to_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for n_cores, n_processes in ((8, 2), (64, 1), (1, 1), (2, 4)):
        monkeypatch.setattr(os, "cpu_count", lambda n_cores=n_cores: n_cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", f"{n_processes}")
        found.append(default_n_workers())
    assert found == [3, 16, 0, 0]


def test_a_mugs_file_starts_the_relation_block_of_both_networks(planned: Any, tmp_path: Path) -> None:
    checkpoint, path = mugs_training(), tmp_path / "mugs.pth"
    torch.save(checkpoint, path)
    run = planned("--init", path, network=())
    prefix = "backbone.relation_blocks.0."
    for network in (run._method.student, run._method.teacher):
        state = network.relation.state_dict()
        assert len(state) == 12
        assert all(torch.equal(value, checkpoint["teacher"][f"{prefix}{name}"]) for name, value in state.items())
    assert run.plan.numbers.training.learning_rate == 5e-4 * BATCH / 256
    assert run.plan.built.description.init == f"{path}"


def test_what_was_written_can_be_begun_with(images: Path, out: Path, tmp_path: Path) -> None:
    document(*bare(images, out))
    again = tmp_path / "again.safetensors"
    told = document(*bare(images, again, "--init", out, "--set", "momentum=1+1", network=()))
    assert told["run"]["backbone"]["init"] == f"{out}"
    first, second = read_distilled(out), read_distilled(again)
    assert all(torch.equal(value, second.tensors[name]) for name, value in first.tensors.items())


def test_the_crop_fraction_is_stored_and_scores_are_made_with_it(
    images: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    score = running.score_features
    monkeypatch.setattr(
        running, "score_features", lambda made, *a, **b: seen.append(made.preprocess) or score(made, *a, **b)
    )
    document(*words(images, out, "--crop-fraction", 1))
    written = read_distilled(out).preprocess
    assert (written.crop_fraction, written.size) == (1.0, (16, 16))
    assert seen == [written, written]
    document(*bare(images, out, "--overwrite"))
    assert read_distilled(out).preprocess.crop_fraction == 0.875


def test_from_scratch_pixels_are_normalised_by_their_own_statistics(
    planned: Any, images: Path, out: Path, tmp_path: Path
) -> None:
    pixels = np.stack([np.asarray(Image.open(path)).reshape(-1, 3) / 255 for path in sorted(images.rglob("*.png"))])
    plan = planned().plan
    for preprocess in (plan.numbers.views, plan.built.preprocess):
        assert preprocess.mean == pytest.approx(tuple(pixels.mean((0, 1))))
        assert preprocess.std == pytest.approx(tuple(pixels.std((0, 1))))
    document(*bare(images, out))
    begun = planned("--init", out, "--overwrite", network=()).plan
    assert begun.built.preprocess == read_distilled(out).preprocess == plan.built.preprocess


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_of_labelled_images_before_and_after(images: Path, out: Path) -> None:
    told = document(*words(images, out))
    for rows in told["scores"].values():
        assert [row["method"] for row in rows] == ["knn", "svm", "retrieval"]
        knn, svm, retrieval = rows
        # Colours tell the classes apart, whatever the network.
        assert (knn["accuracy"], knn["k"], svm["accuracy"]) == (1.0, 6, 1.0)
        assert (retrieval["rank_1"], retrieval["n_unanswerable"]) == (1.0, 0)
    assert list(told["scores"]) == ["before", "after"]


def test_images_to_score_on_can_be_others_and_their_labels_a_table(images: Path, out: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", {"crow": 3, "owl": 2, "lone": 1}, seed=1)
    told = document(*words(images, out, "--evaluate", other))
    protocol = "3 test images against 2 with labels, 2 classes; k = 2; retrieval of each test image among the others"
    assert told["protocol"] == protocol
    assert told["run"]["n_images"] == N
    # Labels that have nothing to do with the colours, one class of two in each folder.
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    lines = [f"{name},{'ab'[number % 2]}" for number, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("file,label\n" + "\n".join(lines))
    again = document(*words(images, out, "--overwrite", "--labels", tmp_path / "labels.csv", "--n-scored", 8))
    assert again["protocol"].startswith("4 test images against 4 with labels, 2 classes; k = 4; ")
    assert again["scores"]["before"][0]["accuracy"] < 1


def test_archives_are_trained_and_scored_on(images: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "a.tar", "w") as archive:
        for path in sorted(images.rglob("*.png")):
            name = f"{path.parent.name}-{path.stem}"
            label = tmp_path / f"{name}.cls"
            label.write_text(path.parent.name)
            archive.add(path, f"{name}.png")
            archive.add(label, f"{name}.cls")
    told = document(*words(tmp_path / "shards", out))
    assert told["run"]["n_images"] == N
    assert told["scores"]["before"][0]["accuracy"] == 1.0


def test_one_image_is_no_folder_of_images(out: Path, tmp_path: Path) -> None:
    alone = write(tmp_path / "alone", {"owl": 1})
    message = "Error: expected several images, got one: give --images a folder of many"
    assert fails(1, *bare(alone, out)) == message


@pytest.mark.parametrize("sizes", [{"crow": 6}, {"crow": 5, "lone": 1}])
def test_one_class_alone_is_no_class(out: Path, tmp_path: Path, sizes: dict[str, int]) -> None:
    folder = write(tmp_path / "images", sizes)
    told = document(*words(folder, out))
    assert (told["scores"], told["protocol"]) == (None, None)
    message = fails(1, *words(folder, out, "--labels", "folder", "--overwrite"))
    assert message == (
        f"Error: scores need two classes with two images each, which those drawn from {folder} are not: give --labels "
        "none, more images or a larger --n-scored"
    )


def test_images_that_cannot_be_read_are_replaced_told_and_not_scored(out: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "images", SIZES)
    (folder / "crow" / "1.png").write_bytes(b"no image")
    result = fewshot(*words(folder, out, "--json"))
    told = json.loads(result.stdout)
    assert list(told["failures"]) == ["crow/1.png"]
    said = f"1 image could not be read, others took their place: crow/1.png ({told['failures']['crow/1.png']})"
    assert (result.exit_code, told["warnings"], result.stderr) == (0, [said], f"Warning: {said}\n")
    assert told["protocol"] == (
        "6 test images against 5 with labels, 3 classes; k = 5; retrieval of each test image among the others; 1 image "
        "that cannot be read left out"
    )


def test_images_to_score_on_must_be_readable_for_the_most_part(images: Path, out: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "other", {"crow": 2, "owl": 2})
    (folder / "owl" / "1.png").write_bytes(b"")
    message = fails(1, *words(images, out, "--evaluate", folder))
    assert message == "Error: too few of the 4 images to score on can be read: give --labels none"
    assert not out.exists()


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [MUGS, CMD])
def test_a_run_that_was_stopped_and_went_on_writes_the_same_bytes(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: tuple[str, ...]
) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    command = partial(bare, images, method=method, epochs=3)
    told = document(*command(whole))
    said = interrupted(monkeypatch, STEPS + 2, *command(parts))
    assert re.fullmatch(
        rf"Interrupted after 5 of 9 steps \(training\): loss .*; the same command goes on after epoch 1, which "
        rf"{state_path(f'{parts}')} has\n",
        said,
    )
    assert not parts.exists()
    again = document(*command(parts))
    assert (again["run"]["n_steps_before"], again["epochs"]) == (STEPS, told["epochs"])
    assert parts.read_bytes() == whole.read_bytes()
    assert not state_path(f"{parts}").exists()


def test_a_run_that_is_stopped_in_its_first_epoch_leaves_nothing(
    images: Path, out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = interrupted(monkeypatch, STEPS - 1, *bare(images, out))
    assert said.endswith(" images/s; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_stopped_in_its_last_scores_has_only_these_to_do(
    images: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, calls = running.score_features, []

    def stop(*given: Any, **more: Any) -> Any:
        calls.append(more["progress"])
        if len(calls) == 2:
            more["progress"](3)
            raise KeyboardInterrupt
        return score(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(running, "score_features", stop)
        result = fewshot(*words(images, out))
    said = f"; the same command goes on after epoch 1, which {state_path(f'{out}')} has\n"
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == f"Interrupted after 3 of 12 images (scores after){said}"
    table = succeeds(*words(images, out))
    assert "speed     nothing was left to do\n" in table
    assert re.search(r"^ +after +100.00 ", table, re.MULTILINE)
    assert out.exists()


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (("--epochs", 4), "epochs 2, got 4"),
        (("--seed", 1), "seed 0, got 1"),
        (("--drop-path", 0.2), "drop_path 0.1, got 0.2"),
        (("--option", "mlp_ratio=2"), "backbone.options.mlp_ratio None, got 2"),
        (("--set", "loss_weights=1+0+1"), "settings.method.loss_weights [1.0, 1.0, 1.0], got [1.0, 0.0, 1.0]"),
        (("--batch-size", 6, "--no-flip"), "batch_size 4, got 6"),
    ],
)
def test_a_run_goes_on_only_with_what_it_was_begun_with(stopped: Path, images: Path, more: Any, key: str) -> None:
    state = state_path(f"{stopped}")
    before = state.read_bytes()
    message = fails(1, *bare(images, stopped, epochs=2), *more)
    assert message == (
        f"Error: {state} is of a run with {key}: give what it was begun with, or --no-resume to begin anew"
    )
    # Words that are wrong anyhow take nothing away.
    assert fails(1, *bare(images, stopped, "--no-resume", "--set", "clip=0", epochs=2)) == (
        "Error: clip must be positive, got 0.0"
    )
    assert state.read_bytes() == before


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A run of two epochs that was stopped in the second."""
    out = tmp_path_factory.mktemp("stopped") / "student.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, STEPS + 1, *bare(images, out, epochs=2))
    return out


def test_no_resume_begins_anew(stopped: Path, images: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_path(f"{out}").write_bytes(state_path(f"{stopped}").read_bytes())
    said = interrupted(monkeypatch, 1, *bare(images, out, "--no-resume", epochs=2))
    assert said.endswith("; nothing was written\n")
    assert not state_path(f"{out}").exists()
    assert document(*bare(images, out, "--no-resume", epochs=2))["run"]["n_steps_before"] == 0


def test_a_state_that_is_none_is_told_of_before_any_work(images: Path, out: Path) -> None:
    state_path(f"{out}").write_bytes(b"no state")
    assert f"{state_path(f'{out}')}: expected a safetensors file" in fails(1, *bare(images, out))
    assert document(*bare(images, out, "--no-resume"))["run"]["n_steps_before"] == 0


def test_states_are_written_seldom_enough_to_take_little_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def slow_save(path: Path, state: TrainingState) -> None:
        clock[0] += 2.0
        path.write_text(f"{state.step}")

    monkeypatch.setattr(resuming.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(resuming, "save_training", slow_save)
    kept = StateFile(tmp_path / "s", {})
    written = []
    for epoch in range(1, 101):
        clock[0] += 1.0
        kept.save(TrainingState(10 * epoch, {}, {}), is_last=epoch == 100)
        written.append(kept.path.read_text())
    # The first one ends at second 3; from 19 times its 2 seconds later on the next is due.
    assert sorted({int(step) for step in written}) == [10, 390, 770, 1000]
    assert kept.n_steps == 1000
    kept.remove()
    assert (kept.n_steps, kept.path.exists()) == (0, False)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_run_that_collapses_says_so_and_leaves_nothing(
    images: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CollapseMonitor", partial(CollapseMonitor, patience=2 * STEPS))
    blank = tmp_path / "blank"
    blank.mkdir()
    for number in range(BATCH):
        Image.new("RGB", (16, 16)).save(blank / f"{number}.png")
    message = fails(1, *words(blank, out, "--n-local", 0, "--set", "colour=false", method=CMD, epochs=9))
    assert re.fullmatch(
        r"Error: collapsed, seen in steps 0 to 5: the spread of features is .*, under 0.001: lower the learning rate, "
        r"warm it up for longer, raise the teacher's momentum, or take larger batches; nothing was written, and this "
        r"run does not go on",
        message,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["blank"]


def test_a_loss_that_is_not_finite_ends_the_run(images: Path, out: Path, tmp_path: Path) -> None:
    message = fails(1, *bare(images, out, "--learning-rate", 1e30, "--warmup-epochs", 0, epochs=2))
    assert re.fullmatch(
        r"Error: the loss is not finite at step \d \(.*\): lower the learning rate, or take float32; nothing was "
        r"written, and this run does not go on",
        message,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("default")
def test_a_memory_too_large_is_told_of_at_the_start_and_in_the_document(
    images: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = (
        "a memory of 4 rows is more than a quarter of 12 images, so that images meet their own past in it: 3 would do"
    )
    result = fewshot(*bare(images, out, "--memory", 4, "--json"))
    assert json.loads(result.stdout)["warnings"] == [said]
    assert result.stderr == f"Warning: {said}\n"
    result = fewshot(*bare(images, out, "--memory", 4, "--overwrite"))
    assert (result.exit_code, result.stderr) == (0, f"Warning: {said}\n")
    first = interrupted(monkeypatch, 1, *bare(images, out, "--memory", 4, "--overwrite")).splitlines()[0]
    assert first == f"Warning: {said}"


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--method", "cmd", "--memory", 3), 2, "--memory is of mugs: cmd remembers no images"),
        (("--n-local", 0, "--local-size", 8), 2, "--local-size needs local crops, and --n-local is 0"),
        (("--evaluate", "x"), 2, "--evaluate needs labels, and --labels is none"),
        (("--n-scored", 9), 2, "--n-scored needs labels, and --labels is none"),
        (("--freeze-epochs", 1), 2, "--freeze-epochs must be less than --epochs, 1, got 1"),
        (("--warmup-epochs", 2), 2, "--warmup-epochs must be less than --epochs, 1, got 2"),
        (("--momentum", 0.9, "--set", "momentum=0.9+1"), 2, "give --momentum or --set momentum, not both"),
        (("--no-flip", "--set", "flip_probability=0.1"), 2, "give --flip or --set flip_probability, not both"),
        (("--memory", 3, "--set", "capacity=3"), 2, "give --memory or --set capacity, not both"),
        (("--batch-size", 1), 2, "Invalid value for '--batch-size': 1 is not in the range x>=2."),
        (("--crop-fraction", 0), 2, "Invalid value for '--crop-fraction': 0.0 is not in the range 0<x<=1."),
        (("--method", "mug"), 2, "Invalid value for '--method': unknown word 'mug': did you mean 'mugs'? Known: cmd, "
                                 "mugs"),
        (("--out", "student.pt"), 2, "--out must end in .safetensors, got student.pt"),
        (("--out", "nowhere/s.safetensors"), 1, "no such folder: nowhere: create it before writing s.safetensors"),
        (("--batch-size", 13), 1, "--batch-size must be at most the number of images, 12, got 13"),
        (("--local-size", 13), 1, "the network takes no local crops of 13 pixels: give a --local-size that is a "
                                  "multiple of 4"),
        (("--size", 18), 1, "size must be a multiple of the patch's 4 pixels, got 18"),
        (("--set", "clip"), 1, "expected KEY=VALUE, got 'clip'"),
        (("--set", "=1"), 1, "expected KEY=VALUE, got '=1'"),
        (("--set", "clip=big"), 1, "clip must be a number, got 'big'"),
        (("--set", "hidden=1.5"), 1, "hidden must be a whole number, got '1.5'"),
        (("--set", "colour=no"), 1, "colour must be true or false, got 'no'"),
        (("--set", "momentum=0.9"), 1, "momentum must be 2 numbers joined by +, got '0.9'"),
        (("--set", "size=32"), 2, "--set size would contradict the features: give --size, for the network and its "
                                  "features too"),
        (("--set", "mean=0+0+0"), 2, "--set mean would contradict the features: images are normalised as the weights "
                                     "of --init need it, from scratch by their own pixels"),
        (("--set", "clip=none"), 1, "clip must be a number, got 'none'"),
        (("--init", "no.pth"), 1, "no such checkpoint: no.pth"),
        (("--memory", 2, "--set", "n_neighbours=3"), 1, "n_neighbours must be at most the memory's capacity, got 3 for "
                                                        "2"),
    ],
)  # fmt: skip
def test_wrong_words_are_answered_before_any_work(
    images: Path, out: Path, tmp_path: Path, more: tuple[object, ...], code: int, message: str
) -> None:
    assert fails(code, *bare(images, out), *more) == f"Error: {message}"
    assert list(tmp_path.iterdir()) == []


def test_a_key_of_the_other_method_is_answered_with_those_of_this_one(images: Path, out: Path) -> None:
    message = fails(1, *bare(images, out, "--set", "pool=max"))
    assert message.startswith("Error: unknown setting of mugs 'pool'")
    known = message.partition("Known: ")[2].split(", ")
    assert {"n_neighbours", "clip", "global_scale"} <= set(known)
    assert not {"size", "mean", "std", "inter_weight"} & set(known)


def test_a_result_that_exists_is_kept(images: Path, out: Path) -> None:
    out.write_text("mine")
    assert fails(2, *bare(images, out)) == f"Error: {out} exists: give another --out, or --overwrite"
    assert out.read_text() == "mine"
    document(*bare(images, out, "--overwrite"))
    assert read_distilled(out).name == "vit_tiny_patch16_224"


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs torch with gloo"
)
def test_two_processes_share_a_batch_and_the_first_one_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "images", SIZES)
    for name in ("crow/1.png", "owl/1.png"):  # each process meets one
        (folder / name).write_bytes(b"no image")
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    same = ("--drop-path", 0, "--json")
    alone = json.loads(fewshot(*words(folder, one, *same, epochs=2)).stdout)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{found.getsockname()[1]}", "WORLD_SIZE": "2"}
    # Of DDP's own, on parameters that are used after all.
    for name, value in {**place, "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distill_command, "_PATIENCE", timedelta(seconds=100))
    command = [*map(str, words(folder, two, *same, epochs=2))]
    other = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "fewshot", *command],
        cwd=ROOT, env={**os.environ, "RANK": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    result = fewshot(*command)
    assert (*other.communicate(timeout=100), other.returncode) == (b"", b"", 0)
    shared = json.loads(result.stdout)
    assert shared["run"] == alone["run"] | {"n_processes": 2}
    assert len(alone["failures"]) == 2
    assert shared["failures"] == alone["failures"]
    assert shared["protocol"] == alone["protocol"]
    for row, expected in zip(shared["epochs"], alone["epochs"], strict=True):
        applies = {key: value for key, value in expected.items() if value is not None}
        assert {key: value for key, value in row.items() if value is not None} == pytest.approx(applies, rel=1e-3)
    joint, tensors = read_distilled(two).tensors, read_distilled(one).tensors
    for name, tensor in tensors.items():
        torch.testing.assert_close(joint[name], tensor, rtol=1e-3, atol=1e-4)


def test_the_other_processes_are_silent_whatever_happens(
    images: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (distill_command, planning, running):
        monkeypatch.setattr(module, "rank", lambda: 1)
    monkeypatch.setattr(running, "ImageStream", lambda *a, **b: ImageStream(*a, **{**b, "rank": 0}))
    assert interrupted(monkeypatch, 1, *bare(images, out)) == ""
    result = fewshot(*bare(images, out, "--learning-rate", 1e30, "--warmup-epochs", 0, epochs=2))
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")
    result = fewshot(*words(images, out))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert not out.exists()


def test_a_lone_process_is_the_first_one(images: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert document(*bare(images, out))["out"] == f"{out}"


def test_a_batch_must_be_shared_evenly(images: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "world_size", lambda: 3)
    message = "Error: --batch-size must be a multiple of the 3 processes, got 4"
    assert fails(1, *bare(images, out)) == message


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_teaches() -> None:
    said = " ".join(succeeds("distill", "--help").split())
    for sentence in (
        "fewshot extract --images photos/ --extractor distilled --weights own.safetensors --out store/",
        "goes on with the same command",
        "Under torchrun, processes share each batch.",
        "Images a step, of all processes together.",
        "[default: (a quarter of the images, at most 4096); x>=1]",
        "1 where the border tells, as of letters and digits.",
    ):
        assert sentence in said


def test_the_state_is_beside_the_result_and_of_it_alone() -> None:
    names = [state_path(f"folder/{name}.safetensors").name for name in ("a", "a.b", "a.c")]
    assert names == ["a.state.safetensors", "a.b.state.safetensors", "a.c.state.safetensors"]


def test_a_state_holds_the_run_that_it_is_of(stopped: Path) -> None:
    state = load_training(state_path(f"{stopped}"))
    assert (state.step, state.metadata["run"]["epochs"], state.metadata["run"]["n_images"]) == (STEPS, 2, N)
