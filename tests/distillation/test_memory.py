"""The memory beside a deque, what it keeps through saving and moving, and what several processes push."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
import torch.distributed
from hypothesis import given
from hypothesis import strategies as st
from torch import multiprocessing

from fewshot.distillation import memory as memory_module
from fewshot.distillation.memory import FifoMemory, check_capacity, suggested_capacity
from fewshot.distillation.teacher import Center
from fewshot.distributed import gather_rows, mean_over_processes, rank, world_size
from tests.reference import distillation_loops as loops


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def counted(sizes, n_features=2):
    """Rows that are numbered through, in pushes of these sizes."""
    rows = torch.arange(1.0, 1 + sum(sizes))[:, None].expand(-1, n_features)
    return list(rows.split(list(sizes)))


def filled(sizes, capacity, n_features=2):
    memory = FifoMemory(capacity, n_features)
    for rows in counted(sizes, n_features):
        memory.push(rows)
    return memory


# First in, first out


@given(st.lists(st.integers(0, 12), max_size=8), st.integers(1, 9))
def test_it_keeps_what_a_deque_keeps(sizes, capacity):
    memory = filled(sizes, capacity)
    wanted = loops.fifo([rows[:, 0].tolist() for rows in counted(sizes)], capacity)
    assert sorted(memory.entries()[:, 0].tolist()) == wanted
    assert bool((memory.entries() == memory.entries()[:, :1]).all())
    assert memory.n_pushed == sum(sizes)
    assert memory.is_full == (sum(sizes) >= capacity)


@given(st.lists(st.integers(0, 12), max_size=8), st.integers(1, 9))
def test_each_row_lies_where_the_pointer_was(sizes, capacity):
    memory = filled(sizes, capacity)
    slots = [0.0] * capacity
    for number in range(sum(sizes)):
        slots[number % capacity] = number + 1.0
    assert memory.rows[:, 0].tolist() == slots


@pytest.mark.parametrize(("capacity", "size"), [(1024, 64), (100, 7), (6, 6)])
def test_no_slot_is_untouched_after_one_round(capacity, size):
    memory = filled([size] * math.ceil(capacity / size), capacity)
    assert bool((memory.rows != 0).all())
    assert memory.is_full


def test_a_push_that_is_larger_than_the_memory_leaves_its_last_rows():
    memory = filled([3, 25], 10)
    assert sorted(memory.entries()[:, 0].tolist()) == list(range(19, 29))
    memory.push(torch.full((1, 2), 29.0))
    assert sorted(memory.entries()[:, 0].tolist()) == list(range(20, 30))  # the oldest went


def test_an_empty_memory_has_no_entries():
    memory = FifoMemory(4, 3)
    assert memory.entries().shape == (0, 3)
    assert (memory.n_pushed, memory.is_full) == (0, False)


def test_pushed_rows_are_copied_without_their_gradient():
    rows = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    memory = FifoMemory(4, 3)
    memory.push(2 * rows)
    with torch.no_grad():
        rows.zero_()
    assert torch.equal(memory.entries(), torch.full((2, 3), 2.0))
    assert not memory.entries().requires_grad


def test_pushing_before_backward_is_noticed():
    memory, student = filled([4], 4, 3), torch.ones(1, 3, requires_grad=True)
    loss = (student @ memory.entries().mT).exp().sum()
    memory.push(torch.ones(1, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# Saving and moving


@given(st.lists(st.integers(0, 7), max_size=5), st.lists(st.integers(0, 7), max_size=5))
def test_a_saved_memory_goes_on_where_it_was(before, after):
    whole, part, other = FifoMemory(6, 2), FifoMemory(6, 2), FifoMemory(6, 2)
    pushes = counted([*before, *after])
    for rows in pushes:
        whole.push(rows)
    for rows in pushes[: len(before)]:
        part.push(rows)
    state = part.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert state["_extra_state"].dtype == torch.int64
    other.load_state_dict({name: value.clone() for name, value in state.items()})
    for rows in pushes[len(before) :]:
        other.push(rows)
    assert torch.equal(other.rows, whole.rows)
    assert other.n_pushed == whole.n_pushed


def test_a_memory_of_another_size_or_without_its_pointer_does_not_load():
    state = filled([5], 6).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for rows"):
        FifoMemory(7, 2).load_state_dict(state)
    del state["_extra_state"]
    with pytest.raises(RuntimeError, match="_extra_state"):
        FifoMemory(6, 2).load_state_dict(state)


def test_a_copied_or_moved_memory_keeps_its_pointer():
    memory = filled([5], 4)
    assert copy.deepcopy(memory).n_pushed == 5
    moved = copy.deepcopy(memory).to("meta")
    assert (moved.n_pushed, moved.rows.device.type) == (5, "meta")


def test_a_push_does_not_wait_for_the_device():
    with torch.device("meta"):
        memory = FifoMemory(10, 3)
        for _ in range(4):
            memory.push(torch.zeros(4, 3))  # a meta tensor has no numbers to wait for
        assert memory.nearest(torch.zeros(5, 2, 3), 4).shape == (5, 2, 4, 3)
    assert (memory.n_pushed, memory.is_full) == (16, True)


def test_it_takes_a_sixth_of_the_released_memory():
    with torch.device("meta"):
        n_bytes = FifoMemory(65536, 384).n_bytes
    assert n_bytes == 65536 * 384 * 4
    assert round(6 * n_bytes / 1e6) == 604  # two networks, three copies


# Neighbours


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**20))
def test_neighbours_are_those_of_the_loops(n_pushed, n_neighbours, seed):
    memory, queries = FifoMemory(9, 3), normal(2, 4, 3, seed=seed + 1)
    memory.push(normal(n_pushed, 3, seed=seed) * normal(n_pushed, 1, seed=seed + 2).exp())
    n_neighbours = min(n_neighbours, len(memory.entries()))
    found = memory.nearest(queries, n_neighbours)
    assert found.shape == (2, 4, n_neighbours, 3)
    for i in range(2):
        for j in range(4):
            wanted = loops.nearest(queries[i, j].tolist(), memory.entries().tolist(), n_neighbours)
            torch.testing.assert_close(found[i, j], torch.tensor(wanted), rtol=0, atol=0)


def test_neighbours_do_not_depend_on_how_queries_are_cut(monkeypatch):
    memory, queries = filled([9], 9), normal(7, 2)
    memory.push(normal(9, 2, seed=1))
    wanted = memory.nearest(queries, 3)
    monkeypatch.setattr(memory_module, "_CHUNK", 20)
    assert torch.equal(memory.nearest(queries, 3), wanted)
    assert torch.equal(memory.nearest(queries[0], 3), wanted[0])
    assert memory.nearest(queries[:0], 3).shape == (0, 3, 2)


def test_a_query_that_was_not_pushed_is_no_neighbour_of_itself():
    memory, queries = FifoMemory(8, 4), normal(3, 4)
    memory.push(normal(5, 4, seed=1))
    before = memory.nearest(queries, 1)[:, 0]
    assert not bool((before == queries).all(-1).any())
    memory.push(queries)
    assert torch.equal(memory.nearest(queries, 1)[:, 0], queries)


def test_neighbours_have_no_gradient_and_the_queries_dtype():
    memory = filled([4], 4)
    assert not memory.nearest(torch.ones(1, 2, requires_grad=True), 2).requires_grad
    for dtype in (torch.float16, torch.float64):
        assert memory.nearest(torch.ones(1, 2, dtype=dtype), 2).dtype == dtype
    queries = normal(6, 2, seed=3)
    wanted = memory.nearest(queries, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(memory.nearest(queries, 1), wanted)


def test_too_few_entries_are_an_error():
    message = "the memory must hold n_neighbours = 3 rows, got 2: wait until it is filled, or ask for fewer"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        filled([2], 8).nearest(torch.ones(1, 2), 3)


# How large


def test_a_memory_larger_than_a_quarter_of_the_images_is_warned_of():
    message = (
        "a memory of 1500 rows is more than a quarter of 5994 images, so that images meet their own past in it: "
        "1498 would do"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert check_capacity(1500, 5994) == 1500
    assert check_capacity(1498, 5994) == 1498
    assert check_capacity(2, 8) == 2
    with pytest.raises(ValueError, match=r"^capacity must be positive, got 0$"):
        check_capacity(0, 8)
    with pytest.raises(ValueError, match=r"^capacity must be positive, got 0$"):
        FifoMemory(0, 3)


def test_the_suggestion_is_a_quarter_between_1_and_4096():
    assert [suggested_capacity(n) for n in (1, 8, 5994, 16384, 10**6)] == [1, 2, 1498, 4096, 4096]


# Several processes

SHARES = [(3, 2), (0, 4), (5, 0), (9, 9), (0, 0)]


def pushed_rows(step):
    return normal(sum(SHARES[step]), 2, seed=step).split(SHARES[step])


def work(own_rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=own_rank, world_size=2)
    memory, center = FifoMemory(8, 2), Center(2)
    for step in range(len(SHARES)):
        memory.push(pushed_rows(step)[own_rank])
        if sum(SHARES[step]):
            center.update(pushed_rows(step)[own_rank])
    flags = torch.tensor([True, False, True, True])[: 1 + 2 * own_rank]
    half = normal(2, 3, 2, seed=own_rank).bfloat16()[:, :, 0]  # not contiguous
    given = normal(3, 4, seed=own_rank)
    learned = torch.ones(2 - own_rank, 1, requires_grad=True)
    results = {
        "rows": memory.rows,
        "n_pushed": torch.tensor(memory.n_pushed),
        "center": center.center,
        "flags": gather_rows(flags),
        "half": gather_rows(half),
        "mean": mean_over_processes(given.mT),
        "who": torch.tensor([rank(), world_size()]),
        "has_gradient": torch.tensor(gather_rows(learned).requires_grad),
        "own": given,
    }
    torch.save(results, f"{folder}/{own_rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs torch with gloo"
)
def test_two_processes_remember_what_one_would(tmp_path):
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{own_rank}.pt") for own_rank in range(2))
    memory, center = FifoMemory(8, 2), Center(2)
    for step in range(len(SHARES)):
        memory.push(torch.cat(pushed_rows(step)))
        if sum(SHARES[step]):
            center.update(torch.cat(pushed_rows(step)))
    for name in set(first) - {"who", "own"}:
        assert torch.equal(first[name], second[name]), name
    assert torch.equal(first["rows"], memory.rows)
    assert first["n_pushed"] == memory.n_pushed == sum(map(sum, SHARES))
    torch.testing.assert_close(first["center"], center.center)
    assert first["flags"].tolist() == [True, True, False, True]
    halves = torch.cat([normal(2, 3, 2, seed=own_rank).bfloat16()[:, :, 0] for own_rank in range(2)])
    assert first["half"].dtype == torch.bfloat16
    assert torch.equal(first["half"], halves)
    torch.testing.assert_close(first["mean"], (first["own"] + second["own"]).mT / 2)
    assert torch.equal(second["own"], normal(3, 4, seed=1))  # as it was given
    assert [one["who"].tolist() for one in (first, second)] == [[0, 2], [1, 2]]
    assert not first["has_gradient"]


def test_alone_nothing_is_sent():
    rows = torch.ones(2, 3)
    assert gather_rows(rows) is rows
    assert mean_over_processes(rows) is rows
    assert (rank(), world_size()) == (0, 1)
