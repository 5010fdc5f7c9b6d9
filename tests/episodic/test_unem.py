"""UNEM: what is learned, how it starts, that it is learned, and that it comes back from disk."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot.episodic.unem.model import UNEM
from fewshot.episodic.unem.presets import DEFAULT_PRESET, PRESETS
from fewshot.episodic.unem.training import double_softmax_loss, fit_unem, nll_loss
from fewshot.models import load_unem, save_unem
from fewshot.storage import save_tensors
from tests.likelihoods.test_dirichlet import cosine_episode
from tests.reference import em_loops as loops
from tests.strategies import episodes, make_episode, numpy_of, padded

SETTINGS = (
    {},
    {"is_relative": False},
    {"likelihood": "dirichlet"},
    {"likelihood": "dirichlet", "inputs": "cosines"},
    {"shots": (1, 5, 20), "n_layers": 3},
)
each_setting = pytest.mark.parametrize("settings", SETTINGS, ids=str)
each_likelihood = pytest.mark.parametrize("likelihood", ["gaussian", "dirichlet"])


def jittered(model, seed=0, size=0.5):
    """Move the raw numbers, so that no two layers are alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


# Parametrisation


def test_numbers_start_where_the_paper_does():
    # [UNEM] released code: raw 1 everywhere, λ/|Q| = softplus(1) = 1.3133, T = 1 + softplus(1) = 2.3133.
    model = UNEM(is_relative=False)
    assert model.class_balance.flatten().tolist() == pytest.approx([1.3133] * 10, abs=1e-4)
    assert model.temperature.flatten().tolist() == pytest.approx([2.3133] * 10, abs=1e-4)
    assert model.scale.flatten().tolist() == pytest.approx([1.3133], abs=1e-4)
    assert UNEM(likelihood="dirichlet").scale.flatten().tolist() == pytest.approx([30.0])
    assert sum(parameter.numel() for parameter in model.parameters()) == 21


@given(st.floats(-20, 20))
def test_numbers_stay_in_their_range(raw):
    model = UNEM(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(raw)
    expected = math.log1p(math.exp(raw))
    assert model.class_balance.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-5)
    assert model.temperature.flatten().tolist() == pytest.approx([1 + expected] * 2, rel=1e-6)
    assert model.scale.flatten().tolist() == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_has_its_numbers(name):
    preset, model = PRESETS[name], UNEM.from_preset(name)
    assert model.likelihood == preset.likelihood
    for field in ("class_balance", "temperature", "scale"):
        expected = np.asarray(getattr(preset, field), dtype=np.float32)
        found = getattr(model, field).detach().numpy()
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5)
    assert repr(name) in model.describe()
    assert preset.origin in model.describe()


