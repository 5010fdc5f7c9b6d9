"""Position embeddings on other grids: each rule is the function it is named after, and they differ as published."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from fewshot.features.backbones.position_embedding import resize_position_embedding
from fewshot.features.backbones.torchvision_gate import ensure_torchvision


def position_embedding(seed, side, width=5):
    return torch.randn(1, 1 + side * side, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def timm_layers():
    ensure_torchvision()
    return pytest.importorskip("timm.layers", reason="timm's rule is timm's")


@given(side=st.integers(2, 7), rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_timms_rule_is_timms_own_function(timm_layers, side, rows, columns):
    embedding = position_embedding(side, side).float()
    expected = timm_layers.resample_abs_pos_embed(embedding, [rows, columns], [side, side])
    torch.testing.assert_close(resize_position_embedding(embedding, (rows, columns), "timm"), expected)


@given(st.integers(2, 7), st.integers(1, 9), st.integers(1, 9))
def test_dinos_rule_is_a_bicubic_with_a_tenth_more_than_the_grid(side, rows, columns):
    embedding = position_embedding(side, side)
    resized = resize_position_embedding(embedding, (rows, columns), "dino")
    if rows == columns == side:
        assert resized is embedding
        return
    expected = interpolate(
        embedding[:, 1:].reshape(1, side, side, 5).permute(0, 3, 1, 2),
        scale_factor=((rows + 0.1) / math.sqrt(side * side), (columns + 0.1) / math.sqrt(side * side)),
        mode="bicubic",
    )
    assert expected.shape[2:] == (rows, columns)
    assert torch.equal(resized[:, :1], embedding[:, :1])
    torch.testing.assert_close(resized[:, 1:], expected.permute(0, 2, 3, 1).reshape(1, rows * columns, 5))


@pytest.mark.parametrize("rule", ["dino", "timm"])
def test_resizing_is_linear_keeps_constants_and_the_same_number_of_patches_in_another_shape_is_resized(rule):
    a, b = position_embedding(0, 6), position_embedding(1, 6)
    resize = lambda embedding: resize_position_embedding(embedding, (4, 9), rule)  # noqa: E731
    torch.testing.assert_close(resize(2 * a - b), 2 * resize(a) - resize(b))
    torch.testing.assert_close(resize(torch.full((1, 37, 5), 3.0)), torch.full((1, 37, 5), 3.0))
    assert not torch.allclose(resize(a), a)


@pytest.mark.parametrize(("pixels", "published"), [(96, 0.07), (112, 0.055), (384, 0.020), (448, 0.024)])
def test_the_rules_differ_on_a_smooth_embedding_as_published(pixels, published):
    generator, position = torch.Generator().manual_seed(0), torch.arange(14) / 14
    rates, phases = torch.rand(2, 64, 1, 1, generator=generator), torch.rand(64, 1, 1, generator=generator)
    waves = torch.sin(2 * math.pi * (rates[0] * position + rates[1] * position[:, None] + phases))
    embedding = torch.cat([torch.zeros(1, 1, 64), waves.flatten(1).T[None]], dim=1)
    timm, dino = (resize_position_embedding(embedding, (pixels // 16, pixels // 16), rule) for rule in ("timm", "dino"))
    assert published / 1.5 < float((timm - dino).norm() / dino.norm()) < published * 1.5


def test_half_precision_embeddings_keep_their_dtype():
    assert resize_position_embedding(position_embedding(0, 3).half(), (4, 5), "timm").dtype == torch.float16


@pytest.mark.parametrize(
    ("shape", "grid", "message"),
    [
        (
            (1, 8, 5),
            (2, 2),
            "a position embedding must have shape (1, 1 + side * side, width), the class token first, got (1, 8, 5)",
        ),
        (
            (2, 10, 5),
            (2, 2),
            "a position embedding must have shape (1, 1 + side * side, width), the class token first, got (2, 10, 5)",
        ),
        ((1, 10, 5), (2, 0), "a grid needs at least one patch each way, got 2 x 0: use larger images"),
    ],
)
def test_what_is_no_grid_is_refused(shape, grid, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        resize_position_embedding(torch.zeros(shape), grid)
