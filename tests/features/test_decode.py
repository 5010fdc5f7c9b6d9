"""Every kind of image file becomes the RGB image that it means, or one error with a code."""

import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("PIL", reason="decoding needs pillow")
from PIL import Image, ImageFile, features

from fewshot.features.images.decode import UnreadableImage, decode
from fewshot.features.images.rgb import mode_notes, to_rgb
from fewshot.features.images.unreadable import guarding_pil

# Pixels of a format that keeps them, by mode: what is saved is what is read.
LOSSLESS = {
    "1": ("PNG", "TIFF", "BMP"),
    "L": ("PNG", "TIFF", "BMP", "GIF", "PPM"),
    "P": ("PNG", "TIFF", "BMP", "GIF"),
    "LA": ("PNG", "TIFF"),
    "PA": ("TIFF",),
    "RGB": ("PNG", "TIFF", "BMP", "PPM", "WEBP"),
    "RGBA": ("PNG", "TIFF", "WEBP"),
    "CMYK": ("TIFF",),
    "YCbCr": ("TIFF",),
    "I;16": ("PNG", "TIFF"),
    "I;16B": ("TIFF",),
    "I": ("TIFF",),
}
N_CHANNELS = {"RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3, "LA": 2, "PA": 2}


Image.init()


def skip_without(kind):
    if kind not in Image.SAVE:
        pytest.skip(f"this pillow was built without {kind}")


def noise(height, width, n_channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, n_channels), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}), **options)
    return file.getvalue()


def pixels(source, **options):
    image = decode(source, **options).image
    assert image.mode == "RGB"
    return np.asarray(image)


