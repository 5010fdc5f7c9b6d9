"""The options of ``fewshot distill``."""

from __future__ import annotations

from functools import partial

import click

from fewshot.distillation.backbone import IMAGE_EMBEDDINGS
from fewshot.distillation.training.state import PRECISIONS
from fewshot.image_distillation.settings import METHODS, DistillSettings

from ..shared.options import bundle, choice, default, device_option_with, json_option, quiet_option

__all__ = ["run_options", "score_options", "training_options", "view_options", "what_options"]

_default = partial(default, DistillSettings)
_COUNT = click.IntRange(min=1)
_FROM_0 = click.IntRange(min=0)
_POSITIVE = click.FloatRange(min=0, min_open=True)

what_options = bundle(
    click.option("--images", metavar="DIR", required=True, help="A folder of images; no label is needed."),
    click.option(
        "--out",
        metavar="FILE",
        required=True,
        help="The .safetensors file to write, which fewshot extract --extractor distilled reads.",
    ),
    click.option(
        "--method",
        default=_default("method"),
        **choice(METHODS),
        help="mugs: images, their neighbours and their groups. cmd: images and their regions, across levels.",
    ),
    click.option(
        "--backbone",
        metavar="NAME",
        show_default="that of --init, else vit_small_patch16_224",
        help="A ViT, Swin or CNN of timm.",
    ),
    click.option(
        "--init",
        default=_default("init"),
        metavar="random|published|FILE",
        help="Weights to start from. published: timm's. FILE: a Mugs, DINO, iBOT or EsViT checkpoint, or what this "
        "command wrote.",
    ),
    click.option(
        "--option",
        "options",
        metavar="KEY=VALUE",
        multiple=True,
        help="An option of timm's network, such as patch_size=4, depth=3, embed_dim=64, num_heads=4; repeatable; 2+2 "
        "is a list.",
    ),
    click.option(
        "--image",
        default=_default("image"),
        **choice(IMAGE_EMBEDDINGS),
        help="The feature: the class token, or the mean of the patches, as it is in any case without a class token.",
    ),
    click.option(
        "--crop-fraction",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="X",
        show_default="that of the backbone, mostly 0.875",
        help="Share of an image's side that the feature is made of, here and in fewshot extract; 1 where the border "
        "tells, as of letters and digits.",
    ),
    click.option("--overwrite", "is_overwritten", is_flag=True, help="Replace --out if it exists."),
    click.option(
        "--resume/--no-resume",
        "is_resumed",
        default=True,
        help="Go on with a run of these settings that was stopped, or begin anew.",
    ),
)

view_options = bundle(
    click.option(
        "--size",
        type=_COUNT,
        metavar="N",
        show_default="the backbone's",
        help="Side of global crops and of what fewshot extract feeds the network, pixels.",
    ),
    click.option(
        "--local-size",
        type=_COUNT,
        metavar="N",
        show_default="3/7 of --size, in whole patches",
        help="Side of local crops, pixels.",
    ),
    click.option(
        "--n-local",
        type=_FROM_0,
        metavar="N",
        default=_default("n_local"),
        help="Local crops of an image; the authors: mugs 10, cmd 8.",
    ),
    click.option(
        "--flip/--no-flip",
        "is_flipped",
        default=_default("is_flipped"),
        help="Whether crops are mirrored: not for letters and digits.",
    ),
)

training_options = bundle(
    click.option("--epochs", type=_COUNT, metavar="N", default=_default("epochs"), help="Passes over the images."),
    click.option(
        "--batch-size",
        type=click.IntRange(min=2),
        metavar="N",
        default=_default("batch_size"),
        help="Images a step, of all processes together.",
    ),
    click.option(
        "--learning-rate",
        type=_POSITIVE,
        metavar="X",
        show_default="0.002 for 256 images a step, 0.0005 if --init is not random",
        help="Of AdamW at its peak; the default is in proportion to --batch-size.",
    ),
    click.option(
        "--warmup-epochs",
        type=_FROM_0,
        metavar="N",
        show_default="a tenth of the steps",
        help="In which the learning rate grows to its peak.",
    ),
    click.option(
        "--momentum",
        type=click.FloatRange(0, 1),
        metavar="X",
        default=_default("momentum"),
        help="Of the teacher at first; it grows to 1. For more than 10,000 images: 0.996.",
    ),
    click.option(
        "--n-prototypes",
        type=_COUNT,
        metavar="N",
        default=_default("n_prototypes"),
        help="Groups that images are sorted into; the authors take 65,536 for a million images.",
    ),
    click.option(
        "--memory",
        type=_COUNT,
        metavar="N",
        show_default="a quarter of the images, at most 4096",
        help="Images that mugs remembers.",
    ),
    click.option(
        "--freeze-epochs",
        type=_FROM_0,
        metavar="N",
        show_default="1, of fewer than 10 epochs 0",
        help="At first, in which prototypes are held fixed.",
    ),
    click.option(
        "--drop-path",
        type=click.FloatRange(0, 1, max_open=True),
        metavar="X",
        default=_default("drop_path"),
        help="How often the student skips its last block; those before it less.",
    ),
    click.option(
        "--set",
        "changes",
        metavar="KEY=VALUE",
        multiple=True,
        help="Any other number, such as inter_weight=1, pool=attention, loss_weights=1+1+0; repeatable. A wrong key "
        "lists them.",
    ),
)

score_options = bundle(
    click.option(
        "--evaluate",
        metavar="DIR",
        show_default="--images",
        help="Labelled images to score features on, before and after; half of them stand for the training set.",
    ),
    click.option(
        "--labels",
        metavar="folder|none|FILE",
        default=_default("labels"),
        help="Their classes, as in fewshot extract; for the scores alone. none: no scores.",
    ),
    click.option(
        "--n-scored",
        type=_COUNT,
        metavar="N",
        default=_default("n_scored"),
        help="Images to score on, at most, drawn at random; classes with one are left out.",
    ),
)

run_options = bundle(
    click.option(
        "--precision", default=_default("precision"), **choice(PRECISIONS), help="Of the networks; losses are float32."
    ),
    click.option(
        "--workers",
        type=_FROM_0,
        metavar="N",
        show_default="the cores but one, at most 16",
        help="Processes that cut views, for each that trains.",
    ),
    click.option("--seed", type=_FROM_0, metavar="N", default=_default("seed"), help="Decides every draw."),
    device_option_with("Where to compute; auto takes a GPU."),
    json_option,
    quiet_option,
)
