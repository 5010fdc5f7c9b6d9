"""Noise levels are those of the published tables, and an image's noise is its own, wherever it is drawn."""

import hashlib
import math
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot.features.diffusion.noise import keyed_noise, recover_pixels
from fewshot.features.diffusion.schedule import Schedule, cosine_betas, linear_betas

ROOT = Path(__file__).parents[2]
LINEAR = Schedule(linear_betas())
COSINE = Schedule(cosine_betas())

# t, sqrt(alphas_cumprod), sqrt(1 - alphas_cumprod), SNR, log SNR of the linear schedule with 1000 steps
PUBLISHED = """
0   0.999950 0.010000 9999   9.210
10  0.998903 0.046834 454.9  6.120
11  0.998743 0.050118 397.1  5.984
30  0.993836 0.110858 80.37  4.387
50  0.984861 0.173345 32.28  3.474
90  0.955649 0.294509 10.53  2.354
101 0.945120 0.326724 8.368  2.124
150 0.886503 0.462723 3.670  1.300
261 0.701686 0.712486 0.970  -0.031
300 0.627703 0.778453 0.650  -0.430
500 0.278921 0.960314 0.0844 -2.473
999 0.006353 0.999980 4.0e-5 -10.12
"""


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def pixels_of(n=3, height=5, width=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, height, width), generator=generator, dtype=torch.uint8)


def agrees(value, printed):
    """Whether ``value`` rounds to the printed digits."""
    return abs(value - float(printed)) <= 0.5001 * 10.0 ** Decimal(printed).as_tuple().exponent


# The schedule


@pytest.mark.parametrize("row", PUBLISHED.strip().splitlines())
def test_the_linear_schedule_has_the_published_digits(row):
    t, signal, noise, snr, log_snr = row.split()
    alpha = float(LINEAR.alphas_cumprod[int(t)])
    assert agrees(math.sqrt(alpha), signal)
    assert agrees(math.sqrt(1 - alpha), noise)
    assert agrees(LINEAR.snr(int(t)), snr)
    assert agrees(math.log(LINEAR.snr(int(t))), log_snr)