def test_the_default_preset_is_one():
    assert DEFAULT_PRESET in PRESETS
    assert UNEM.from_preset().describe() == UNEM.from_preset(DEFAULT_PRESET).describe()
    with pytest.raises(ValueError, match=r"^unknown preset 'nobody'\. Known: "):
        UNEM.from_preset("nobody")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_layers": 0}, r"^n_layers must be positive, got 0$"),
        (
            {"likelihood": "gauss"},
            r"^unknown likelihood 'gauss': did you mean 'gaussian'\? Known: dirichlet, gaussian$",
        ),
        ({"inputs": "images"}, r"^unknown inputs 'images'\. Known: cosines, embeddings$"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        UNEM(**settings)


# What the layers compute


@given(episodes(), st.integers(0, 99))
def test_raw_features_equal_the_loop(episode, seed):
    model = jittered(UNEM(4, is_relative=False), seed)
    expected = loops.gem_gaussian(
        *numpy_of(episode),
        class_balance=model.class_balance.flatten().tolist(),
        temperature=model.temperature.flatten().tolist(),
        scale=model.scale.item(),
    )[-1]
    with torch.no_grad():
        np.testing.assert_allclose(model(episode).exp(), expected, atol=1e-6)  # the numbers are float32


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cosines_equal_the_loop(seed):
    model, episode = jittered(UNEM(3, likelihood="dirichlet", inputs="cosines"), seed), cosine_episode(seed)
    expected = loops.gem_dirichlet(
        *numpy_of(episode),
        class_balance=model.class_balance.flatten().tolist(),
        temperature=model.temperature.flatten().tolist(),
        softmax_scale=model.scale.item(),
    )[-1]
    with torch.no_grad():
        np.testing.assert_allclose(model(episode).exp(), expected, atol=1e-4)


@given(episodes(), st.integers(0, 99))
def test_one_layer_decides_as_the_nearest_prototype(episode, seed):
    # P9, relative or not.
    expected = loops.nearest_prototype(*numpy_of(episode)).argmax(-1)
    for is_relative in (False, True):
        found = jittered(UNEM(1, is_relative=is_relative), seed)(episode).argmax(-1)
        np.testing.assert_array_equal(found, expected)


def test_each_episode_takes_the_schedule_of_its_shots():
    # The nearest on a log scale: 1, 2 | 3, 5, 9 | 11, 30 support items a class.
    family = jittered(UNEM(3, shots=(1, 5, 20)), size=1.0)
    for shot, row in [(1, 0), (2, 0), (3, 1), (5, 1), (9, 1), (11, 2), (30, 2)]:
        episode = make_episode(shot, n_way=3, n_support=3 * shot, min_shot=shot, separation=0.7)
        alone = UNEM(3)
        with torch.no_grad():
            for mine, others in zip(alone.parameters(), family.parameters(), strict=True):
                mine.copy_(others[row].reshape(mine.shape))
            torch.testing.assert_close(family(episode), alone(episode))
            other = UNEM(3)(episode).exp() - alone(episode).exp()
        assert other.abs().max() > 1e-4  # the schedule matters
    # In one ragged batch, each by its own shots; padding rows and ways do not count.
    parts = [
        make_episode(0, n_way=2, n_support=2, separation=0.7),
        make_episode(1, n_way=3, n_support=33, min_shot=11, separation=0.7),
    ]
    batch, places = padded(parts)
    with torch.no_grad():
        whole = family(batch)
        for part, log_probs, (queries, ways) in zip(parts, whole, places, strict=True):
            torch.testing.assert_close(log_probs[queries][:, ways], family(part))


# Gradients and training


def numerical_gradients(model, loss, step):
    """Central differences in each raw number, in the order of the parameters."""
    found = []
    for parameter in model.parameters():
        for index in range(parameter.numel()):
            values = []
            for size in (step, -step):
                with torch.no_grad():
                    parameter.view(-1)[index] += size
                    values.append(float(loss()))
                    parameter.view(-1)[index] -= size
            found.append((values[0] - values[1]) / (2 * step))
    return found


@pytest.mark.parametrize("is_relative", [False, True])
def test_gradients_match_finite_differences_and_the_first_balance_is_dead(is_relative):
    # P16.
    model = jittered(UNEM(3, is_relative=is_relative)).double()
    episode = make_episode(1, batch=(2,), separation=0.8)

    def loss():
        return nll_loss(model(episode), episode.query_labels)

    loss().backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert gradients.tolist() == pytest.approx(numerical_gradients(model, loss, 1e-5), rel=1e-5, abs=1e-9)
    assert model.raw_class_balance.grad.flatten()[0] == 0
    assert (gradients != 0).sum() == len(gradients) - 1


def test_dirichlet_gradients_match_finite_differences():
    # All of them alive: the first layer has a prior.
    model = jittered(UNEM(2, likelihood="dirichlet", inputs="cosines"), size=0.2).double()
    episode = cosine_episode(1, batch=(2,))

    def loss():
        return nll_loss(model(episode), episode.query_labels)

    loss().backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert gradients.tolist() == pytest.approx(numerical_gradients(model, loss, 1e-4), rel=1e-3, abs=1e-7)
    assert (gradients.abs() > 1e-6).all()


def training_episodes(likelihood, seed=0):
    if likelihood == "dirichlet":
        return cosine_episode(seed, batch=(6,)).to(dtype=torch.float32)
    return make_episode(seed, batch=(6,), separation=0.8, n_queries=20, dtype=torch.float32)


@pytest.mark.parametrize("loss", ["nll", "double-softmax"])
@each_likelihood
def test_training_lowers_the_loss_and_repeats_itself(likelihood, loss):
    outcomes = []
    for _ in range(2):
        model, seen = UNEM(3, likelihood=likelihood, inputs="cosines"), []
        trace = fit_unem(
            model,
            training_episodes(likelihood),
            n_steps=12,
            loss=loss,
            progress=lambda *numbers, seen=seen: seen.append(numbers),
        )
        outcomes.append([*trace, *(parameter.detach() for parameter in model.parameters())])
        assert trace.loss.shape == trace.accuracy.shape == (12,)
        assert trace.loss[-1] < trace.loss[0] - 1e-3
        assert [step for step, _, _ in seen] == list(range(1, 13))
        assert [value for _, value, _ in seen] == trace.loss.tolist()
        assert [value for _, _, value in seen] == trace.accuracy.tolist()
        assert "trained for 12 steps on 6 episodes" in model.describe()
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))


