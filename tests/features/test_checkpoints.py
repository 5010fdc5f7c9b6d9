"""Checkpoints are read without running them, and loaded whole or not at all."""

from __future__ import annotations

import argparse
import io
import os
import re
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from fewshot.features.backbones.checkpoints import (
    PREFIXES,
    load_state_dict_file,
    load_strictly,
    strip_prefixes,
    unwrap,
)

NAMES = st.lists(st.sampled_from(["blocks", "0", "norm", "module", "backbone", "encoder", "my_module", "weight"]))


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class Stranger:
    """An object of a class that nobody allowed."""


def raises(kind, message, call, *arguments):
    with pytest.raises(kind, match=f"^{re.escape(message)}$") as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)


# Reading


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_training_checkpoint_opens_with_its_arguments_and_numpy_learning_rate(is_zip, tmp_path):
    weight = torch.arange(6.0).view(2, 3)
    checkpoint = {
        "teacher": OrderedDict(weight=weight, half=weight.half()),
        "args": argparse.Namespace(arch="vit_small", scales=(0.1, [None, True])),
        "lr": [np.float64(0.25), np.float32(0.5), np.int64(3)],
        "epoch": 7,
    }
    torch.save(checkpoint, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    read = load_state_dict_file(tmp_path / "a.pth")
    assert torch.equal(read["teacher"]["weight"], weight)
    assert read["teacher"]["half"].dtype == torch.float16
    assert (read["args"], read["lr"], read["epoch"]) == (checkpoint["args"], [0.25, 0.5, 3], 7)


def test_numpy_scalars_pickled_by_either_generation_of_numpy_are_read(tmp_path):
    buffer = io.BytesIO()
    torch.save({"lr": np.float64(0.25)}, buffer, _use_new_zipfile_serialization=False)
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        pickled = re.sub(rb"numpy\._?core\.multiarray", module, buffer.getvalue())
        (tmp_path / "a.pth").write_bytes(pickled)
        assert module in pickled
        assert load_state_dict_file(tmp_path / "a.pth") == {"lr": 0.25}


def test_pth_and_safetensors_give_the_same_weights(tmp_path):
    state = {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(5).half(), "n": torch.tensor(7)}
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        read = load_state_dict_file(tmp_path / name)
        assert set(read) == set(state)
        assert all(torch.equal(read[key], state[key]) and read[key].dtype == state[key].dtype for key in state)


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_checkpoint_is_refused_by_its_name_and_does_not_run(is_zip, tmp_path):
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    torch.save({"weight": torch.ones(2), "x": Harmful(trace)}, path, _use_new_zipfile_serialization=is_zip)
    message = (
        f"{path}: refused, since it holds a {os.mkdir.__module__}.mkdir, and only tensors, plain values and "
        "argparse.Namespace are read: save its state_dict alone"
    )
    raises(ValueError, message, load_state_dict_file, path)
    assert not trace.exists()


def test_an_object_of_another_class_and_a_numpy_array_are_refused_by_name(tmp_path):
    path = tmp_path / "a.pth"
    for value, name in ((Stranger(), f"{__name__}.Stranger"), (np.zeros(3), r"numpy._core.multiarray._reconstruct")):
        torch.save({"x": value}, path)
        message = (
            f"{path}: refused, since it holds a {name}, and only tensors, plain values and argparse.Namespace are "
            "read: save its state_dict alone"
        )
        with pytest.raises(ValueError, match=re.escape(message).replace("numpy\\._core", r"numpy\._?core")):
            load_state_dict_file(path)


def test_what_is_allowed_for_one_file_is_not_left_allowed(tmp_path):
    torch.save({"args": argparse.Namespace()}, tmp_path / "a.pth")
    load_state_dict_file(tmp_path / "a.pth")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    raises(FileNotFoundError, f"no such checkpoint: {tmp_path}/a.pth", load_state_dict_file, tmp_path / "a.pth")
    raises(FileNotFoundError, f"no such checkpoint: {tmp_path}", load_state_dict_file, tmp_path)


def test_the_beginning_of_a_checkpoint_is_told(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.ones(50)}, path)
    path.write_bytes(path.read_bytes()[:-200])
    message = f"{path}: expected a whole checkpoint, got the beginning of one: download it again"
    raises(ValueError, message, load_state_dict_file, path)


