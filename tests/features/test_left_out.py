"""Every file of a folder of images is read, failed or left out, and images of kinds that are not read are named."""

from __future__ import annotations

import io
import os
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="pillow, of the extra images, is not installed")
from PIL import Image

from fewshot.features.images import kinds
from fewshot.features.images.decode import UnreadableImage, decode
from fewshot.features.images.left_out import find_left_out, warn_of_left_out
from fewshot.features.images.listing import find_images


def encoded(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 12), (250, 20, 30)).save(file, kind)
    return file.getvalue()


# What is made here, the kind that is named (None: read; "" : another file), by what Pillow writes or the format says.
FILES = {
    "a.png": (encoded(), None),
    "a.jpe": (encoded("JPEG"), None),
    "IMG_0007": (encoded("JPEG"), None),
    "IMG_0008": (encoded("WEBP"), None),
    "deep/er/IMG_0009": (encoded("TIFF"), None),
    "IMG_0010": (encoded("PPM"), None),
    "scan": (bytes(128) + b"DICM" + bytes(20), "DICOM"),
    "scan.dcm": (b"", "DICOM"),
    "b.NEF": (encoded("TIFF"), "camera raw"),
    "c.cr3": (b"", "camera raw"),
    "d.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    "d": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    "e.jxl": (b"\xff\x0a", "JPEG XL"),
    "live.MOV": (b"\0\0\0\x14ftypqt  ", "video"),
    "f.jpg_large": (encoded("JPEG"), "image under another suffix"),
    "g.png.bak": (encoded(), "image under another suffix"),
    "h.svg": (b"<svg/>", "drawing or document"),
    "notes.txt": (b"words", ""),
    "labels.csv": (b"a,b", ""),
    "Thumbs.db": (b"\xd0\xcf\x11\xe0", ""),
    "README": (b"Portable", ""),
    "BMW": (b"BMW cars", ""),
    "empty": (b"", ""),
    ".DS_Store": (b"\0\0\0\1Bud1", "hidden"),
    ".trash/a.png": (encoded(), "hidden"),
}


def write(root: Path) -> None:
    for name, (content, _) in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def names_of(kind: str | None) -> list[str]:
    return sorted(name for name, (_, own) in FILES.items() if own == kind)


UNREAD = {name: kind for name, (_, kind) in FILES.items() if kind not in (None, "", "hidden")}


def test_every_file_is_in_one_of_the_counts(tmp_path: Path) -> None:
    write(tmp_path)
    listed = [record.id for record in find_images(tmp_path)]
    left_out = find_left_out(tmp_path)
    assert sorted(listed) == names_of(None)
    assert {image.file: image.kind for image in left_out.unread} == UNREAD
    assert (left_out.n_other, left_out.n_hidden) == (len(names_of("")), len(names_of("hidden")))
    assert len(listed) + left_out.n == len(FILES)
    assert left_out.as_document()["n"] == left_out.n
    assert all(image.mend for image in left_out.unread)


@pytest.mark.parametrize("how", ["a folder of archives", "an archive"])
def test_members_of_archives_are_counted_alike(tmp_path: Path, how: str) -> None:
    write(tmp_path / "files")
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as archive:
        archive.add(tmp_path / "files", ".")
    (tmp_path / "tars" / "notes.md").write_text("beside")
    root = tmp_path / "tars" if how == "a folder of archives" else tmp_path / "tars" / "a.tar"
    listed, left_out = list(find_images(root)), find_left_out(root)
    assert sorted(record.id for record in listed) == [f"a.tar/{name}" for name in names_of(None)]
    assert {image.file.removeprefix("a.tar/"): image.kind for image in left_out.unread} == UNREAD
    assert len(listed) + left_out.n == len(FILES) + (how == "a folder of archives")


def test_images_that_a_table_does_not_name_are_counted(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.heic.txt"):
        (tmp_path / name).write_bytes(encoded())
    (tmp_path / "labels.csv").write_text("file,label\na.png,x\n")
    left_out = find_left_out(tmp_path, tmp_path / "labels.csv")
    assert (left_out.n_unnamed, left_out.n_other, len(left_out.unread)) == (1, 1, 1)
    assert left_out.words() == "1 image of a kind that is not read, 1 image that the table does not name, 1 other file"


def test_the_warning_says_how_many_of_what_and_what_to_do(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    warn_of_left_out(tmp_path)
    assert not recwarn
    for name in ("x.nef", "b.nef", "c.jp2"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r": 2 camera raw, such as b\.nef \(develop .*\); 1 JPEG 2000, such as c\.jp2"):
        warn_of_left_out(tmp_path)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("kinds", "decode"):
        monkeypatch.setattr(f"fewshot.features.images.{module}.has_heif", lambda: False)


@pytest.mark.usefixtures("without_heif")
def test_heic_without_its_plugin_is_named_under_any_name(tmp_path: Path) -> None:
    for name in ("a.HEIC", "IMG_1", "b.jpg"):
        (tmp_path / name).write_bytes(HEIC)
    assert [record.id for record in find_images(tmp_path)] == ["b.jpg"]
    left_out = find_left_out(tmp_path)
    assert [(image.file, image.kind) for image in left_out.unread] == [("IMG_1", "HEIC"), ("a.HEIC", "HEIC")]
    assert "pip install pillow-heif" in left_out.unread_words()
    with pytest.raises(UnreadableImage) as caught:
        decode(HEIC)
    assert str(caught.value) == "unsupported: the content is HEIC: pip install pillow-heif, or convert to JPEG"


@pytest.mark.skipif(find_spec("pillow_heif") is None, reason="pillow-heif, of the extra heic, is not installed")
def test_heic_is_read_with_its_plugin(tmp_path: Path) -> None:
    import pillow_heif

    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (250, 20, 30))).save(tmp_path / "a.heic", quality=95)
    os.link(tmp_path / "a.heic", tmp_path / "IMG_1")
    assert [record.id for record in find_images(tmp_path)] == ["IMG_1", "a.heic"]
    image = decode(tmp_path / "a.heic").image
    assert (image.size, image.mode) == ((64, 48), "RGB")
    assert all(abs(a - b) < 12 for a, b in zip(image.getpixel((30, 20)), (250, 20, 30), strict=True))


def test_every_kind_says_what_to_do() -> None:
    assert all(kind.name and kind.mend for kind in {*kinds._BY_SUFFIX.values(), *kinds._UNREAD_MAGIC.values()})
    assert not {*kinds._BY_SUFFIX} & {*kinds.IMAGE_SUFFIXES}
