"""The table of speeds names what there is, and comes without easyfsl too."""

import sys
from types import ModuleType
from typing import ClassVar

import pytest
import torch

from fewshot.registry.episodic import build_method
from tests.benchmarks import peers_speed


class Shapes(torch.nn.Module):
    """Stands in for a class of easyfsl's, and sees what it is given."""

    seen: ClassVar[list] = []

    def __init__(self, backbone, **settings):
        super().__init__()
        assert isinstance(backbone, torch.nn.Identity)
        self.settings = settings

    def process_support_set(self, support, support_labels):
        self.support = (tuple(support.shape), support_labels.tolist(), support.is_inference())

    def forward(self, query):
        self.seen.append((*self.support, tuple(query.shape), torch.is_grad_enabled(), self.settings))


@pytest.fixture
def quick(monkeypatch):
    """Replace the clocks: ours takes 5,000 episodes in a CPU-second, theirs all in half a one."""
    monkeypatch.setattr(peers_speed, "episode_rate", lambda name, sampler, features, n_episodes: 5_000.0)
    monkeypatch.setattr(peers_speed, "cpu_seconds", lambda work: work() or 0.5)
    # For the whole process, and the tests beside this one are not to know.
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    return monkeypatch


@pytest.mark.parametrize("name", [peer.name for peer in peers_speed.PEERS])
def test_names_are_methods(name):
    assert callable(build_method(name))


def test_a_row_has_rate_ratio_and_target(quick):
    module = ModuleType("easyfsl.methods")
    for peer in peers_speed.PEERS:
        if peer.theirs is not None:
            setattr(module, peer.theirs, Shapes)
    quick.setattr(peers_speed, "easyfsl_methods", lambda: module)
    quick.setattr(peers_speed, "version", lambda name: "1.2")
    quick.setattr(Shapes, "seen", [])
    rows = {row.what.partition(", ")[0]: row for row in peers_speed.rows(lambda name: None)}
    # 3,000 / 80 = 37 episodes in half a second: 74.
    assert rows["laplacian-shot"][1:] == ("5,000 ep/CPU-s, 68× easyfsl's 74", "≥ 2,000", True)
    assert rows["simpleshot"].is_reached is False
    assert rows["transclip"][1:] == ("5,000 ep/CPU-s", "", None)
    assert rows["easyfsl 1.2"].is_reached is None
    support, labels, is_inference, query, is_recording, _ = Shapes.seen[0]
    assert (support, query, is_inference, is_recording) == ((25, 640), (75, 640), False, False)
    assert sorted(labels) == [way for way in range(5) for _ in range(5)]
    assert {"fine_tuning_steps": 30, "fine_tuning_lr": 0.3, "feature_normalization": 2.0} in [
        settings for *_, settings in Shapes.seen
    ]


def test_without_easyfsl_the_rows_say_so(quick):
    quick.setitem(sys.modules, "easyfsl", None)
    quick.setattr(peers_speed, "require_torchvision", lambda what: "already")
    rows = peers_speed.rows(lambda name: None)
    assert len(rows) == len(peers_speed.PEERS) + 1
    assert all("×" not in row.measured for row in rows)
    assert rows[-1][:2] == ("easyfsl", "does not import here: no ratios (pip install --no-deps easyfsl)")


def test_without_torchvision_there_is_no_easyfsl_either(monkeypatch):
    def absent(what):
        raise ImportError(f"{what} needs torchvision")

    monkeypatch.setattr(peers_speed, "require_torchvision", absent)
    assert peers_speed.easyfsl_methods() is None