def old_checkpoint():
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(50)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def array_file():
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.ones(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "contents",
    [b"", b"<html>not found</html>", b"version https://git-lfs", old_checkpoint()[:-5], array_file()],
    ids=["empty", "page", "pointer", "half of an old checkpoint", "npz"],
)
def test_what_torch_did_not_save_is_told(contents, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(contents)
    message = f"{path}: expected a checkpoint written by torch.save, got something else or a part of one"
    raises(ValueError, message, load_state_dict_file, path)


def test_a_torchscript_program_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch call TorchScript old
        torch.jit.save(torch.jit.trace(nn.Linear(2, 3), torch.ones(5, 2)), path)
    message = f"{path}: refused, since it is a TorchScript program, and nothing is run: save its state_dict alone"
    raises(ValueError, message, load_state_dict_file, path)


def test_half_a_safetensors_file_is_told(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(50)}, path)
    path.write_bytes(path.read_bytes()[:-7])
    message = f"^{re.escape(str(path))}: expected a safetensors file, got something else or a part of one \\(.+\\)$"
    with pytest.raises(ValueError, match=message):
        load_state_dict_file(path)


def test_a_file_with_one_tensor_is_told(tmp_path):
    torch.save(torch.ones(3), tmp_path / "a.pth")
    message = f"{tmp_path}/a.pth: expected a checkpoint with names and tensors, got one Tensor"
    raises(ValueError, message, load_state_dict_file, tmp_path / "a.pth")


# Finding the weights


def test_weights_are_looked_for_under_the_key_then_state_dict_then_model_then_at_the_top():
    states = {key: {key: torch.ones(1)} for key in ("teacher", "student", "state_dict", "model")}
    assert list(unwrap(states)) == ["teacher"]
    assert list(unwrap(states, "student")) == ["student"]
    assert list(unwrap(states, "ema")) == ["state_dict"]
    assert list(unwrap({"epoch": 7, "model": states["model"]})) == ["model"]
    assert list(unwrap({"norm.bias": torch.ones(1)})) == ["norm.bias"]


@pytest.mark.parametrize(
    ("checkpoint", "found"),
    [
        ({"epoch": 7, "student": {"a": torch.ones(1)}}, "epoch, student"),
        ({"model": "vit_small", "epoch": 7, "args": 0, "lr": 1, "step": 2}, "model, epoch, args and 2 more"),
        ({"state_dict": {"a": torch.ones(1), "step": 7}}, "state_dict"),
        ({}, "nothing"),
    ],
)
def test_a_checkpoint_without_weights_is_told(checkpoint, found):
    message = (
        "expected weights under 'ema', 'state_dict', 'model' or at the top level of the checkpoint, "
        f"got {found}: name the key that holds them"
    )
    raises(ValueError, message, unwrap, checkpoint, "ema")


@given(st.lists(st.sampled_from(PREFIXES)), NAMES)
def test_only_the_prefixes_in_front_go_and_all_of_them(prefixes, parts):
    name = ".".join(["core", *parts])
    assert list(strip_prefixes({"".join(prefixes) + name: torch.ones(1)})) == [name]


@given(NAMES.filter(bool), st.permutations(PREFIXES))
def test_stripping_twice_or_in_another_order_is_stripping_once(parts, prefixes):
    once = strip_prefixes({".".join(parts): torch.ones(1)})
    assert strip_prefixes(once) == once == strip_prefixes({".".join(parts): once[next(iter(once))]}, prefixes)


def test_two_names_that_become_one_are_told():
    message = "two tensors of the checkpoint are called 'norm.bias' without their prefixes"
    raises(ValueError, message, strip_prefixes, {"module.norm.bias": torch.ones(1), "norm.bias": torch.ones(1)})


# Loading


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 5))


def test_a_whole_state_is_copied_and_widened():
    target, source = network(), network()
    load_strictly(target, {name: value.half() for name, value in source.state_dict().items()}, "weights")
    assert target[0].weight.dtype == torch.float32
    torch.testing.assert_close(target[0].weight, source[0].weight.half().float(), atol=0, rtol=0)


def test_what_is_missing_left_over_or_mis_shaped_is_one_line_and_nothing_is_copied():
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {f"{'new.' if name.startswith('1.') else ''}{name}": value + 1 for name, value in before.items()}
    state["2.weight"] = state["2.weight"].T
    state["0.bias"] = torch.zeros(7)
    message = (
        "a.pth: expected the network's 9 tensors, got 5 missing: 1.weight, 1.bias, 1.running_mean and 2 more; "
        "5 left over: new.1.weight, new.1.bias, new.1.running_mean and 2 more; "
        "2 mis-shaped: 0.bias (7,) for (3,), 2.weight (3, 5) for (5, 3)"
    )
    raises(ValueError, message, load_strictly, target, state, "a.pth")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
