"""The list of images is the same everywhere, whole, and every entry leads to its bytes."""

import io
import itertools
import os
import tarfile
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot.features.images.listing import (
    IMAGE_SUFFIXES,
    ImageRecord,
    find_images,
    read_bytes,
    walk_csv,
    walk_folder,
    walk_tars,
)
from fewshot.features.images.unreadable import UnreadableImage

SUFFIXES = (
    ".apng, .avif, .bmp, .gif, .jfi, .jfif, .jif, .jpe, .jpeg, .jpg, .pbm, .pgm, .png, .pnm, .ppm, .tif, .tiff, .webp"
)


def tree(root, *paths):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())
    return root


def ids(records):
    return [record.id for record in records]


def tar(path, members, **options):
    """Write an archive of (name, bytes) pairs and TarInfo objects."""
    with tarfile.open(path, "w", **options) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "a.png"
    return info


def message(kind, call, *args, **options):
    with pytest.raises(kind) as caught:
        list(call(*args, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders


@given(st.lists(st.lists(st.text("a-./0 Bß", min_size=1, max_size=3), min_size=1, max_size=3), max_size=12))
def test_order_is_that_of_the_bytes_of_whole_paths(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("tree")
    for parts in names:
        parts = [part.strip("./").replace("/", "-") or "x" for part in parts]
        folder = root.joinpath(*parts[:-1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{parts[-1]}.png").touch()
    found = [path.relative_to(root).as_posix() for path in root.rglob("*.png") if path.is_file()]
    assert ids(walk_folder(root, labelled=False)) == sorted(found, key=os.fsencode)


def test_a_folder_sorts_with_its_slash(tmp_path):
    tree(tmp_path, "a/x.png", "a-b/x.png", "a.png", "a0/x.png", "B.png")
    assert ids(walk_folder(tmp_path, labelled=False)) == ["B.png", "a-b/x.png", "a.png", "a/x.png", "a0/x.png"]


def test_images_are_told_by_suffix_in_any_case(tmp_path):
    tree(tmp_path, *(f"{n}{suffix}" for n, suffix in enumerate(IMAGE_SUFFIXES)), "x.PnG", "x.txt", "png", "x.png.txt")
    assert len(ids(walk_folder(tmp_path, labelled=False))) == len(IMAGE_SUFFIXES) + 1


def test_hidden_files_and_folders_are_left_out(tmp_path):
    tree(tmp_path, "a.png", ".b.png", ".c/d.png", "e/.f.png", "e/._g.png")
    assert ids(walk_folder(tmp_path, labelled=False)) == ["a.png"]


def test_the_label_is_the_first_folder(tmp_path):
    tree(tmp_path, "wren/a.png", "crow/deep/er/b.png", "crow/c.png")
    assert list(walk_folder(tmp_path, labelled=True)) == [
        ImageRecord("crow/c.png", "crow", -1, -1),
        ImageRecord("crow/deep/er/b.png", "crow", -1, -1),
        ImageRecord("wren/a.png", "wren", -1, -1),
    ]


def test_a_labelled_image_outside_of_the_classes_is_an_error(tmp_path):
    tree(tmp_path, "wren/a.png", "z.png")
    assert message(ValueError, walk_folder, tmp_path, labelled=True) == (
        f"image 'z.png' lies directly in '{tmp_path}', where each class has a folder: "
        "move it into one, or take the images as unlabelled"
    )


def test_links_are_followed_broken_ones_are_listed_and_pipes_are_not(tmp_path):
    tree(tmp_path, "real/a.png", "else/b.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(tmp_path / "real")
    (root / "file.png").symlink_to(tmp_path / "else" / "b.png")
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(root / "pipe.png")
    assert ids(walk_folder(root, labelled=False)) == ["file.png", "folder/a.png", "gone.png"]
    with pytest.raises(UnreadableImage) as caught:
        read_bytes(root, ImageRecord("gone.png"))
    assert caught.value.code == "missing"


def test_a_link_to_a_folder_above_is_an_error(tmp_path):
    tree(tmp_path, "a/b/c.png")
    (tmp_path / "a" / "b" / "loop").symlink_to(tmp_path / "a")
    assert message(ValueError, walk_folder, tmp_path, labelled=False) == (
        f"{tmp_path}/a/b/loop is a link to a folder that it is in: remove it"
    )


@pytest.mark.parametrize("parts", [(b"\xe9.png",), (b"\xe9", b"a.png")])
def test_a_name_that_is_not_utf8_is_refused(tmp_path, parts):
    path = os.path.join(os.fsencode(tmp_path), *parts)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    first = parts[0] + (b"/" if len(parts) > 1 else b"")
    assert message(ValueError, walk_folder, tmp_path, labelled=False) == f"file name {first!r} is not UTF-8: rename it"


def test_names_of_any_letters_lead_to_their_bytes(tmp_path):
    names = ["ünï/ç ö.png", "日本/猫.png", "a\nb.png", "%41+b.png", "q?*[.png"]
    tree(tmp_path, *names)
    records = list(walk_folder(tmp_path, labelled=False))
    assert ids(records) == sorted(names, key=str.encode)
    assert [read_bytes(tmp_path, record) for record in records] == [name.encode() for name in sorted(names)]


def test_a_folder_is_read_only_when_it_is_reached(tmp_path):
    tree(tmp_path, "a/1.png", "b/2.png")
    records = walk_folder(tmp_path, labelled=False)
    assert next(records).id == "a/1.png"
    tree(tmp_path, "b/3.png")
    assert ids(records) == ["b/2.png", "b/3.png"]


# Tables


def table(tmp_path, text, *paths):
    tree(tmp_path / "images", *paths)
    (tmp_path / "labels.csv").write_bytes(text.encode())
    return tmp_path / "images", tmp_path / "labels.csv"


@pytest.mark.parametrize(
    "header", ["file,label", "Path , CLASS", "image,class_name", "filename,label", "\ufefffile,label"]
)
def test_a_table_names_files_and_classes(tmp_path, header):
    text = f'{header}\r\nb/x.png,wren\r\n\r\n"a, b.dat",crow hen \r\n./a.png,wren\r\n'
    root, csv_path = table(tmp_path, text, "b/x.png", "a, b.dat", "a.png", "c.png")
    records = list(walk_csv(root, csv_path))
    assert records == [
        ImageRecord("a, b.dat", "crow hen"),
        ImageRecord("a.png", "wren"),
        ImageRecord("b/x.png", "wren"),
    ]
    assert read_bytes(root, records[2]) == b"b/x.png"


def test_a_quoted_name_keeps_its_line_ends_and_dots_lead_nowhere(tmp_path):
    text = 'file,label\n"a\r\nb.png",crow\n..c.png,"w\rren"\n'
    root, csv_path = table(tmp_path, text, "a\r\nb.png", "..c.png")
    assert list(walk_csv(root, csv_path)) == [ImageRecord("..c.png", "w\rren"), ImageRecord("a\r\nb.png", "crow")]


def test_columns_stand_in_any_order_among_others(tmp_path):
    root, csv_path = table(tmp_path, "split,label,file\ntest,wren,a.png\n", "a.png")
    assert list(walk_csv(root, csv_path)) == [ImageRecord("a.png", "wren")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a.png,wren\n",
            "{csv} must have a header with one column of file, image, path, filename, got ['a.png', 'wren']",
        ),
        ("", "{csv} must have a header with one column of file, image, path, filename, got []"),
        ("file\na.png\n", "{csv} must have a header with one column of label, class, class_name, got ['file']"),
        (
            "file,path,label\n",
            "{csv} must have a header with one column of file, image, path, filename, got ['file', 'path', 'label']",
        ),
        ("file,label\na.png\n", "{csv}, line 2: expected 2 values with a file and a label, got ['a.png']"),
        ("file,label\na.png, \n", "{csv}, line 2: expected 2 values with a file and a label, got ['a.png', ' ']"),
        ("file,label\n,wren\n", "{csv}, line 2: expected 2 values with a file and a label, got ['', 'wren']"),
        (
            "file,label\n../a.png,x\n",
            "{csv}, line 2: '../a.png' must be a path inside of the images' folder, relative to it",
        ),
        (
            "file,label\n/a.png,x\n",
            "{csv}, line 2: '/a.png' must be a path inside of the images' folder, relative to it",
        ),
        ("file,label\na.png,x\nb/../a.png,y\n", "{csv} names 'a.png' more than once: keep one row"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, expected):
    root, csv_path = table(tmp_path, text, "a.png")
    assert message(ValueError, walk_csv, root, csv_path) == expected.format(csv=csv_path)


def test_missing_files_are_counted_before_anything_is_given_out(tmp_path):
    rows = "".join(f"{n}.png,x\n" for n in range(5))
    root, csv_path = table(tmp_path, "file,label\n" + rows, "2.png")
    with pytest.raises(FileNotFoundError) as caught:
        walk_csv(root, csv_path)
    assert str(caught.value) == f"4 of 5 files in {csv_path} are not in '{root}': '0.png', '1.png', '3.png', ..."
    (root / "0.png").touch()
    (root / "1.png").mkdir()
    assert message(FileNotFoundError, walk_csv, root, csv_path) == (
        f"3 of 5 files in {csv_path} are not in '{root}': '1.png', '3.png', '4.png'"
    )


# Archives


def test_archives_are_listed_by_name_and_offset_and_read_by_it(tmp_path):
    tar(tmp_path / "b.tar", [("0.png", b"third"), ("0.json", b"{}")])
    tar(tmp_path / "a.tar", [("z.jpg", b"first"), ("folder/a.webp", b"second, longer")])
    tar(tmp_path / ".hidden.tar", [("x.png", b"no")])
    tree(tmp_path, "readme.txt", "c.tar.txt")
    records = list(walk_tars(tmp_path))
    assert ids(records) == ["a.tar/z.jpg", "a.tar/folder/a.webp", "b.tar/0.png"]
    assert [record.size for record in records] == [5, 14, 5]
    assert [read_bytes(tmp_path, record) for record in records] == [b"first", b"second, longer", b"third"]
    for record in records:
        archive, _, member = record.id.partition("/")
        with tarfile.open(tmp_path / archive) as opened:
            assert opened.getmember(member).offset_data == record.offset
    assert {record.label for record in records} == {None}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_read(tmp_path, form):
    long = "folder/" * 12 + "a" * 90 + ".png"
    name = long if form == tarfile.USTAR_FORMAT else long * 2
    tar(tmp_path / "a.tar", [("./" + name, b"1"), ("ü.png", b"22")], format=form)
    records = list(walk_tars(tmp_path))
    assert ids(records) == [f"a.tar/{name}", "a.tar/ü.png"]
    assert [read_bytes(tmp_path, record) for record in records] == [b"1", b"22"]


def test_one_archive_and_a_pattern_name_archives_too(tmp_path, monkeypatch):
    for name in ("train-0.tar", "train-1.tar", "test-0.tar"):
        tar(tmp_path / name, [("a.png", name.encode())])
    for source, expected in (
        (tmp_path / "test-0.tar", ["test-0.tar"]),
        (tmp_path / "train-*.tar", ["train-0.tar", "train-1.tar"]),
        (tmp_path / "t*-[0].tar", ["test-0.tar", "train-0.tar"]),
    ):
        records = list(find_images(source))
        assert ids(records) == [f"{name}/a.png" for name in expected]
        assert [read_bytes(source, record).decode() for record in records] == expected
    monkeypatch.chdir(tmp_path)
    assert [read_bytes("test-0.tar", record) for record in walk_tars("test-0.tar")] == [b"test-0.tar"]


def test_an_archive_with_wildcards_in_its_name_is_itself(tmp_path):
    for name in ("a[1].tar", "a1.tar", "A1.tar"):
        tar(tmp_path / name, [("x.png", b"1")])
    assert ids(walk_tars(tmp_path / "a[1].tar")) == ["a[1].tar/x.png"]
    assert ids(walk_tars(tmp_path / "A?.tar")) == ["A1.tar/x.png"]


def test_labels_are_the_cls_beside_the_image_before_or_after(tmp_path):
    members = [("a.cls", b"7\n"), ("a.png", b"1"), ("b.left.jpg", b"2"), ("b.right.jpg", b"3"), ("b.cls", b"wren")]
    tar(tmp_path / "a.tar", [*members, ("c/b.cls", b"crow"), ("c/b.png", b"4")])
    assert [(record.id, record.label) for record in walk_tars(tmp_path)] == [
        ("a.tar/a.png", "7"),
        ("a.tar/b.left.jpg", "wren"),
        ("a.tar/b.right.jpg", "wren"),
        ("a.tar/c/b.png", "crow"),
    ]
    assert {record.label for record in find_images(tmp_path, labels="none")} == {None}


@given(st.permutations([f"{name}{suffix}" for name in "abc/" for suffix in (".png", ".CLS", ".left.jpg")]))
def test_labels_are_found_by_name_wherever_they_are(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("shuffled")
    names = [name.replace("/", "d/a") for name in names]
    tar(folder / "a.tar", [(name, name.partition(".")[0].encode()) for name in names])
    records = list(walk_tars(folder))
    images = [name for name in names if not name.endswith(".CLS")]
    assert [(record.id, record.label) for record in records] == [(f"a.tar/{n}", n.partition(".")[0]) for n in images]
    assert [read_bytes(folder, record).decode() for record in records] == [record.label for record in records]


def test_the_memory_of_a_long_archive_is_that_of_its_labels(tmp_path):
    n = 20_000
    names = [(f"{i:06d}.png", b"") for i in range(n)]
    tar(tmp_path / "a.tar", [*names, *((name.replace("png", "cls"), b"crow") for name, _ in names)])
    tracemalloc.start()
    n_crows = sum(record.label == "crow" for record in walk_tars(tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_crows == n
    assert peak < 700 * n


@pytest.mark.parametrize(
    ("members", "key", "n_cls", "n_others"),
    [
        ([("a.png", b"1"), ("a.cls", b"x"), ("b.png", b"2")], "b", 0, 1),
        ([("a.png", b"1"), ("b.png", b"2"), ("b.cls", b"x")], "b", 1, 0),
        ([("a.png", b"1"), ("b.png", b"2"), ("a.cls", b"x")], "b", 0, 1),
        ([("a.png", b"1"), ("A.cls", b"x")], "A", 1, 0),
        ([("a.cls", b"1"), ("a.png", b"2"), ("a.cls", b"x")], "a", 2, 1),
    ],
)
def test_some_labels_are_an_error(tmp_path, members, key, n_cls, n_others):
    path = tar(tmp_path / "a.tar", members)
    assert message(ValueError, walk_tars, tmp_path) == (
        f"{path}: sample {key!r} has {n_cls} .cls, where others have {n_others}: "
        "give every image one .cls member of its name, or none"
    )
    assert len(list(walk_tars(tmp_path, use_labels=False))) == sum(name.endswith("png") for name, _ in members)


def test_one_archive_with_labels_and_one_without_are_an_error(tmp_path):
    tar(tmp_path / "a.tar", [("a.png", b"1"), ("a.cls", b"x" * 512)])
    assert [record.label for record in walk_tars(tmp_path)] == ["x" * 512]
    path = tar(tmp_path / "b.tar", [("b.png", b"2")])
    assert message(ValueError, walk_tars, tmp_path).startswith(f"{path}: sample 'b' has 0 .cls, where others have 1: ")


@pytest.mark.parametrize("text", [b"", b" \n", b"\xff\xfe", b"x" * 513])
def test_a_cls_without_a_class_is_an_error(tmp_path, text):
    path = tar(tmp_path / "a.tar", [("a.cls", text), ("a.png", b"1")])
    assert message(ValueError, walk_tars, tmp_path) == (
        f"{path}: member 'a.cls' must hold a class as text, got {text[:20]!r}"
    )


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "a/../../b.png", ".."])
def test_members_that_lead_out_are_refused(tmp_path, name):
    path = tar(tmp_path / "a.tar", [(name, b"1")])
    assert message(ValueError, walk_tars, tmp_path) == f"{path}: member {name!r} leads out of the archive: rename it"


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE]
)
def test_members_that_are_no_plain_files_are_refused(tmp_path, kind):
    path = tar(tmp_path / "a.tar", [("a.png", b"1"), special("b.png", kind)])
    assert message(ValueError, walk_tars, tmp_path) == (
        f"{path}: member 'b.png' is a link, a device or a sparse file: archive plain files only"
    )


def test_folders_and_hidden_members_are_left_out(tmp_path):
    members = [special("folder", tarfile.DIRTYPE), ("._a.png", b"1"), (".git/b.png", b"2"), ("folder/c.png", b"3")]
    tar(tmp_path / "a.tar", members)
    assert ids(walk_tars(tmp_path)) == ["a.tar/folder/c.png"]


def test_an_archive_whose_name_is_not_utf8_is_refused(tmp_path):
    path = tar(tmp_path / "a.tar", [("a.png", b"1")])
    try:
        os.rename(path, os.path.join(os.fsencode(tmp_path), b"\xe9.tar"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert message(ValueError, walk_tars, tmp_path) == "file name b'\\xe9.tar' is not UTF-8: rename it"


def test_a_member_whose_name_is_not_utf8_is_refused(tmp_path):
    tar(tmp_path / "a.tar", [("é.png", b"1")], format=tarfile.USTAR_FORMAT, encoding="latin-1")
    assert message(ValueError, walk_tars, tmp_path) == "file name b'\\xe9.png' is not UTF-8: rename it"


@pytest.mark.parametrize(
    "suffix", ["tar.gz", "TAR.GZ", "tgz", "tar.xz", "txz", "tar.bz2", "tbz2", "tar.zst", "tar.lz4"]
)
def test_compressed_archives_are_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.touch()
    assert message(ValueError, find_images, path) == (
        f"{path} is compressed: decompress it (gunzip, unxz, unzstd ...), since images are read where they lie"
    )


def test_a_compressed_archive_is_refused_by_content(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    told = message(ValueError, walk_tars, tmp_path)
    assert told.startswith(f"{tmp_path}/a.tar is not an uncompressed tar archive, or is cut off (")
    assert told.endswith("): decompress it (gunzip, unxz, unzstd ...), since images are read where they lie")


def test_a_cut_off_archive_is_an_error_wherever_it_is_cut(tmp_path):
    path = tar(tmp_path / "a.tar", [("a.png", b"1" * 600), ("b.png", b"2" * 300)])
    whole = path.read_bytes()
    end = 512 + 1024 + 512 + 512
    for length in (1, 511, 512, 700, 1536, 1600, 2048, 2100, end, end + 100):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut off"):
            list(walk_tars(tmp_path))
    path.write_bytes(whole[: end + 512])
    assert len(list(walk_tars(tmp_path))) == 2


def test_a_damaged_header_does_not_end_the_list(tmp_path):
    path = tar(tmp_path / "a.tar", [("a.png", b"1"), ("b.png", b"2"), ("c.png", b"3")])
    damaged = bytearray(path.read_bytes())
    damaged[1024 + 150] ^= 1
    path.write_bytes(damaged)
    assert message(ValueError, walk_tars, tmp_path) == (
        f"{path} has no end mark at byte 1024: it was cut off or is damaged; make it again"
    )


def test_an_archive_that_became_shorter_is_truncated(tmp_path):
    path = tar(tmp_path / "a.tar", [("a.png", b"12345")])
    (record,) = walk_tars(tmp_path)
    path.write_bytes(path.read_bytes()[:515])
    with pytest.raises(UnreadableImage) as caught:
        read_bytes(tmp_path, record)
    assert str(caught.value) == "truncated: a.tar ends before byte 517: was it changed?"


def test_memory_does_not_grow_with_the_members(tmp_path):
    def peak(n):
        tar(tmp_path / "a.tar", ((f"{k}.png", b"") for k in range(n)))
        tracemalloc.start()
        assert sum(1 for _ in walk_tars(tmp_path)) == n
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(900) < peak(100) + 50_000


# The door


@pytest.mark.parametrize(
    ("paths", "labels", "expected"),
    [
        (("a/1.png", "b/2.png"), "auto", ["a", "b"]),
        (("a/1.png", "b/2.png", "readme.txt"), "auto", ["a", "b"]),
        (("a/b/1.png",), "auto", ["a"]),
        (("a/1.png", "2.png"), "auto", [None, None]),
        (("1.png", "2.png"), "auto", [None, None]),
        (("a/1.png", ".2.png"), "auto", ["a"]),
        (("a/1.png", "b/2.png"), "none", [None, None]),
        (("a/1.png", "b/2.png"), "folder", ["a", "b"]),
        (("a/1.png", "x.tar"), "folder", ["a"]),
        (("a/1.png", "notes.tar.txt"), "auto", ["a"]),
    ],
)
def test_labels_are_folders_unless_an_image_lies_outside_of_them(tmp_path, paths, labels, expected):
    assert [record.label for record in find_images(tree(tmp_path, *paths), labels=labels)] == expected


def test_a_table_and_archives_come_through_the_same_door(tmp_path):
    root, csv_path = table(tmp_path, "file,label\na.png,wren\n", "a.png", "b.png", "x.tar")
    assert list(find_images(root, labels=csv_path)) == [ImageRecord("a.png", "wren")]
    csv_path = csv_path.rename(tmp_path / "LABELS.CSV")
    assert list(find_images(root, labels=csv_path)) == [ImageRecord("a.png", "wren")]
    tar(tmp_path / "a.tar", [("a.cls", b"crow"), ("a.png", b"1")])
    assert [(record.id, record.label) for record in find_images(str(tmp_path / "a.tar"))] == [("a.tar/a.png", "crow")]


def test_what_the_door_refuses(tmp_path):
    root = tree(tmp_path, "notes.txt", ".a.png")
    assert message(ValueError, find_images, root) == f"no image under '{root}': looked for *.tar and {SUFFIXES}"
    assert message(ValueError, find_images, root, labels="foldr") == (
        "labels must be 'auto', 'folder', 'none' or a .csv file, got 'foldr'"
    )
    for gone in (root / "gone", root / "gone" / "further"):
        assert message(FileNotFoundError, find_images, gone, labels="folder") == (
            f"no folder and no archive at '{gone}': name a folder of images or *.tar, an archive or a pattern"
        )
    tar(root / "a.tar", [("a.png", b"1")])
    assert message(ValueError, find_images, root / "a.tar", labels="folder") == (
        "archives have labels in .cls members: labels must be 'auto' or 'none', got 'folder'"
    )
    tree(root, "b/c.png")
    assert message(ValueError, find_images, root) == (
        f"{root} has images and archives (a.tar): name the archives by a pattern ({root}/*.tar), "
        "move them out, or say labels folder for images in folders of classes"
    )


def test_the_door_refuses_at_once_and_reads_on_later(tmp_path):
    with pytest.raises(ValueError, match="no image under"):
        find_images(tmp_path)
    tree(tmp_path, "a/1.png", "b/2.png")
    records = find_images(tmp_path)
    tree(tmp_path, "b/3.png")
    assert ids(itertools.islice(records, 9)) == ["a/1.png", "b/2.png", "b/3.png"]


def test_a_file_without_bytes_or_leave_has_a_code(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(UnreadableImage) as caught:
        read_bytes(tmp_path, ImageRecord("a.png"))
    assert caught.value.code == "empty"
