"""What a collapsed network looks like, to four digits, and an alarm that sounds then and only then."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fewshot.distillation.heads import PrototypeHead
from fewshot.distillation.losses import cluster_cross_entropy, queue_contrast
from fewshot.distillation.teacher import Center, update_teacher
from fewshot.distillation.training.health import Health, measure_health
from fewshot.distillation.training.monitor import CollapseError, CollapseMonitor, collapse_losses, contrast_losses
from tests.reference import distillation_loops as loops

SEEDS = st.integers(0, 2**20)
HEALTHY = Health(0.7, 7.0, 4.0, 0.8, 50.0)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def log_probs(*shape, seed=0):
    return (2 * normal(*shape, seed=seed)).log_softmax(-1)


# Constants

TABLE = {
    512: (6.2383, 0.0229, 10.003),
    1024: (6.9315, 0.0454, 10.036),
    4096: (8.3178, 0.1705, 10.168),
    8192: (9.0109, 0.3162, 10.315),
    65536: (11.0904, 1.3801, 11.380),
}


@pytest.mark.parametrize("n_prototypes", TABLE)
def test_losses_of_collapsed_clustering(n_prototypes):
    uniform, one_hot, centered = collapse_losses(n_prototypes)
    assert (round(uniform, 4), round(one_hot, 4), round(centered, 3)) == TABLE[n_prototypes]


@pytest.mark.parametrize("temperature", [0.1, 0.25])
@pytest.mark.parametrize("n_prototypes", [2, 37])
def test_collapsed_students_have_these_losses(n_prototypes, temperature):
    nothing = torch.zeros(1, 3, n_prototypes, dtype=torch.float64)
    one = nothing.clone()
    one[..., 1] = 1.0
    sure = (1e4 * one).log_softmax(-1)
    pairs = {
        "uniform": (sure, nothing),
        "one_hot": (sure, one),
        "one_hot_centered": (nothing.log_softmax(-1), one),
    }
    wanted = collapse_losses(n_prototypes, temperature)._asdict()
    for name, (log_teacher, logits) in pairs.items():
        found = cluster_cross_entropy(log_teacher, (logits / temperature).log_softmax(-1))
        assert found.item() == pytest.approx(wanted[name], rel=1e-12)


@pytest.mark.parametrize(
    ("n_negatives", "collapsed", "floor"), [(65536, 11.0904, 6.0926), (4096, 8.3180, 3.3534), (512, 6.2403, 1.4929)]
)
def test_losses_of_contrast(n_negatives, collapsed, floor):
    assert tuple(round(loss, 4) for loss in contrast_losses(n_negatives)) == (collapsed, floor)


def test_the_floor_of_contrast_with_negatives_in_all_directions():
    rows, queue = normalize(normal(500, 64), dim=-1), normalize(normal(4096, 64, seed=1), dim=-1)
    found = queue_contrast(rows[None], rows[None], queue, 0.2).item()
    assert found == pytest.approx(contrast_losses(4096, n_dims=64).floor, abs=0.02)
    assert found > contrast_losses(4096).floor + 0.1
    # Where the positive is in no special direction either: measured 8.307 for d = 256
    rows, targets, queue = (normalize(normal(n, 256, seed=n), dim=-1) for n in (300, 301, 4096))
    found = queue_contrast(rows[None], targets[None, :300], queue, 0.2).item()
    assert found == pytest.approx(math.log(4097) + 1 / (2 * 256 * 0.2**2), abs=0.05)


# Figures


@given(st.integers(2, 9), st.integers(1, 5), SEEDS)
def test_spread_is_that_of_the_loops(n, n_features, seed):
    features = normal(n, n_features, seed=seed)
    found = measure_health(features).feature_spread
    assert found == pytest.approx(loops.spread(features.tolist()), rel=1e-9, abs=1e-12)


@given(st.integers(1, 9), st.integers(1, 6), SEEDS)
def test_figures_of_assignments_are_those_of_the_loops(n, n_prototypes, seed):
    assignments = log_probs(n, n_prototypes, seed=seed)
    health = measure_health(normal(3, 2), assignments)
    rows = assignments.exp().tolist()
    assert health.teacher_entropy == pytest.approx(loops.mean(map(loops.entropy, rows)), abs=1e-9)
    assert health.teacher_divergence == pytest.approx(loops.divergence(rows), abs=1e-9)
    assert health.n_used_prototypes == len({row.index(max(row)) for row in rows})
    assert 0 <= health.teacher_entropy <= math.log(n_prototypes) + 1e-12


def test_effective_rank_counts_directions():
    corners = torch.cat([torch.eye(6, dtype=torch.float64), -torch.eye(6, dtype=torch.float64)])
    assert measure_health(corners).effective_rank == pytest.approx(6)
    assert measure_health(corners[[0, 1, 6, 7]]).effective_rank == pytest.approx(2)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(normalize(normal(30, 5), dim=-1).mT)).tolist()
    shares = [value / sum(eigenvalues) for value in eigenvalues]
    assert measure_health(normal(30, 5)).effective_rank == pytest.approx(math.exp(loops.entropy(shares)), rel=1e-9)


def test_collapsed_features_have_no_spread_and_healthy_ones_do():
    row = torch.zeros(1, 6, dtype=torch.float64)
    row[0, 2] = 1
    assert measure_health(row.expand(8, 6))[:2] == (0.0, 1.0)
    assert measure_health(normal(500, 64)).feature_spread == pytest.approx(1, abs=0.01)  # in all directions


@given(SEEDS)
def test_figures_are_of_directions_alone(seed):
    features, lengths = normal(7, 4, seed=seed), normal(7, 1, seed=seed + 1).exp()
    rotation = torch.linalg.qr(normal(4, 4, seed=seed + 2))[0]
    wanted = measure_health(features)
    assert measure_health(lengths * features)[:2] == pytest.approx(wanted[:2])
    assert measure_health(features @ rotation).effective_rank == pytest.approx(wanted.effective_rank)


def test_without_assignments_their_figures_are_not_numbers():
    health = measure_health(normal(3, 2).bfloat16().requires_grad_())
    assert all(map(math.isnan, health[2:]))
    assert all(isinstance(figure, float) and math.isfinite(figure) for figure in health[:2])


def test_one_prototype_for_all_has_no_divergence():
    health = measure_health(normal(3, 2), log_probs(1, 9).expand(6, 9))
    assert health.teacher_divergence == pytest.approx(0, abs=1e-12)
    assert health.n_used_prototypes == 1


# The alarm


def monitor(**settings):
    return CollapseMonitor(**{"n_prototypes": 512, "n_negatives": 1024, "patience": 5, **settings})


def alarm(stream, **settings):
    """Return the step and the message of the alarm, or None."""
    return followed(monitor(**settings), stream, 0)


def followed(watch, stream, first_step):
    for step, (losses, health) in enumerate(stream, first_step):
        try:
            watch.observe(step, losses, health)
        except CollapseError as error:
            return step, str(error)
    return None


@given(SEEDS)
def test_healthy_streams_never_alarm(seed):
    noise = normal(200, 6, seed=seed).tolist()
    stream = []
    for step, row in enumerate(noise):
        losses = {
            "total": 3.0,
            "group": 6.2383 - 0.02 * step + 0.1 * abs(row[0]),  # begins at ln K and falls
            "image": 4.0 + row[1],
            "instance": 6.93 - 0.01 * step + 0.2 * row[2],  # begins at ln(1 + Q)
            "local_group": math.log(512),
        }
        figures = (0.7 + 0.05 * row[3], 4.0 * math.exp(0.2 * row[4]), 3.0, 0.9 + 0.1 * row[5], 40.0)
        stream.append((losses, Health(*figures) if step % 3 == 0 else None))
    assert alarm(stream) is None


def test_a_network_at_random_is_no_alarm_and_its_recovery_neither():
    # A deep ViT at random: spread 0.02, rank 3.5, one prototype in use.
    start = Health(0.021, 3.5, 2.0, 6e-4, 1.0)
    growing = [(start._replace(feature_spread=0.021 + 1e-4 * t, teacher_divergence=6e-4), None) for t in range(300)]
    assert alarm([({"group": 5.5}, health) for health, _ in growing]) is None


@pytest.mark.parametrize(
    ("losses", "health", "message"),
    [
        (
            {"group": 6.2385},
            None,
            "the loss 'group' stays at 6.2385, that of a student without any preference among 512 prototypes: "
            "lower the teacher's temperature or the learning rate, or take larger batches or fewer prototypes",
        ),
        (
            {"image": 0.0233},
            None,
            "the loss 'image' stays at 0.0233, that of a student that gives all images one prototype, as the teacher "
            "does: raise the teacher's temperature, see that the center is updated, or lower the learning rate",
        ),
        (
            {"group": 10.0030},
            None,
            "the loss 'group' stays at 10.0030, that of a student that gives all images one prototype and a uniform "
            "teacher: lower the learning rate, raise the teacher's momentum, or take larger batches",
        ),
        (
            {"instance": math.log(1025)},
            HEALTHY,
            "the loss 'instance' stays at 6.9324, that of rows which are all the same as their 1024 negatives: "
            "lower the learning rate, raise the teacher's momentum, or take larger batches",
        ),
        (
            {},
            HEALTHY._replace(feature_spread=0.0312),
            "the spread of features is 0.031, under 0.05: "
            "lower the learning rate, warm it up for longer, raise the teacher's momentum, or take larger batches",
        ),
        (
            {},
            HEALTHY._replace(effective_rank=1.3),
            "the effective rank of features is 1.3, under 1.9, a quarter of what it was at first: "
            "lower the learning rate, warm it up for longer, raise the teacher's momentum, or take larger batches",
        ),
        (
            {},
            HEALTHY._replace(teacher_divergence=0.0002),
            "the teacher's assignments of images differ by 0.0002 nats, under 0.001: "
            "raise the teacher's temperature, see that the center is updated, or lower the learning rate",
        ),
    ],
)
def test_each_kind_of_collapse_alarms(losses, health, message):
    healthy = {"group": 5.0, "image": 5.0, "instance": 5.0}, HEALTHY._replace(effective_rank=7.6) if health else None
    assert alarm([healthy, *[(losses, health)] * 9]) == (5, f"collapsed, seen in steps 1 to 5: {message}")
    assert alarm([healthy, *[(losses, health)] * 4, healthy, *[(losses, health)] * 4, healthy]) is None


def test_a_break_begins_the_count_anew():
    bad, good = ({"group": math.log(512)}, None), ({"group": 5.0}, None)
    assert alarm([bad] * 4 + [good] + [bad] * 4) is None
    assert alarm([bad] * 4 + [good] + [bad] * 5)[0] == 9
    assert alarm([bad] * 4 + [({"image": math.log(512)}, None)] + [bad] * 4)[0] == 5  # not seen is not a break


def test_a_loss_beside_a_collapsed_one_is_none():
    for offset in (-0.0015, 0.0015):
        assert alarm([({"group": math.log(512) + offset, "instance": math.log(1025) + offset}, None)] * 20) is None
        assert alarm([({"group": math.log(512) + offset / 2}, None)] * 20) is not None


def test_figures_that_are_measured_now_and_then_alarm_as_well():
    watch = monitor(patience=50)
    watch.observe(0, {}, HEALTHY)
    for step in range(1, 60):
        watch.observe(step, {"group": 5.0}, HEALTHY._replace(feature_spread=0.01) if step % 10 == 0 else None)
    with pytest.raises(CollapseError, match=r"^collapsed, seen in steps 10 to 60: the spread of features is 0.01"):
        watch.observe(60, {}, HEALTHY._replace(feature_spread=0.01))


def test_a_small_loss_of_distinct_clusters_is_no_alarm():
    small = {"group": 0.0229}
    assert alarm([(small, HEALTHY)] * 20) is None
    assert alarm([(small, HEALTHY)] + [(small, None)] * 20) is None  # as it was last measured
    found = alarm([(small, HEALTHY)] + [(small, HEALTHY._replace(teacher_divergence=1e-5))] * 20)
    assert found[1].startswith("collapsed, seen in steps 1 to 5: the loss 'group' stays at 0.0229")


def test_what_was_dead_from_the_start_alarms():
    dead = Health(1e-5, 9.0, 3.0, 1e-9, 1.0)
    assert "the spread of features is 1e-05, under 0.001" in alarm([({}, dead)] * 5)[1]
    assert "differ by 1e-09 nats, under 1e-06" in alarm([({}, dead._replace(feature_spread=0.5))] * 5)[1]


def test_losses_of_other_names_and_queues_that_are_not_there_are_not_judged():
    assert alarm([({"local_group": math.log(1025), "total": math.log(512)}, None)] * 20) is None
    assert alarm([({"instance": 0.0}, None)] * 20, n_negatives=0) is None


def test_figures_that_are_not_numbers_are_not_judged():
    assert alarm([({"group": math.nan}, HEALTHY._replace(teacher_divergence=math.nan))] * 20) is None
    watch = monitor()
    watch.observe(0, {}, HEALTHY._replace(teacher_divergence=math.nan))
    assert all(map(math.isfinite, watch.state().values()))  # nor is anything judged by them


@given(st.integers(0, 14), SEEDS)
def test_a_restored_monitor_goes_on_where_it_was(n_before, seed):
    noise = normal(15, 2, seed=seed).tolist()
    stream = [
        ({"group": 6.2383 + 0.0005 * row[0]}, HEALTHY._replace(effective_rank=7.0 if step < 3 else 1.5 + row[1] / 5))
        for step, row in enumerate(noise)
    ]
    first, second = monitor(), monitor()
    whole = followed(first, stream, 0)
    first = monitor()
    part = followed(first, stream[:n_before], 0)
    if part is None:
        second.restore(json.loads(json.dumps(first.state())))
        part = followed(second, stream[n_before:], n_before)
    assert part == whole


def test_a_state_is_a_copy():
    watch = monitor()
    state = watch.state()
    watch.observe(0, {"group": math.log(512)}, HEALTHY)
    assert state == {}
    assert all(isinstance(value, (int, float)) for value in watch.state().values())


def test_patience_must_be_positive():
    with pytest.raises(ValueError, match="patience must be positive, got 0"):
        monitor(patience=0)


def trained(teacher_temperature, *, has_center, contrast):
    """Train a student on eight kinds of rows against its own running average; return the alarm's message, or None."""
    student, teacher = (PrototypeHead(16, 32, hidden=32, bottleneck=8, generator=draws()) for _ in range(2))
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    center, watch = Center(32), CollapseMonitor(n_prototypes=32, patience=20)
    rows = contrast * normal(8, 16).repeat(8, 1) + normal(64, 16, seed=1)
    for step in range(150):
        first, second = (rows + 0.5 * normal(2, 64, 16, seed=step)).float()
        with torch.no_grad():
            targets = teacher(first)
        log_teacher = ((targets - center.center) / teacher_temperature).log_softmax(-1)
        loss = cluster_cross_entropy(log_teacher[None], (student(second) / 0.1).log_softmax(-1)[None]).sum()
        if has_center:
            center.update(targets)
        try:
            watch.observe(step, {"group": loss.item()}, measure_health(teacher.projector(first), log_teacher))
        except CollapseError as error:
            return str(error)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_teacher(teacher, student, 0.9)
    return None


def draws():
    return torch.Generator().manual_seed(0)


def test_real_collapses_alarm_and_a_run_that_learns_does_not():
    assert trained(0.04, has_center=True, contrast=2) is None
    soft, single = trained(0.3, has_center=True, contrast=2), trained(0.04, has_center=False, contrast=0.3)
    assert soft is not None
    assert "the teacher's assignments of images differ by" in single  # one prototype took all