def test_the_trace_is_of_the_model_before_each_step():
    model, episode = UNEM(3), training_episodes("gaussian")
    before = nll_loss(model(episode), episode.query_labels).detach()
    trace = fit_unem(model, episode, n_steps=2)
    assert float(trace.loss[0]) == pytest.approx(float(before), rel=1e-6)
    right = UNEM(3)(episode).argmax(-1) == episode.query_labels
    assert float(trace.accuracy[0]) == pytest.approx(float(right.float().mean()))


def test_the_first_step_is_adams_and_batches_count_the_same():
    # Adam's first step is lr · sign(gradient), whatever the gradient's size.
    batches = [training_episodes("gaussian", 0), training_episodes("gaussian", 1)]
    model = UNEM(3)
    sum(nll_loss(model(batch), batch.query_labels) for batch in batches).backward()
    expected = [parameter.detach() - 0.1 * parameter.grad.sign() for parameter in model.parameters()]
    model = UNEM(3)
    fit_unem(model, batches, n_steps=1)
    for found, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=1e-4)


def test_the_learning_rate_is_halved():
    model = UNEM(2, likelihood="dirichlet", inputs="cosines")
    raw = model.raw_scale.item()
    fit_unem(model, training_episodes("dirichlet"), n_steps=1)
    assert abs(model.raw_scale.item() - raw) == pytest.approx(0.5, rel=1e-3)  # [UNEM] released Dirichlet code
    steps = []
    model = UNEM(2)
    last = [model.raw_scale.item()]

    def note(*_):
        steps.append(abs(model.raw_scale.item() - last[0]))
        last[0] = model.raw_scale.item()

    fit_unem(model, training_episodes("gaussian"), n_steps=3, learning_rate=1e-3, decay_every=1, progress=note)
    assert steps == pytest.approx([1e-3, 5e-4, 2.5e-4], rel=0.1)


@each_likelihood
def test_training_on_padded_episodes_is_training_on_the_episodes(likelihood):
    parts = [make_episode(seed, n_way=n_way, n_queries=6, separation=0.8) for seed, n_way in [(0, 3), (1, 4)]]
    one, other = (UNEM(3, likelihood=likelihood).double() for _ in range(2))
    expected = fit_unem(one, parts, n_steps=5)
    found = fit_unem(other, padded(parts)[0], n_steps=5)
    for mine, yours in zip((*found, *other.parameters()), (*expected, *one.parameters()), strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-6, atol=1e-6)


def test_schedules_that_no_episode_takes_are_not_trained():
    model = UNEM(3, shots=(1, 20))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    fit_unem(model, training_episodes("gaussian"), n_steps=3)
    for now, then in zip(model.parameters(), before, strict=True):
        assert torch.equal(now[1], then[1])
        assert not torch.equal(now[0], then[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, r"^n_steps must be positive, got 0$"),
        ({"loss": "ce"}, r"^unknown loss 'ce'\. Known: double-softmax, nll$"),
        ({"learning_rate": 0.0}, r"^learning_rate must be positive, got 0\.0$"),
    ],
)
def test_wrong_training_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        fit_unem(UNEM(2), make_episode(0), **options)


def test_training_needs_labels():
    message = r"^training needs at least one batch of episodes, all with query_labels$"
    for batches in ([], [make_episode(0), replace(make_episode(0), query_labels=None)]):
        with pytest.raises(ValueError, match=message):
            fit_unem(UNEM(2), batches)


