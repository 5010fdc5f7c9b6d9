"""16-bit pictures that use a part of the range: scaled by what is said, or named."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="pillow, of the extra images, is not installed")
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fewshot.features import Preprocess, extract, extractor
from fewshot.features.images.decode import UnreadableImage, decode
from tests.kits.cli import fewshot

RAMP = np.arange(256).reshape(16, 16)


def encoded(values: np.ndarray, kind: str = "PNG", tags: dict[int, int] | None = None) -> bytes:
    file, directory = io.BytesIO(), ImageFileDirectory_v2()
    for tag, value in (tags or {}).items():
        directory[tag] = value
        directory.tagtype[tag] = 3
    settings = {"tiffinfo": directory} if kind == "TIFF" else {}
    Image.fromarray(values.astype(np.uint16)).save(file, kind, **settings)
    return file.getvalue()


def levels(source: bytes, bit_range: tuple[int, int] | None = None) -> np.ndarray:
    return np.asarray(decode(source, bit_range=bit_range).image)[..., 0]


@pytest.mark.parametrize(
    ("values", "bit_range"),
    [(RAMP * 257, (0, 65535)), (RAMP * 16, (0, 4095)), (RAMP * 4, (0, 1023)), (29000 + 8 * RAMP, (29000, 31047))],
)
def test_a_range_that_is_given_gives_all_levels(values: np.ndarray, bit_range: tuple[int, int]) -> None:
    np.testing.assert_array_equal(levels(encoded(values), bit_range), RAMP)
    low, high = bit_range
    expected = [min(255, max(0, int((float(v) - low) * 256 / (high - low + 1)))) for v in values.flat]
    np.testing.assert_array_equal(levels(encoded(values), bit_range).ravel(), expected)


def test_values_outside_of_the_range_are_cut() -> None:
    np.testing.assert_array_equal(
        levels(encoded(np.array([[0, 99, 100, 355, 356, 65535]])), (100, 355)), [[0, 0, 0, 255, 255, 255]]
    )


def test_a_tiff_states_its_range() -> None:
    np.testing.assert_array_equal(levels(encoded(RAMP * 16, "TIFF", {281: 4095})), RAMP)
    np.testing.assert_array_equal(levels(encoded(29000 + 8 * RAMP, "TIFF", {280: 29000, 281: 31047})), RAMP)
    np.testing.assert_array_equal(levels(encoded(RAMP * 257, "TIFF", {281: 0})), RAMP, "a tag that says nothing")
    assert decode(encoded(RAMP * 16, "TIFF", {281: 4095})).notes == ("16-bit", "grayscale")


def packed_twelve_bits(values: np.ndarray) -> bytes:
    """Write a TIFF of 12 bits a sample by hand, two samples in three bytes."""
    pairs = values.reshape(-1, 2)
    data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs.tolist())
    tags = [(256, 4, 16), (257, 4, 16), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 16),
            (279, 4, len(data))]  # fmt: skip
    head = b"II*\0" + (8 + len(data)).to_bytes(4, "little") + data
    entries = b"".join(
        tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, kind, value in tags
    )
    return head + len(tags).to_bytes(2, "little") + entries + bytes(4)


def test_a_tiff_of_twelve_bits_a_sample_uses_all_levels() -> None:
    np.testing.assert_array_equal(levels(packed_twelve_bits(RAMP * 16)), RAMP)


@pytest.mark.parametrize(
    ("values", "is_noted"),
    [
        (RAMP * 257, False),
        (RAMP * 16, True),
        (29000 + 8 * RAMP, True),
        (np.full((4, 4), 7), False),
        (np.array([[0, 16384]]), False),
        (np.array([[0, 16383]]), True),
        (np.array([[20000, 24096]]), False),
        (np.array([[20000, 24095]]), True),
    ],
)
def test_a_small_part_of_the_range_is_noted_unless_one_is_given(values: np.ndarray, is_noted: bool) -> None:
    assert ("16-bit-narrow" in decode(encoded(values)).notes) == is_noted
    assert "16-bit-narrow" not in decode(encoded(values), bit_range=(0, 65535)).notes


def wide_png() -> bytes:
    """Write a PNG of one pixel with 16 bits a channel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(7))) + chunk(b"IEND", b"")


def test_colour_of_sixteen_bits_is_refused_with_a_range() -> None:
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PPM")
    assert decode(wide_png()).image.size == (1, 1)
    with pytest.raises(UnreadableImage, match="unsupported: a bit range was given, and of 16-bit colour only"):
        decode(wide_png(), bit_range=(0, 4095))
    assert decode(file.getvalue(), bit_range=(0, 4095)).image.size == (2, 2)


@pytest.mark.parametrize("value", [(0,), (5, 5), (-1, 9), (0, 65536), (0.0, 4.0), (1, 2, 3)])
def test_what_is_no_range_is_refused(value: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="bit_range must be two integers 0 <= low < high <= 65535, got"):
        Preprocess(bit_range=value)


def pixels(**settings: object):
    return extractor(torch.nn.Flatten(), preprocess=Preprocess(size=(16, 16), crop_fraction=1.0), **settings)


def test_the_range_is_part_of_the_key_and_a_key_without_one_stays() -> None:
    plain, ranged = pixels(), pixels(bit_range=(0, 4095))
    assert plain.key != ranged.key
    assert "bit_range" not in plain.preprocess.spec()
    assert Preprocess.from_spec(ranged.preprocess.spec()) == ranged.preprocess


def test_every_door_of_python_scales_alike(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(RAMP * 16))
    made = pixels(bit_range=(0, 4095))
    with Image.open(tmp_path / "a.png") as image:
        opened = extract(made, [image]).features
    plain = extract(pixels(), [np.repeat(RAMP.astype(np.uint8)[..., None], 3, 2)]).features
    for found in (opened, extract(made, tmp_path).features, extract(made, [tmp_path / "a.png"]).features):
        torch.testing.assert_close(found, plain)
    with pytest.warns(UserWarning, match="1 image of 16 bits use a small part of 0 to 65535 .* by bit_range"):
        extract(pixels(), tmp_path)


def test_the_commands_warn_once_and_take_the_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("classify.command", "features.extract"):
        monkeypatch.setattr(
            f"fewshot.cli.{command}.extractor", lambda name, *_, device, bit_range, **__: pixels(bit_range=bit_range)
        )
    for number in range(4):
        for folder in ("s/a", "s/b", "q"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            values = RAMP * 16 if folder != "s/b" else 4080 - RAMP * 16
            Path(folder, f"{number}.png").write_bytes(encoded(np.roll(values, number, 0)))
    said = "8 images of 16 bits use a small part of 0 to 65535"
    told = fewshot("extract", "--images", "s", "--out", "store", "--workers", 0, "--quiet")
    assert told.stderr.count(said) == 1
    assert "by --bit-range LOW:HIGH, such as" in told.stderr
    told = fewshot("extract", "--images", "s", "--out", "ranged", "--workers", 0, "--quiet", "--bit-range", "0:4095")
    assert (told.exit_code, told.stderr) == (0, "")
    words = ("classify", "--support", "s", "--query", "q", "--quiet")
    assert fewshot(*words).stderr.count("12 images of 16 bits use a small part of 0 to 65535") == 1
    assert "16 bits" not in fewshot(*words, "--bit-range", "0:4095").stderr
    assert "expected whole numbers LOW:HIGH" in fewshot(*words, "--bit-range", "4095").stderr
