"""Files of other programs become pools; no code in them is run, and no claim in them makes room for itself."""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fewshot.features import load_features
from fewshot.features.imports import import_features, join_cosines, join_text
from fewshot.features.imports.unpickler import read_pickle

ROWS = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


def written(path, content):
    """Write bytes, or the pickle of anything else."""
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return path


def assert_pool(pool, features=ROWS, labels=LABELS, names=("0", "1", "2")):
    torch.testing.assert_close(pool.features, torch.as_tensor(features))
    assert pool.labels.tolist() == torch.as_tensor(labels).tolist()
    assert pool.class_names == names


# Pickles that are what they should be


@in_a_folder
@given(
    npst.arrays(
        st.one_of(
            npst.integer_dtypes(endianness="?"),
            npst.unsigned_integer_dtypes(),
            npst.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
            npst.boolean_dtypes(),
            npst.unicode_string_dtypes(min_len=1, max_len=4),
        ),
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    st.sampled_from(PROTOCOLS),
    st.sampled_from(["C", "F"]),
)
def test_arrays_come_back_as_they_were(tmp_path, array, protocol, order):
    array = np.asarray(array, order=order)
    back = read_pickle(written(tmp_path / "a.pkl", pickle.dumps({"x": array, "y": [array]}, protocol)))
    assert back["x"].dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back["x"], array)
    np.testing.assert_array_equal(back["y"][0], array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_and_containers_come_back_as_they_were(tmp_path, protocol):
    content = {
        "view": ROWS.T[1:4, ::2],
        "half": ROWS.half(),
        "bfloat16": ROWS.bfloat16(),
        "labels": LABELS,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(ROWS),
        "ordered": OrderedDict(a=1, b=[None, True, 2.5]),
        "default": defaultdict(list, {3: [b"x", b"", "y"]}),
        "number": np.float32(1.5),
        "big": 2**70,
        "pair": (1, "two"),
    }
    back = read_pickle(written(tmp_path / "a.pkl", pickle.dumps(content, protocol)))
    assert list(back) == list(content)
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(back[name], value.detach())
        else:
            assert back[name] == value
    assert type(back["ordered"]) is type(back["default"]) is dict


# Pickles that are not


class Calls:
    """Pickled, it calls a function when opened."""

    def __init__(self, function, *words):
        self.function, self.words = function, words

    def __reduce__(self):
        return self.function, self.words


@pytest.fixture
def canary(tmp_path):
    """A path that a command would make; nothing did."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


def torch_file(content, **settings):
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"


def attacks(canary):
    """Name, pickle and the words of its refusal."""
    command = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    run = Calls(os.system, command)
    loads = b"ctorch.storage\n_load_from_bytes\n(B" + b"%s" + b"tR."

    def nested(stream):
        return loads.replace(b"%s", struct.pack("<I", len(stream)) + stream)

    return [
        *(
            (f"os.system, protocol {p}", pickle.dumps(run, p), r"refused (posix|os|nt)\.system: only")
            for p in PROTOCOLS
        ),
        ("eval", pickle.dumps(Calls(eval, code)), r"refused builtins\.eval: only"),
        ("exec", pickle.dumps(Calls(exec, code)), r"refused builtins\.exec: only"),
        (
            "getattr",
            pickle.dumps(Calls(getattr, "a", "upper")),
            "refused builtins",
        ),
        ("open", pickle.dumps(Calls(open, str(canary), "w")), r"refused _?io\.open: only"),
        ("subprocess", pickle.dumps(Calls(subprocess.Popen, ["touch", str(canary)])), r"refused subprocess\.Popen"),
        ("import", pickle.dumps(Calls(builtins.__import__, "antigravity")), r"refused builtins\.__import__"),
        ("numpy's loader", pickle.dumps(Calls(np.load, str(canary), None, True)), r"refused numpy\.load"),
        ("torch's loader", b"ctorch.serialization\nload\n(Vx\ntR.", r"refused torch\.serialization\.load"),
        ("among arrays", pickle.dumps({"features": ROWS.numpy(), "labels": [run]}), "refused"),
        ("after the arrays", pickle.dumps([ROWS, {"x": run}]), "refused"),
        ("as a key", b"}cos\nsystem\nI1\ns.", r"refused os\.system"),
        ("an object array", pickle.dumps(np.array([run, None])), "refused arrays of dtype 'O8'"),
        ("an array of harmless objects", pickle.dumps(np.array([1, None])), "refused arrays of dtype 'O8'"),
        ("a structured array", pickle.dumps(np.zeros(2, [("a", "f4")])), "refused arrays of dtype 'V4'"),
        ("dates", pickle.dumps(np.zeros(2, "M8[s]")), "refused arrays of dtype 'M8'"),
        (
            "a foreign class to reconstruct",
            f"cnumpy.core.multiarray\n_reconstruct\n(csubprocess\nPopen\n(V{command}\ntVb\ntR.".encode(),
            r"refused subprocess\.Popen",
        ),
        (
            "a state of objects",
            ARRAY + b"(I1\n(I1\ntcnumpy\ndtype\n(VO8\nI0\nI1\ntRI0\n(lp0\ntb.",
            "refused arrays of dtype",
        ),
        ("a state that is none", ARRAY + b"}Vx\nI1\nsb.", "expected an array's shape, dtype and bytes, got dict"),
        ("an array as a dtype", ARRAY + ARRAY + b"b.", "expected an array's shape, dtype and bytes"),
        (
            "a structure by state",
            b"cnumpy\ndtype\n(Vf4\ntR(I3\nV<\nN(Va\nt}Va\nI1\nsI-1\ntb.",
            "refused a structured dtype",
        ),
        ("a name with dots", b"\x80\x04\x8c\x05numpy\x8c\x09os.system\x93.", r"refused numpy\.os\.system"),
        ("a name out of a module", b"\x80\x04\x8c\x0btorch._util\x8c\x06sys.os\x93.", r"refused torch\._util\.sys\.os"),
        ("a name that is none", b"\x80\x04K\x01K\x02\x93.", "expected a pickle of arrays, got a damaged one"),
        ("an instance", f"(V{command}\nios\nsystem\n.".encode(), "refused the pickle instruction INST"),
        ("an object", f"(cos\nsystem\nV{command}\no.".encode(), "refused the pickle instruction OBJ"),
        ("a new object", b"\x80\x02cnumpy\ndtype\n)\x81.", "refused the pickle instruction NEWOBJ"),
        ("a new object with words", b"\x80\x04cnumpy\ndtype\n)}\x92.", "refused the pickle instruction NEWOBJ_EX"),
        ("a persistent id", b"Pos.system\n.", "refused the pickle instruction PERSID"),
        ("a persistent object", b"\x80\x02Vx\nQ.", "refused the pickle instruction BINPERSID"),
        ("an extension", b"\x80\x02\x82\x01.", "refused the pickle instruction EXT1"),
        ("a buffer from elsewhere", b"\x80\x05\x97.", "refused the pickle instruction NEXT_BUFFER"),
        ("a function changed", b"cnumpy\ndtype\n}V__wrapped__\nI1\nsb.", "refused to change a function"),
        ("a function's slots changed", b"cnumpy\ndtype\n(N}V_build\nI1\nstb.", "refused to change a function"),
        ("a function handed out", b"]cnumpy\ndtype\na.", "refused a function among the contents"),
        ("a type called", b"cbuiltins\nlist\n(I1\ntR.", "refused to call a type"),
        (
            "a change of what is built",
            nested(torch_file(ROWS.untyped_storage()))[:-1] + b"}b.",
            "refused to change a TypedStorage",
        ),
        (
            "a tensor without storage",
            b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI0\n(t(tI00\nNtR.",
            "expected a tensor's",
        ),
        (
            "torch.load inside",
            nested(torch_file({"x": run}, _use_new_zipfile_serialization=False)),
            "got pickled objects",
        ),
        ("torch.load inside, zipped", nested(torch_file({"x": run})), "got pickled objects"),
        ("a tensor's bytes that are a pickle", nested(pickle.dumps(run)), "got pickled objects or a damaged file"),
        ("a circle", b"(lp0\ng0\na.", "refused containers nested more than 4 deep"),
        ("a tower", b"(" * 5000 + b"l" * 5000 + b".", "refused containers nested more than 4 deep"),
        ("no pickle", b"features,labels\n", "expected a pickle of arrays, got a damaged one"),
        ("nothing", b"", "expected a pickle of arrays, got a damaged one"),
    ]


NAMES = [name for name, _, _ in attacks("x")]


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_nothing_but_arrays_is_read_and_nothing_is_run(canary, tmp_path, index):
    _, content, message = attacks(canary)[index]
    path = written(tmp_path / "a.plk", content)
    before = set(sys.modules)
    with pytest.raises(ValueError, match=message):
        read_pickle(path)
    assert "antigravity" not in set(sys.modules) - before
    with pytest.raises(ValueError, match=f"^{path}: ") as refused:
        import_features(path)
    assert "\n" not in str(refused.value)


def test_the_canary_is_alive(tmp_path):
    # What the attacks would do, had plain pickle opened them.
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {tmp_path / 'canary'}")))
    assert (tmp_path / "canary").exists()


HUGE = 1 << 44
F4 = b"cnumpy\ndtype\n(Vf4\ntR"
STORAGE = torch_file(ROWS.untyped_storage(), _use_new_zipfile_serialization=False)


def claims():
    """Name, a small pickle that claims to be immense, and the words of its refusal."""
    typed = pickle.dumps(ROWS, 2)
    stride = pickle.dumps(ROWS[:1].clone(), 2).replace(b"K\x01K\x05\x86", b"\x8a\x06\xff\xff\xff\xff\xff\x00K\x05\x86")
    return [
        ("bytes", b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"x.", "expected a pickle of arrays, got a damaged"),
        (
            "a bytearray",
            b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b"x.",
            "expected a pickle of arrays, got a damaged",
        ),
        ("text", b"\x80\x04\x8d" + struct.pack("<Q", HUGE) + b"x.", "expected a pickle of arrays, got a damaged"),
        ("a frame", b"\x80\x04\x95" + struct.pack("<Q", HUGE) + b"N.", "expected a pickle of arrays, got a damaged"),
        ("a memo", b"\x80\x02]r\xff\xff\xff\x7f.", "refused a memo of 2,147,483,647 entries"),
        ("a memo in text", b"(lp999999999\n.", "refused a memo of 999,999,999 entries"),
        (
            "an array's shape",
            ARRAY + b"(I1\n(L%dL\nt" % HUGE + F4 + b"I0\nVaaaa\ntb.",
            "needs 70,368,744,177,664 bytes, got 4",
        ),
        ("a negative shape", ARRAY + b"(I1\n(I-1\nt" + F4 + b"I0\nVaaaa\ntb.", "expected an array's shape"),
        (
            "a buffer's shape",
            b"cnumpy.core.numeric\n_frombuffer\n(Vaaaa\n" + F4 + b"(I9999\ntVC\ntR.",
            "needs 39,996 bytes",
        ),
        ("a tensor's size", typed.replace(b"K\x0cK\x05\x86", b"M\xff\xffK\x05\x86"), "claims more numbers than the 60"),
        ("a tensor's rows", stride, "claims more numbers"),
        (
            "a tensor's row many times",
            pickle.dumps(ROWS[:1].clone().expand(40, 5)),
            "claims more numbers than the 5 it",
        ),
    ]


@pytest.mark.parametrize("index", range(len(claims())), ids=[name for name, _, _ in claims()])
def test_claims_make_no_room_for_themselves(tmp_path, index):
    import tracemalloc

    _, content, message = claims()[index]
    path = written(tmp_path / "a.plk", content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        read_pickle(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_one_array_built_many_times_is_refused(tmp_path):
    raw = bytes(1 << 16)
    encoded = b"c_codecs\nencode\n(X" + struct.pack("<I", len(raw)) + raw + b"Vlatin1\ntp1\nR."
    again = b"0c_codecs\nencode\ng1\nR"
    for n, is_read in ((3, True), (200, False)):
        path = written(tmp_path / "a.pkl", encoded[:-1] + n * again + b".")
        if is_read:
            assert read_pickle(path) == raw
        else:
            with pytest.raises(ValueError, match="refused to build more than four times what the file holds"):
                read_pickle(path)
    # the bytes of one array, as the state of many
    state = b"(I1\n(I65536\ntcnumpy\ndtype\n(Vu1\ntRI0\nB" + struct.pack("<I", len(raw)) + raw + b"tp1\nb"
    content = b"(" + ARRAY + state + 200 * (ARRAY + b"g1\nb") + b"l."
    with pytest.raises(ValueError, match="refused to build more than four times what the file holds"):
        read_pickle(written(tmp_path / "b.pkl", content))


def test_one_row_named_many_times_is_refused(tmp_path):
    row = list(range(300))
    path = written(tmp_path / "a.pkl", {"features": [row] * 30_000, "labels": [0] * 30_000})
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match="most feature vectors are one and the same object"):
        import_features(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_pickles_are_refused_or_read(tmp_path, data):
    content = bytearray(
        pickle.dumps(
            {"features": ROWS.numpy()[:3], "x": ROWS[:2], "labels": [0, 1, 2]}, data.draw(st.sampled_from(PROTOCOLS))
        )
    )
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            del content[place:]
            break
        content = content or bytearray(b".")
    with contextlib.suppress(ValueError):
        read_pickle(written(tmp_path / "a.pkl", bytes(content)))


def test_files_of_torch_save_run_nothing_either(canary, tmp_path):
    for name in ("a.pt", "a.plk"):
        path = written(tmp_path / name, torch_file({"features": Calls(os.system, f"touch {canary}")}))
        with pytest.raises(ValueError, match=rf"^{path}: refused (posix|os|nt)\.system: only tensors"):
            import_features(path)
    path = written(tmp_path / "a.pt", pickle.dumps(Calls(os.system, f"touch {canary}")))
    with pytest.raises(ValueError, match=f"^{path}: "):
        import_features(path)


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1_000_000))
    with pytest.raises(ValueError, match="refused an archive that unpacks to 1,000,000 bytes"):
        import_features(path)


# What the files hold


@pytest.mark.parametrize(
    "content",
    [
        {"concat_features": ROWS, "concat_labels": LABELS},
        {"concat_features": ROWS.numpy(), "concat_labels": LABELS.numpy()},
        {"concat_features": ROWS[:, :, None, None], "concat_labels": LABELS[:, None]},
        {"features": list(ROWS.numpy()), "labels": LABELS.tolist()},
        {"embeddings": ROWS.tolist(), "targets": LABELS.float()},
        {"features": ROWS, "labels": torch.eye(3)[LABELS]},
        (ROWS, LABELS),
        [ROWS.numpy(), LABELS.tolist()],
    ],
    ids=["unem", "arrays", "with empty dimensions", "lists of arrays", "lists", "one-hot", "a pair", "a list"],
)
def test_pickles_of_features(tmp_path, content):
    path = written(tmp_path / "output.plk", content)
    pool = import_features(path)
    assert_pool(pool)
    assert pool.source["files"] == [str(path)]
    assert (pool.source["format"], len(pool.source["sha256"])) == ("pickle", 64)


def test_a_dict_of_classes(tmp_path):
    rows = defaultdict(list)
    for row, label in zip(ROWS.numpy(), LABELS.tolist(), strict=True):
        rows[label + 7].append(row)
    pool = import_features(written(tmp_path / "output.plk", rows))
    assert_pool(pool, torch.cat([ROWS[k::3] for k in range(3)]), [0] * 4 + [1] * 4 + [2] * 4, ("7", "8", "9"))


def test_names_of_classes_are_kept(tmp_path):
    content = {"features": ROWS, "labels": LABELS * 2, "class_names": ["ant", "bee", "cat", "dog", "elk"]}
    assert import_features(written(tmp_path / "a.pkl", content)).class_names == ("ant", "cat", "elk")
    content = {"features": ROWS, "class_name": ["wren", "crow", "jay"] * 4}
    assert import_features(written(tmp_path / "a.pkl", content)).class_names == ("crow", "jay", "wren")


def test_parts_can_be_named(tmp_path):
    path = written(tmp_path / "a.pkl", {"layer3": ROWS[:, :2], "layer4": ROWS, "species": LABELS, "label": [0] * 12})
    with pytest.raises(ValueError, match="no features found among 'layer3', 'layer4', 'species', 'label': name"):
        import_features(path)
    assert_pool(import_features(path, embedding="layer4", label="species"))
    with pytest.raises(ValueError, match="unknown embedding 'layer5': did you mean 'layer4'"):
        import_features(path, embedding="layer5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"features": ROWS, "labels": LABELS[:5]}, "expected a label for each of 12 rows of features, got 5"),
        (
            {"features": ROWS.reshape(2, 3, 10)},
            r"expected one vector for each item, got features of shape \(2, 3,",
        ),
        ({"features": ROWS[:, 0]}, r"expected features of shape \(n, n_features\), got shape \(12,\)"),
        ({"features": "text"}, r"expected features of shape \(n, n_features\), got str"),
        ({"features": [[1.0, 2.0], [3.0]]}, "the feature vectors differ in length: from 1 to 2"),
        ({"features": [["a"], ["b"]]}, "expected feature vectors of numbers, got lists of other things"),
        ({"features": []}, "expected a list of feature vectors, got an empty list"),
        ({"features": ROWS, "labels": ROWS[:, :3]}, "expected labels as one number or one-hot row for each item"),
        ({"features": ROWS, "labels": "abc"}, "expected labels, one for each row, got str"),
        ({"features": ROWS * torch.nan, "labels": LABELS}, "features has 60 NaN"),
        ({}, "no features found among nothing"),
        ({0: ROWS, 1: ROWS[:, :2]}, "no features found among 0, 1, and as rows of classes they differ in length"),
        (3, r"expected a dict, a pair \(features, labels\) or an array, got int"),
    ],
)
def test_what_makes_no_pool_is_said_in_one_line(tmp_path, content, message):
    path = written(tmp_path / "a.pkl", content)
    with pytest.raises(ValueError, match=f"^{path}: {message}") as refused:
        import_features(path)
    assert "\n" not in str(refused.value)


def test_tip_adapters_files_find_their_labels(tmp_path):
    torch.save(ROWS.half(), tmp_path / "test_f.pt")
    torch.save(LABELS, tmp_path / "test_l.pt")
    assert_pool(import_features(tmp_path / "test_f.pt"), ROWS.half().float())
    torch.save(ROWS.T, tmp_path / "keys_4shots.pt")
    torch.save(torch.eye(3)[LABELS].half(), tmp_path / "values_4shots.pt")
    assert_pool(import_features(tmp_path / "keys_4shots.pt"))
    # as many items as features: keys are turned all the same
    torch.save(ROWS[:5].T.contiguous(), tmp_path / "keys_5.pt")
    torch.save(torch.eye(3)[LABELS[:5]], tmp_path / "values_5.pt")
    assert_pool(import_features(tmp_path / "keys_5.pt"), ROWS[:5], LABELS[:5])


def test_without_labels_every_row_is_unlabelled(tmp_path):
    torch.save(ROWS, tmp_path / "rows.pt")
    pool = import_features(tmp_path / "rows.pt")
    assert pool.labels.tolist() == [-1] * 12
    assert pool.n_classes == 0


def test_the_name_does_not_decide_what_a_file_is(tmp_path):
    assert_pool(import_features(written(tmp_path / "a.pt", (ROWS, LABELS))))
    for is_zip in (True, False):
        content = torch_file({"features": ROWS, "labels": LABELS}, _use_new_zipfile_serialization=is_zip)
        assert_pool(import_features(written(tmp_path / "a.plk", content)))


def test_arrays_of_coop(tmp_path):
    np.savez(tmp_path / "a.npz", feature_list=ROWS.numpy(), label_list=LABELS.numpy())
    assert_pool(import_features(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", feature_list=np.array([None, 1]))
    with pytest.raises(ValueError, match=r"b\.npz: "):
        import_features(tmp_path / "b.npz")
    written(tmp_path / "c.npz", b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"c\.npz: expected arrays of numbers or text, got a damaged file"):
        import_features(tmp_path / "c.npz")


def test_what_every_command_reads_is_read_too(tmp_path):
    pool = load_features("digits")
    pool.save(tmp_path / "a.safetensors")
    back = import_features(tmp_path / "a.safetensors")
    assert_pool(back, pool.features, pool.labels, pool.class_names)


def test_names_and_kinds_that_are_not_known(tmp_path):
    with pytest.raises(ValueError, match=r"unknown kind of file '\.plx': did you mean '\.plk'\? Known: \.csv, "):
        import_features(tmp_path / "a.plx")
    with pytest.raises(ValueError, match="unknown format 'pickel': did you mean 'pickle'"):
        import_features(tmp_path / "a.plk", format="pickel")
    with pytest.raises(FileNotFoundError, match=r"^no such file or folder: .*/store$"):
        import_features(tmp_path / "store")
    with pytest.raises(ValueError, match=r": a folder must be a feature store or .*make features of them with fewshot"):
        import_features(tmp_path)
    for name in ("a.plk", "a.pt", "a.npz", "a.parquet"):
        with pytest.raises(FileNotFoundError, match=r"^no such file: "):
            import_features(tmp_path / name)


# Tables


def test_easyfsls_parquet_is_read_by_every_command_too(tmp_path):
    pandas = pytest.importorskip("pandas")
    # as easyfsl's FeaturesDataset takes it: one vector and one class name a row
    frame = pandas.DataFrame({"embedding": list(ROWS.numpy()), "class_name": ["wren", "crow", "jay"] * 4})
    frame.to_parquet(tmp_path / "a.parquet")
    for pool in (import_features(tmp_path / "a.parquet"), load_features(tmp_path / "a.parquet")):
        assert_pool(pool, labels=[2, 0, 1] * 4, names=("crow", "jay", "wren"))
    frame.assign(class_name=frame["class_name"].astype("category")).to_parquet(tmp_path / "b.parquet")
    assert_pool(import_features(tmp_path / "b.parquet"), labels=[2, 0, 1] * 4, names=("crow", "jay", "wren"))


def dataset_folder(folder, columns, *, features=None, n_files=1):
    """Write what ``datasets`` writes: Arrow streams, and a list of them."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    names = [f"data-{i:05d}-of-{n_files:05d}.arrow" for i in range(n_files)]
    step = -(-len(table) // n_files)
    for i, name in enumerate(names):
        part = table.slice(i * step, step)
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, part.schema) as writer:
            writer.write_table(part, max_chunksize=4)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(state))