def code(source, **options):
    with pytest.raises(UnreadableImage) as caught:
        decode(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value.code


def image_of(mode, height, width, seed):
    """Return an image of a mode and the RGB pixels that it means, from the definitions of the modes."""
    raw = noise(height, width, N_CHANNELS.get(mode, 1), seed)
    if mode == "1":
        raw = (raw > 127) * np.uint8(255)
        return Image.fromarray(raw[..., 0]).convert("1"), raw.repeat(3, 2)
    if mode in ("P", "PA"):
        palette = noise(256, 3, 1, seed + 1)[..., 0]
        image = Image.frombytes(mode, (width, height), raw.tobytes())
        image.putpalette(palette.tobytes())
        colours = palette[raw[..., 0]]
        return image, on_white(colours, raw[..., 1:]) if mode == "PA" else colours
    if mode.startswith("I"):
        values = np.random.default_rng(seed).integers(0, 65536, (height, width))
        dtype = {"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode]
        image = Image.frombytes(mode, (width, height), values.astype(dtype).tobytes())
        return image, (values[..., None] // 256).repeat(3, 2)
    image = Image.frombytes(mode, (width, height), raw.tobytes())
    if mode in ("LA", "RGBA"):
        return image, on_white(np.broadcast_to(raw[..., :-1], (height, width, 3)), raw[..., -1:])
    if mode == "CMYK":
        return image, (255.0 - raw[..., :3]) * (255.0 - raw[..., 3:]) / 255
    if mode == "YCbCr":
        y, cb, cr = np.moveaxis(raw.astype(float), 2, 0)
        rgb = [
            y + 1.402 * (cr - 128),
            y - 0.114 * 1.772 / 0.587 * (cb - 128) - 0.299 * 1.402 / 0.587 * (cr - 128),
            y + 1.772 * (cb - 128),
        ]
        return image, np.stack(rgb, axis=2).clip(0, 255)
    return image, raw.repeat(3, 2) if mode == "L" else raw


def on_white(colours, alpha):
    share = alpha / 255
    return colours * share + 255 * (1 - share)


def png(colour_type, depth, values, *chunks):
    """Write a PNG of 16-bit or palette values by hand."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# What the pixels are


@pytest.mark.parametrize(("mode", "kind"), [(mode, kind) for mode, kinds in LOSSLESS.items() for kind in kinds])
@given(st.data())
def test_pixels_are_those_that_the_mode_defines(mode, kind, data):
    skip_without(kind)
    height, width = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    image, meant = image_of(mode, height, width, data.draw(st.integers(0, 99)))
    read = pixels(encoded(image, kind))
    assert read.shape == (height, width, 3)
    tolerance = {"YCbCr": 1.5, "CMYK": 0.51, "LA": 0.51, "PA": 0.51, "RGBA": 0.51}.get(mode, 0)
    assert np.abs(read - meant).max() <= tolerance


@pytest.mark.parametrize("side", [1, 40])
def test_a_jpeg_is_what_pil_makes_of_it(side):
    image = Image.fromarray(noise(side, 41 - side))
    jpeg = encoded(image, "JPEG", quality=90)
    assert (pixels(jpeg) == np.asarray(Image.open(io.BytesIO(jpeg)))).all()


def test_inks_of_a_jpeg_are_read_as_adobe_writes_them():
    inks = np.broadcast_to(np.array([20, 100, 180, 60], dtype=np.uint8), (16, 24, 4))
    jpeg = encoded(Image.frombytes("CMYK", (24, 16), inks.tobytes()), "JPEG", quality=100)
    assert b"Adobe" in jpeg
    meant = (255.0 - inks[..., :3]) * (255 - 60) / 255
    assert np.abs(pixels(jpeg) - meant).max() <= 3
    assert decode(jpeg).notes == ("cmyk",)


@pytest.mark.parametrize(("colour_type", "n_channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_keep_their_high_byte_in_gray_and_in_colour(colour_type, n_channels):
    values = np.random.default_rng(3).integers(0, 65536, (5, 7, n_channels), dtype=np.uint16)
    values[0, :3] = [[0], [255], [65535]]
    if n_channels in (2, 4):
        values[..., -1] = 65535
    image, notes = decode(png(colour_type, 16, values.astype(">u2")))
    colours = values[..., : n_channels - (n_channels + 1) % 2]
    assert (np.asarray(image) == np.broadcast_to(colours // 256, (5, 7, 3))).all()
    assert notes[0] == "16-bit"


@given(st.integers(0, 255))
def test_an_eight_bit_level_survives_both_ways_to_sixteen(level):
    for wide in (257 * level, 256 * level):
        assert (pixels(png(0, 16, np.full((1, 2, 1), wide, dtype=">u2"))) == level).all()


def test_a_transparent_gray_of_sixteen_bits_becomes_white():
    values = np.array([[[300], [301], [65535]]], dtype=">u2")
    image, notes = decode(png(0, 16, values, (b"tRNS", struct.pack(">H", 300))))
    assert np.asarray(image)[0, :, 0].tolist() == [255, 1, 255]
    assert notes == ("16-bit", "grayscale", "alpha-on-white")


def test_sixteen_bits_a_pixel_are_not_sixteen_bits_a_channel():
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0) + struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    body = header + struct.pack("<HH", 0xF800, 0x001F)
    image, notes = decode(b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + len(header)) + body)
    assert np.asarray(image)[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert notes == ()


def test_a_transparent_colour_counts_in_eight_bits_and_is_ignored_in_sixteen():
    narrow = np.array([[[10, 20, 30], [10, 20, 31]]], dtype=np.uint8)
    key = (b"tRNS", struct.pack(">HHH", 10, 20, 30))
    image, notes = decode(png(2, 8, narrow, key))
    assert np.asarray(image)[0].tolist() == [[255, 255, 255], [10, 20, 31]]
    assert notes == ("alpha-on-white",)
    image, notes = decode(png(2, 16, narrow.astype(">u2") * 257, key))
    assert np.asarray(image)[0].tolist() == narrow[0].tolist()
    assert notes == ("16-bit",)


def test_alpha_of_a_palette_is_composited_on_white():
    palette = (b"PLTE", bytes([200, 100, 0, 10, 20, 30]))
    image, notes = decode(png(3, 8, np.array([[[0], [1]]], dtype=np.uint8), palette, (b"tRNS", bytes([51]))))
    assert np.asarray(image)[0].tolist() == [[244, 224, 204], [10, 20, 30]]
    assert notes == ("palette", "alpha-on-white")


@pytest.mark.parametrize("values", [[-1, 5], [0, 65536]])
def test_integers_without_an_eight_bit_scale_are_refused(values):
    image = Image.fromarray(np.array([values], dtype=np.int32))
    with pytest.raises(UnreadableImage) as caught:
        decode(encoded(image, "TIFF"))
    assert str(caught.value) == (
        f"unsupported: values from {values[0]} to {values[1]} have no defined 8-bit scale: save it with 8 or 16 bits"
    )


def test_floating_point_pixels_are_refused():
    with pytest.raises(UnreadableImage) as caught:
        decode(encoded(Image.new("F", (3, 2), 0.5), "TIFF"))
    assert str(caught.value) == (
        "unsupported: floating-point pixels (mode F) have no defined 8-bit scale: save it with 8 or 16 bits"
    )


@settings(max_examples=6)
@given(st.integers(130, 220), st.integers(-20, 20), st.integers(-20, 20))
def test_lab_becomes_the_srgb_of_the_same_colour(lightness, a, b):
    if not features.check("littlecms2"):
        pytest.skip("this pillow was built without LittleCMS")
    image, notes = decode(encoded(Image.frombytes("LAB", (2, 1), bytes([lightness, a % 256, b % 256]) * 2), "TIFF"))
    assert np.abs(np.asarray(image)[0, 0] - srgb_of_lab(100 * lightness / 255, a, b)).max() <= 2.5
    assert notes == ("lab",)


def srgb_of_lab(lightness, a, b):
    """CIE's formulas with white D50, Bradford's adaptation to D65, and sRGB's curve."""
    y = (lightness + 16) / 116
    f = np.array([y + a / 500, y, y - b / 200])
    xyz = np.array([0.9642, 1, 0.8249]) * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    to_linear = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    )
    linear = to_linear @ xyz
    return 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def test_hsv_becomes_rgb():
    image = Image.frombytes("HSV", (3, 1), bytes([0, 255, 255, 85, 255, 255, 170, 255, 255]))
    assert np.asarray(to_rgb(image, False))[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert tuple(mode_notes(image, False)) == ("hsv",)


# The same image in another coat


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_turned_copies_with_the_tag_that_turns_them_back_are_equal(kind):
    skip_without(kind)
    upright = np.kron(noise(3, 5), np.ones((8, 8, 1), dtype=np.uint8))
    # By the EXIF standard: which side of the stored rows is the image's top, and of its columns the left.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }
    for orientation, rows in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
        image, notes = decode(encoded(Image.fromarray(np.ascontiguousarray(rows)), kind, exif=exif, **options))
        difference = np.abs(np.asarray(image).astype(int) - upright)
        assert difference.max() <= (3 if kind == "JPEG" else 0), orientation
        assert notes == (("exif-orientation",) if orientation > 1 else ())


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_rgb_opaque_rgba_and_palette_versions_are_equal(height, width, seed):
    palette = noise(1, 7, 3, seed)[0]
    index = np.random.default_rng(seed).integers(0, 7, (height, width), dtype=np.uint8)
    rgb = Image.fromarray(palette[index])
    indexed = Image.fromarray(index)
    indexed.putpalette(palette.tobytes())
    for image in (rgb, rgb.convert("RGBA"), indexed):
        assert (pixels(encoded(image)) == palette[index]).all()


def test_gray_and_its_alpha_and_wide_versions_are_equal():
    gray = noise(4, 6, 1)
    wide = png(0, 16, gray.astype(">u2") * 257)
    image = Image.fromarray(gray[..., 0])
    for source in (encoded(image), encoded(image.convert("LA")), encoded(image.convert("RGB")), wide):
        assert (pixels(source) == gray).all()


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_orientation_that_means_nothing_turns_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, notes = decode(encoded(Image.fromarray(noise(3, 5)), exif=exif))
    assert (np.asarray(image) == noise(3, 5)).all()
    assert notes == ()


def test_an_orientation_that_cannot_be_read_turns_nothing():
    image, notes = decode(encoded(Image.fromarray(noise(3, 5)), exif=b"Exif\0\0no such thing"))
    assert (np.asarray(image) == noise(3, 5)).all()
    assert notes == ()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_several_frames_the_first_is_taken(kind):
    skip_without(kind)
    first, second = (Image.new("RGB", (6, 4), colour) for colour in ((250, 10, 20), (0, 0, 255)))
    image, notes = decode(encoded(first, kind, save_all=True, append_images=[second]))
    assert (np.asarray(image) == (250, 10, 20)).all()
    assert notes[-1] == "first-frame"


def test_a_damaged_second_frame_does_not_harm_the_first():
    frames = [Image.fromarray(noise(9, 9, seed=seed)) for seed in (1, 2)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=[frames[1]])
    whole = pixels(gif)
    assert (pixels(gif[: -len(gif) // 4]) == whole).all()


def test_a_colour_profile_is_ignored_and_noted():
    profile = b"not even a profile"
    image, notes = decode(encoded(Image.fromarray(noise(3, 4)), icc_profile=profile))
    assert (np.asarray(image) == noise(3, 4)).all()
    assert notes == ("icc-ignored",)


@pytest.mark.parametrize(
    ("mode", "kind", "notes"),
    [
        ("RGB", "PNG", ()),
        ("RGB", "JPEG", ()),
        ("1", "PNG", ("1-bit",)),
        ("L", "PNG", ("grayscale",)),
        ("LA", "PNG", ("grayscale", "alpha-on-white")),
        ("P", "PNG", ("palette",)),
        ("PA", "TIFF", ("palette", "alpha-on-white")),
        ("RGBA", "PNG", ("alpha-on-white",)),
        ("CMYK", "TIFF", ("cmyk",)),
        ("YCbCr", "TIFF", ("ycbcr",)),
        ("I;16", "PNG", ("16-bit", "grayscale")),
        ("I", "TIFF", ("16-bit", "grayscale")),
    ],
)
def test_notes_name_the_treatment(mode, kind, notes):
    assert decode(encoded(Image.new(mode, (5, 3)), kind)).notes == notes


# What cannot be read


def sample_files():
    image = Image.fromarray(noise(11, 13))
    for kind in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"):
        if kind in Image.SAVE:
            yield kind, encoded(image, kind)
    yield "LZW TIFF", encoded(image, "TIFF", compression="tiff_lzw")
    yield "progressive JPEG", encoded(image, "JPEG", progressive=True)


def assert_reads_or_refuses(source):
    try:
        decode(source)
    except UnreadableImage as error:
        return error.code
    return None


@pytest.mark.parametrize(("kind", "file"), [pytest.param(*sample, id=sample[0]) for sample in sample_files()])
def test_every_prefix_of_a_file_is_read_or_refused(kind, file):
    codes = [assert_reads_or_refuses(file[:length]) for length in range(len(file))]
    assert codes[0] == "empty"
    assert set(codes[1:]) <= {None, "truncated", "unreadable"}
    assert codes[len(file) // 2] in ("truncated", "unreadable")


@pytest.mark.parametrize(("kind", "file"), [pytest.param(*sample, id=sample[0]) for sample in sample_files()])
@given(st.data())
def test_damaged_bytes_are_read_or_refused(kind, file, data):
    damaged = bytearray(file)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    assert_reads_or_refuses(bytes(damaged))


@given(
    st.binary(min_size=1, max_size=64),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"GIF89a"]),
)
def test_random_bytes_are_refused(noise_bytes, magic):
    assert assert_reads_or_refuses(magic + noise_bytes) in ("unreadable", "truncated", "too-large")


def test_half_a_jpeg_is_truncated_and_never_filled_up():
    jpeg = encoded(Image.fromarray(noise(64, 48)), "JPEG")
    assert code(jpeg[: len(jpeg) // 2]) == "truncated"


def test_the_process_must_not_fill_up_truncated_images(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError) as caught:
        decode(encoded(Image.new("RGB", (2, 3))))
    assert str(caught.value) == (
        "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which fills truncated images up with grey: set it to False"
    )


def test_kinds_outside_of_the_list_are_no_images():
    assert code(encoded(Image.new("RGB", (16, 16)), "TGA")) == "unreadable"


def test_programs_that_draw_are_no_images():
    assert code(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n") == "unsupported"


def test_a_pixel_bomb_is_refused_from_its_header():
    import tracemalloc

    bomb = png(2, 8, np.zeros((1, 1, 3), dtype=np.uint8))
    bomb = bomb.replace(struct.pack(">II", 1, 1), struct.pack(">II", 30_000, 50_000), 1)
    bomb = bomb[:29] + struct.pack(">I", zlib.crc32(bomb[12:29])) + bomb[33:]
    tracemalloc.start()
    try:
        assert code(bomb) == "too-large"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_running_out_of_memory_is_the_image_being_too_large(monkeypatch):
    def load(_):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(UnreadableImage) as caught:
        decode(encoded(Image.new("L", (2, 3)), "PPM"))
    assert str(caught.value) == "too-large: not enough memory to decode it"


def test_max_pixels_is_the_last_size_that_is_read():
    source = encoded(Image.fromarray(noise(6, 7)))
    assert pixels(source, max_pixels=42).shape == (6, 7, 3)
    with pytest.raises(UnreadableImage) as caught:
        decode(source, max_pixels=41)
    assert str(caught.value) == "too-large: 7 x 6 pixels, more than max_pixels=41"


def test_a_side_that_resizing_could_not_hold_is_refused():
    strip = b"P4 1048577 1\n" + bytes(131073)
    with pytest.raises(UnreadableImage) as caught:
        decode(strip)
    assert str(caught.value) == "too-large: 1048577 x 1 pixels, a side longer than 1048576"


def test_pil_keeps_its_settings_and_its_warnings_to_itself(monkeypatch):
    source = encoded(Image.fromarray(noise(6, 7)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # between once and twice it PIL warns
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert decode(source).image.size == (7, 6)
    assert not caught
    assert warnings.filters == filters
    assert Image.MAX_IMAGE_PIXELS == 30
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert code(source) == "too-large"


def test_other_warnings_pass_while_an_image_is_decoded(monkeypatch):
    load = ImageFile.ImageFile.load

    def warn_and_load(self):
        warnings.warn("from elsewhere", stacklevel=1)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", warn_and_load)
    with pytest.warns(UserWarning, match="from elsewhere"):
        decode(encoded(Image.new("L", (2, 3)), "PPM"))


def test_the_first_thread_to_leave_does_not_end_the_silence_of_the_others():
    def warn():
        warnings.warn_explicit("of PIL", UserWarning, "Image.py", 1, module="PIL.Image")

    with guarding_pil():
        with guarding_pil():
            warn()
        warn()
    with pytest.warns(UserWarning, match="of PIL"):
        warn()


def test_threads_decode_as_one_does_and_leave_the_filters():
    sources = [encoded(Image.fromarray(noise(30, 20 + seed, seed=seed))) for seed in range(8)] * 4
    filters = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(decode, sources))
    assert [image.tobytes() for image, _ in images] == [decode(source).image.tobytes() for source in sources]
    assert warnings.filters == filters


def test_a_file_is_read_as_its_bytes(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(encoded(Image.fromarray(noise(3, 5))))
    for source in (file, str(file)):
        assert (pixels(source) == noise(3, 5)).all()


def test_paths_that_give_no_bytes_have_codes(tmp_path):
    (tmp_path / "empty.png").touch()
    assert code(tmp_path / "empty.png") == "empty"
    assert code(tmp_path / "none.png") == "missing"
    assert code(tmp_path / "empty.png" / "below.png") == "missing"
    assert code(tmp_path) == "unreadable"
    with pytest.raises(UnreadableImage) as caught:
        decode(tmp_path / "none.png")
    assert str(caught.value) == f"missing: {tmp_path}/none.png: No such file or directory"


def test_a_file_that_may_not_be_read_has_a_code(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "a.png")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UnreadableImage) as caught:
        decode("a.png")
    assert str(caught.value) == "permission: a.png: Permission denied"


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImage("truncated", "half of it")))
    assert (error.code, error.text, str(error)) == ("truncated", "half of it", "truncated: half of it")


def test_a_missing_pillow_is_named_with_what_mends_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError) as caught:
        decode(b"P5 1 1 255 a")
    assert str(caught.value) == "decoding images needs pillow: pip install pillow"


def test_nothing_of_pil_is_loaded_before_an_image_is_decoded():
    modules = ("decode", "preprocess", "views", "listing")
    imports = "; ".join(f"import fewshot.features.images.{module}" for module in modules)
    statement = (
        f"import torch, sys; before = 'PIL' in sys.modules; {imports}; assert before or 'PIL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", statement], check=True, env=dict(os.environ))
