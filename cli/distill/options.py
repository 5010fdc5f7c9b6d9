"""The options of ``fewshot distill``."""

from __future__ import annotations

from functools import partial

import click

from fewshot.distillation.backbone import IMAGE_EMBEDDINGS
from fewshot.distillation.training.state import PRECISIONS
from fewshot.image_distillation.settings import METHODS, DistillSettings

from ..shared.options import (
    COUNT,
    FROM_0,
    POSITIVE,
    bundle,
    default,
    device_option_with,
    json_option,
    pairs_option,
    quiet_option,
    resume_option,
    setting_option,
    workers_option,
)

__all__ = ["run_options", "score_options", "training_options", "view_options", "what_options"]

_option = partial(setting_option, DistillSettings)

what_options = bundle(
    click.option("--images", metavar="DIR", required=True, help="A folder of images; no label is needed."),
    click.option(
        "--out",
        metavar="FILE",
        required=True,
        help="The .safetensors file to write, which fewshot extract --extractor distilled reads.",
    ),
    _option(
        "method",
        METHODS,
        "mugs: images, their neighbours and their groups. cmd: images and their regions, across levels.",
    ),
    _option(
        "backbone",
        "NAME",
        "A ViT, Swin or CNN of timm.",
        show_default="that of --init, else vit_small_patch16_224",
    ),
    _option(
        "init",
        "random|published|FILE",
        "Weights to start from. published: timm's. FILE: a Mugs, DINO, iBOT or EsViT checkpoint, or what this command "
        "wrote.",
    ),
    pairs_option(
        "--option",
        "options",
        "An option of timm's network, such as patch_size=4, depth=3, embed_dim=64, num_heads=4; repeatable; 2+2 is a "
        "list.",
    ),
    _option(
        "image",
        IMAGE_EMBEDDINGS,
        "The feature: the class token, or the mean of the patches, as it is in any case without a class token.",
    ),
    _option(
        "crop_fraction",
        click.FloatRange(0, 1, min_open=True),
        "Share of an image's side that the feature is made of, here and in fewshot extract; 1 where the border tells, "
        "as of letters and digits.",
        show_default="that of the backbone, mostly 0.875",
    ),
    click.option("--overwrite", "is_overwritten", is_flag=True, help="Replace --out if it exists."),
    resume_option("Go on with a run of these settings that was stopped, or begin anew."),
)

view_options = bundle(
    _option(
        "size",
        COUNT,
        "Side of global crops and of what fewshot extract feeds the network, pixels.",
        show_default="the backbone's",
    ),
    _option("local_size", COUNT, "Side of local crops, pixels.", show_default="3/7 of --size, in whole patches"),
    _option("n_local", FROM_0, "Local crops of an image; the authors: mugs 10, cmd 8."),
    click.option(
        "--flip/--no-flip",
        "is_flipped",
        default=default(DistillSettings, "is_flipped"),
        help="Whether crops are mirrored: not for letters and digits.",
    ),
)

training_options = bundle(
    _option("epochs", COUNT, "Passes over the images."),
    _option("batch_size", click.IntRange(min=2), "Images a step, of all processes together."),
    _option(
        "learning_rate",
        POSITIVE,
        "Of AdamW at its peak; the default is in proportion to --batch-size.",
        show_default="0.002 for 256 images a step, 0.0005 if --init is not random",
    ),
    _option(
        "warmup_epochs",
        FROM_0,
        "In which the learning rate grows to its peak.",
        show_default="a tenth of the steps",
    ),
    _option(
        "momentum",
        click.FloatRange(0, 1),
        "Of the teacher at first; it grows to 1. For more than 10,000 images: 0.996.",
    ),
    _option(
        "n_prototypes",
        COUNT,
        "Groups that images are sorted into; the authors take 65,536 for a million images.",
    ),
    _option("memory", COUNT, "Images that mugs remembers.", show_default="a quarter of the images, at most 4096"),
    _option(
        "freeze_epochs",
        FROM_0,
        "At first, in which prototypes are held fixed.",
        show_default="1, of fewer than 10 epochs 0",
    ),
    _option(
        "drop_path",
        click.FloatRange(0, 1, max_open=True),
        "How often the student skips its last block; those before it less.",
    ),
    pairs_option(
        "--set",
        "changes",
        "Any other number, such as inter_weight=1, pool=attention, loss_weights=1+1+0; repeatable. A wrong key lists "
        "them.",
    ),
)

score_options = bundle(
    click.option(
        "--evaluate",
        metavar="DIR",
        show_default="--images",
        help="Labelled images to score features on, before and after; half of them stand for the training set.",
    ),
    _option(
        "labels",
        "folder|none|FILE",
        "Their classes, as in fewshot extract; for the scores alone. none: no scores.",
    ),
    _option(
        "n_scored",
        COUNT,
        "Images to score on, at most, drawn at random; classes with one are left out.",
    ),
)

run_options = bundle(
    _option("precision", PRECISIONS, "Of the networks; losses are float32."),
    workers_option("Processes that cut views, for each that trains.", show_default="the cores but one, at most 16"),
    _option("seed", FROM_0, "Decides every draw."),
    device_option_with("Where to compute; auto takes a GPU."),
    json_option,
    quiet_option,
)