def test_the_linear_schedule_scales_its_ends_with_the_number_of_steps():
    betas = linear_betas(250)
    expected = [4e-4 + i * (0.08 - 4e-4) / 249 for i in range(250)]
    assert betas.tolist() == pytest.approx(expected, rel=1e-12)
    assert linear_betas(5, beta_start=0.1, beta_end=0.5).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_the_cosine_schedule_telescopes_to_its_closed_form():
    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [f((i + 1) / 4000) / f(0) for i in range(3990)]
    assert COSINE.n_timesteps == 4000
    assert COSINE.alphas_cumprod[:3990].tolist() == pytest.approx(expected, rel=1e-9)
    assert float(COSINE.betas.max()) == 0.999


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_noise_grows_with_the_timestep(schedule):
    alphas = schedule.alphas_cumprod
    assert alphas.dtype == torch.float64
    assert bool(((alphas > 0) & (alphas < 1)).all())
    assert bool((alphas.diff() < 0).all())
    torch.testing.assert_close(alphas[1:], alphas[:-1] * (1 - schedule.betas[1:]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
@given(st.data())
def test_the_timestep_of_a_timesteps_ratio_is_itself(schedule, data):
    t = data.draw(st.integers(0, schedule.n_timesteps - 1))
    assert schedule.timestep_of_snr(schedule.snr(t)) == t


def test_the_nearest_timestep_is_nearest_in_the_logarithm():
    low, high = LINEAR.snr(1), LINEAR.snr(0)
    assert math.sqrt(low * high) < 7000 < (low + high) / 2
    assert LINEAR.timestep_of_snr(7000) == 0
    assert LINEAR.timestep_of_snr(1e9) == 0
    assert LINEAR.timestep_of_snr(1e-9) == 999


@given(st.integers(0, 999))
def test_noised_images_are_the_mixture_that_the_table_says(t):
    generator = torch.Generator().manual_seed(t)
    images, noise = torch.randn(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    alpha = np.prod([1 - (1e-4 + i * (0.02 - 1e-4) / 999) for i in range(t + 1)])
    expected = math.sqrt(alpha) * images + math.sqrt(1 - alpha) * noise
    torch.testing.assert_close(LINEAR.add_noise(images, noise, t), expected)


def test_each_image_may_have_its_own_timestep():
    images, noise = torch.randn(2, 3, 3, 4, 5)
    times = torch.tensor([700, 0, 90])
    together = LINEAR.add_noise(images, noise, times)
    assert together.dtype == torch.float32
    for i, t in enumerate(times.tolist()):
        assert torch.equal(together[i], LINEAR.add_noise(images[i : i + 1], noise[i : i + 1], t)[0])


def test_the_first_timestep_hardly_changes_an_image():
    images, noise = torch.rand(2, 3, 8, 9, dtype=torch.float64) * 2 - 1, torch.randn(2, 3, 8, 9, dtype=torch.float64)
    moved = (LINEAR.add_noise(images, noise, 0) - images).norm()
    assert moved <= 0.01 * noise.norm() + 5.1e-5 * images.norm()
    assert moved >= 0.0099 * noise.norm() - 5.1e-5 * images.norm()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: LINEAR.snr(1000), "t must lie in [0, 1000), got 1000"),
        (lambda: LINEAR.snr(-1), "t must lie in [0, 1000), got -1"),
        (lambda: LINEAR.timestep_of_snr(0.0), "snr must be positive, got 0.0"),
        (lambda: Schedule(torch.tensor([0.5, 1.0], dtype=torch.float64)), "betas must lie in (0, 1)"),
        (lambda: Schedule(torch.ones(3)), "betas must be (n_timesteps,) float64, got (3,) torch.float32"),
        (lambda: linear_betas(0), "n_timesteps must be positive, got 0"),
    ],
)
def test_what_the_table_has_not_is_refused(wrong, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        wrong()


# Pixels and noise


def test_all_pixels_come_back_from_normalised_images():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(recover_pixels((pixels.float() / 255 - 0.5) / 0.5), pixels)
    assert torch.equal(recover_pixels(pixels.float() / 127.5 - 1), pixels)


@pytest.mark.parametrize(("value", "level"), [(0.5, "191.25"), (300 / 127.5 - 1, "300"), (-2 / 127.5 - 1, "-2")])
def test_values_that_no_pixel_gives_are_refused(value, level):
    images = torch.ones(2, 3, 2, 2)
    images[1, 2, 0, 1] = value
    message = (
        "noise is keyed by 8-bit pixels: expected images of uint8 normalised by mean 0.5 and standard deviation 0.5, "
        f"got the value {value:g}, which is {level} of 255"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        recover_pixels(images)


def test_noise_does_not_depend_on_the_batch_or_the_order():
    pixels = pixels_of(5)
    noise = keyed_noise(pixels, seed=1, draw=2)
    assert noise.dtype == torch.float32
    assert torch.equal(keyed_noise(pixels.flip(0), seed=1, draw=2).flip(0), noise)
    for i in range(5):
        assert torch.equal(keyed_noise(pixels[i : i + 1], seed=1, draw=2)[0], noise[i])
    strided = pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(keyed_noise(strided, seed=1, draw=2), noise)


def test_noise_is_the_same_in_another_process():
    code = (
        "import hashlib, torch; from fewshot.features.diffusion.noise import keyed_noise\n"
        "pixels = torch.arange(84, dtype=torch.uint8).reshape(1, 3, 4, 7)\n"
        "print(hashlib.sha256(keyed_noise(pixels, seed=3, draw=1).numpy().tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    noise = keyed_noise(torch.arange(84, dtype=torch.uint8).reshape(1, 3, 4, 7), seed=3, draw=1)
    assert printed.strip() == hashlib.sha256(noise.numpy().tobytes()).hexdigest()


def test_the_stream_is_philox_under_the_hash_of_settings_and_pixels():
    # A change here changes every cached feature: it needs another name of the stream.
    pixels = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    header = b"blake2b-philox-1;seed=7;draw=4;shape=(3, 2, 2);timestep=None;"
    key = int.from_bytes(hashlib.blake2b(header + bytes(range(12)), digest_size=16).digest(), "little")
    expected = np.random.Generator(np.random.Philox(key=key)).standard_normal((3, 2, 2), dtype=np.float32)
    assert np.array_equal(keyed_noise(pixels, seed=7, draw=4)[0].numpy(), expected)
    assert expected.ravel()[:3].tolist() == pytest.approx([-0.7861177, 0.4912812, 1.0447735], abs=1e-6)


@pytest.mark.parametrize("change", [{"seed": 2}, {"draw": 1}, {"timestep": 90}, {"timestep": 91}])
def test_another_setting_gives_unrelated_noise(change):
    pixels = pixels_of(1, 40, 50)
    settings = {"seed": 1, "draw": 0, "timestep": None}
    one, other = keyed_noise(pixels, **settings), keyed_noise(pixels, **{**settings, **change})
    assert abs(correlation(one, other)) < 4 / math.sqrt(one.numel())


def test_another_pixel_or_shape_gives_unrelated_noise():
    pixels = pixels_of(1, 40, 50)
    changed = pixels.clone()
    changed[0, 2, 39, 49] += 1
    noise = keyed_noise(pixels, seed=1, draw=0)
    for other in (changed, pixels.reshape(1, 3, 50, 40)):
        assert abs(correlation(noise, keyed_noise(other, seed=1, draw=0))) < 4 / math.sqrt(noise.numel())


def test_noise_is_standard_normal():
    noise = keyed_noise(pixels_of(8, 50, 60), seed=0, draw=0).double()
    n = noise.numel()
    assert abs(noise.mean()) < 4 / math.sqrt(n)
    assert abs(noise.square().mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs(noise.pow(4).mean() - 3) < 4 * math.sqrt(96 / n)


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