# Losses


@given(st.integers(2, 20), st.integers(0, 99))
def test_losses_equal_the_loops_and_keep_their_bounds(n_way, seed):
    # P21.
    generator = torch.Generator().manual_seed(seed)
    log_u = (4 * torch.randn(3, 7, n_way, generator=generator)).double().log_softmax(-1)
    labels = torch.randint(n_way, (3, 7), generator=generator)
    rows, flat = log_u.flatten(0, 1).numpy(), labels.flatten().tolist()
    double = float(double_softmax_loss(log_u, labels))
    assert double == pytest.approx(loops.double_softmax_loss(np.exp(rows), flat), rel=1e-12)
    assert float(nll_loss(log_u, labels)) == pytest.approx(loops.nll_loss(rows, flat), rel=1e-12)
    top = math.log(math.e + n_way - 1)
    assert top - 1 <= double <= top
    # Padding does not count.
    labels[1, 2:], kept = -1, torch.ones(3, 7, dtype=torch.bool)
    kept[1, 2:] = False
    for loss in (double_softmax_loss, nll_loss):
        assert float(loss(log_u, labels)) == pytest.approx(float(loss(log_u[kept], labels[kept])), rel=1e-12)


@pytest.mark.parametrize("n_way", [2, 5, 20])
def test_closed_forms_of_the_double_softmax(n_way):
    right = torch.full((3, n_way), -torch.inf)
    right[:, 1] = 0.0
    labels = torch.ones(3, dtype=torch.int64)
    assert float(double_softmax_loss(right, labels)) == pytest.approx(math.log(math.e + n_way - 1) - 1, rel=1e-6)
    assert float(double_softmax_loss(right, 0 * labels)) == pytest.approx(math.log(math.e + n_way - 1), rel=1e-6)
    uniform = torch.full((3, n_way), -math.log(n_way))
    assert float(double_softmax_loss(uniform, labels)) == pytest.approx(math.log(n_way), rel=1e-6)
    assert float(nll_loss(uniform, labels)) == pytest.approx(math.log(n_way), rel=1e-6)
    # Third-party notebook on UNEM: two classes start at 0.6931 and end at 0.3133 or above.
    if n_way == 2:
        assert float(double_softmax_loss(uniform, labels)) == pytest.approx(0.6931, abs=5e-5)
        assert float(double_softmax_loss(right, labels)) == pytest.approx(0.3133, abs=5e-5)


# Files


@each_setting
def test_saved_and_loaded_is_the_same(settings, tmp_path):
    model = jittered(UNEM(**settings))
    path = tmp_path / "mine.safetensors"
    save_unem(model, path, {"classes": ["owl", "crow"], "n_steps": 3})
    loaded, training = load_unem(path)
    assert training == {"classes": ["owl", "crow"], "n_steps": 3}
    assert loaded.settings() == model.settings()
    assert loaded.describe() == model.describe().replace("untrained", "untrained (mine.safetensors)")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    episode = cosine_episode(0, batch=(2,))
    with torch.no_grad():
        assert torch.equal(loaded(episode), model(episode))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_saved_preset_says_where_it_comes_from(name, tmp_path):
    save_unem(UNEM.from_preset(name), tmp_path / "preset.safetensors")
    loaded, training = load_unem(tmp_path / "preset.safetensors")
    assert training == {}
    assert repr(name) in loaded.describe()


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match=r"^no such file: .*a\.safetensors$"):
        load_unem(path)
    path.write_text("not a model")
    with pytest.raises(ValueError, match=r"a\.safetensors: expected a safetensors file, got something else"):
        load_unem(path)
    save_tensors(path, {"x": torch.ones(2)}, kind="features", metadata={})
    with pytest.raises(
        ValueError, match=r"a\.safetensors: expected 'unem', got 'features': pass a file saved as 'unem'$"
    ):
        load_unem(path)


# Devices and dtypes


@each_setting
def test_models_run_on_meta(settings):
    episode = cosine_episode(0, batch=(2,)).to("meta", torch.float32)
    log_probs = UNEM(**settings).to("meta")(episode)
    assert log_probs.is_meta
    assert log_probs.shape == (2, 9, 4)