def vectors(rows, kind):
    pa = pytest.importorskip("pyarrow")
    kinds = {
        "list": pa.list_(pa.float32()),
        "fixed": pa.list_(pa.float32(), 5),
        "nested": pa.list_(pa.list_(pa.float32())),
    }
    return pa.array([[row] if kind == "nested" else row for row in rows.tolist()], kinds[kind])


CLASS_LABEL = {"label": {"names": ["ant", "bee", "cat", "dog"], "_type": "ClassLabel"}}


@pytest.mark.parametrize("kind", ["list", "fixed", "nested"])
@pytest.mark.parametrize("n_files", [1, 3])
def test_folders_of_datasets(tmp_path, kind, n_files):
    columns = {
        "image_id": [f"{i}.jpg" for i in range(12)],
        "vector": vectors(ROWS, kind),
        "label": LABELS.tolist(),
        "width": [1.5] * 12,
    }
    dataset_folder(tmp_path / "a", columns, features=CLASS_LABEL, n_files=n_files)
    pool = import_features(tmp_path / "a")
    assert_pool(pool, names=("ant", "bee", "cat"))
    assert pool.ids == tuple(columns["image_id"])
    assert pool.source["format"] == "datasets"


def test_folders_of_several_splits(tmp_path):
    for name, rows in (("train", ROWS), ("test", ROWS[:6])):
        dataset_folder(
            tmp_path / "a" / name, {"embedding": vectors(rows, "list"), "label": LABELS[: len(rows)].tolist()}
        )
    (tmp_path / "a" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(ValueError, match="the folder holds the splits train, test: choose one with --split"):
        import_features(tmp_path / "a")
    with pytest.raises(ValueError, match="unknown split 'tst': did you mean 'test'"):
        import_features(tmp_path / "a", split="tst")
    assert_pool(import_features(tmp_path / "a", split="test"), ROWS[:6], LABELS[:6])


def test_columns_that_do_not_tell(tmp_path):
    both = {
        "clip": vectors(ROWS, "list"),
        "dino": vectors(ROWS[:, :2], "list"),
        "coarse": [0] * 12,
        "fine": LABELS.tolist(),
    }
    named = {name: {"names": ["x", "y", "z"], "_type": "ClassLabel"} for name in ("coarse", "fine")}
    dataset_folder(tmp_path / "a", both, features=named)
    with pytest.raises(
        ValueError, match="expected one column of vectors, got the columns clip, dino, coarse, fine: name"
    ):
        import_features(tmp_path / "a")
    pool = import_features(tmp_path / "a", embedding="clip", label="fine")
    assert_pool(pool, names=("x", "y", "z"))
    with pytest.raises(ValueError, match="unknown embedding 'fine'"):
        import_features(tmp_path / "a", embedding="fine")


def test_vectors_that_are_missing_or_of_several_lengths(tmp_path):
    pa = pytest.importorskip("pyarrow")
    for rows, message in [
        ([[1.0], [2.0, 3.0], [4.0]], "the vectors in column 'x' differ in length"),
        ([[1.0, 2.0, 3.0], [2.0]], "the vectors in column 'x' differ in length"),
        ([[1.0], None], "column 'x' has 1 empty rows of 2"),
        ([], "column 'x' has 0 empty rows of 0"),
    ]:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        dataset_folder(folder, {"x": pa.array(rows, pa.list_(pa.float32()))})
        with pytest.raises(ValueError, match=message):
            import_features(folder)


def test_folders_name_no_files_elsewhere(tmp_path):
    dataset_folder(tmp_path / "a", {"x": vectors(ROWS, "list")})
    state = {"_data_files": [{"filename": "../b/data-00000-of-00001.arrow"}]}
    (tmp_path / "a" / "state.json").write_text(json.dumps(state))
    dataset_folder(tmp_path / "b", {"x": vectors(ROWS, "list")})
    with pytest.raises(ValueError, match="which lies outside the folder"):
        import_features(tmp_path / "a")
    (tmp_path / "a" / "state.json").write_text(json.dumps(state | {"_indices_files": [{"filename": "i"}]}))
    with pytest.raises(ValueError, match="the rows are chosen by a list of indices: save the result of"):
        import_features(tmp_path / "a")


def test_folders_of_datasets_itself(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"embedding": datasets.Sequence(datasets.Value("float32")), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    made = datasets.Dataset.from_dict({"embedding": ROWS.tolist(), "label": LABELS.tolist()}, features=features)
    made.select(range(11, -1, -1)).save_to_disk(tmp_path / "a")
    assert_pool(import_features(tmp_path / "a"), ROWS.flip(0), LABELS.flip(0), ("a", "b", "c"))


# Cosines beside embeddings


def test_cosines_of_texts_stand_before_the_embeddings(tmp_path):
    pool = import_features(written(tmp_path / "a.pkl", {"features": 3 * ROWS, "labels": LABELS + 1}))
    text = 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([torch.cosine_similarity(row, t, dim=0) for row in ROWS for t in text[1:4]]).view(12, 3)
    for given_text in (text, text.T):  # the names 1, 2, 3 say which texts are theirs
        joined = join_text(pool, given_text, "t.pt")
        torch.testing.assert_close(joined.features, torch.cat([expected, 3 * ROWS], 1))
    assert joined.source["n_cosines"] == 3
    assert (joined.labels.tolist(), joined.class_names) == (pool.labels.tolist(), pool.class_names)


@pytest.mark.parametrize(
    ("join", "part", "message"),
    [
        (join_cosines, torch.zeros(5, 3), r"^t: expected cosines for 12 rows, got shape \(5, 3\)$"),
        (join_cosines, torch.zeros(12, 2), "^t: expected a text for each of the 3 classes, got 2$"),
        (join_cosines, torch.full((12, 3), 30.0), r"^t: expected cosines in \[-1, 1\], got values up to 30$"),
        (join_text, torch.ones(3, 4), r"^t: expected texts of 5 features, as the embeddings have, got shape \(3, 4\)$"),
        (join_text, torch.ones(2, 5), "^t: expected a text for each of the 3 classes, got 2$"),
    ],
)
def test_cosines_that_do_not_fit(tmp_path, join, part, message):
    pool = import_features(written(tmp_path / "a.pkl", {"features": ROWS, "label": ["wren", "crow", "jay"] * 4}))
    with pytest.raises(ValueError, match=message):
        join(pool, part, "t")


def test_reading_needs_no_import_of_what_a_file_names():
    # The table of names is written down: a subprocess reads a pickle of arrays without NumPy's own rebuilders.
    code = Path(sys.modules["fewshot.features.imports.unpickler"].__file__).read_text()
    assert "import_module" not in code
    assert "super().find_class" not in code
