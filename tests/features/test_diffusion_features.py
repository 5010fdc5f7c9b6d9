"""Features of a diffusion network depend on the image and the settings alone, and show what it has learned."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from fewshot.features.diffusion.network import build_adm, pool_map
from fewshot.features.diffusion.noise import keyed_noise
from fewshot.features.diffusion.schedule import Schedule, linear_betas
from fewshot.features.frozen import Extractor
from tests.kits.diffusion import TINY, features, fresh_network, images, tiny, write_tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# The recipe


def test_features_are_the_pooled_block_of_the_noised_image(folder):
    x = images()
    built = tiny(folder, t=300, noise_seed=4)
    network = fresh_network(TINY)
    pixels = ((x + 1) * 127.5).round().to(torch.uint8)
    alpha = float(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[300])
    noised = alpha**0.5 * x + (1 - alpha) ** 0.5 * keyed_noise(pixels, seed=4, draw=0)
    with torch.no_grad():
        expected = adaptive_avg_pool2d(network.forward_to(noised, 300.0, [7])[7], 2).flatten(1)
    assert expected.shape == (5, 64 * 4)
    torch.testing.assert_close(features(built, x), expected)


def test_an_extractor_takes_uint8_images_to_the_same_features(folder):
    x = images()
    extractor = Extractor(tiny(folder))
    pixels = ((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    assert extractor.n_features == 256
    torch.testing.assert_close(extractor(pixels), features(tiny(folder), x))
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.03), ("float16", 0.005)])
def test_lower_precisions_stay_close_and_come_out_in_float32(folder, precision, bound):
    pixels = ((images() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    exact, rounded = (Extractor(tiny(folder), precision=p)(pixels) for p in ("float32", precision))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < bound * exact.norm()


def test_the_preprocessing_is_adms(folder):
    preprocess = tiny(folder).preprocess
    assert preprocess.size == (8, 8)
    assert (preprocess.resize, preprocess.crop_fraction, preprocess.interpolation) == ("adm", 1.0, "bicubic")
    assert preprocess.mean == preprocess.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("n_cells", [1, 2, 4, 8, 16])
def test_where_cells_divide_the_map_their_mean_is_the_maps(n_cells):
    maps = torch.randn(3, 5, 16, 16, dtype=torch.float32)
    pooled = pool_map(maps, n_cells)
    assert pooled.shape == (3, 5 * n_cells**2)
    torch.testing.assert_close(pooled.view(3, 5, -1).mean(2), maps.mean((2, 3)))


def test_small_maps_stay_whole_and_uneven_cells_overlap():
    maps = torch.randn(3, 5, 4, 4)
    assert torch.equal(pool_map(maps, 16), maps.flatten(1))
    assert pool_map(maps, 16).view(3, 5, 4, 4).equal(maps)
    assert not torch.allclose(pool_map(maps, 3).view(3, 5, -1).mean(2), maps.mean((2, 3)))
    assert pool_map(maps.bfloat16(), 2).dtype == torch.float32


def test_layers_are_the_single_ones_in_the_order_of_the_request(folder):
    x = images()
    several = features(tiny(folder, layers=("9", "2", "5")), x)
    assert list(several) == ["9", "2", "5"]
    assert [several[layer].shape[1] for layer in several] == [128, 128, 256]
    for layer in ("9", "2", "5"):
        assert torch.equal(several[layer], features(tiny(folder, layers=(layer,)), x))


def test_several_draws_average_the_features_of_each(folder):
    x = images()
    built = tiny(folder, n_noise=3, layers=("7", "1"))
    pixels = ((x + 1) * 127.5).round().to(torch.uint8)
    with torch.inference_mode():
        draws = [built.network.features_of_draw(x, pixels, draw) for draw in range(3)]
    for layer, averaged in features(built, x).items():
        torch.testing.assert_close(averaged, sum(draw[layer] for draw in draws) / 3)
        assert (draws[0][layer] - draws[1][layer]).norm() > 0.01 * averaged.norm()
    assert torch.equal(draws[0]["7"], features(tiny(folder), x))


def test_a_signal_to_noise_ratio_stands_for_its_timestep(folder):
    by_snr, by_t = tiny(folder, snr=10.5, t=3), tiny(folder, t=90)
    assert by_snr.spec == by_t.spec
    assert by_snr.spec["t"] == 90
    assert by_snr.spec["snr"] == pytest.approx(10.53, abs=0.005)
    assert torch.equal(features(by_snr, images()), features(by_t, images()))


def test_a_rescaled_network_is_told_the_rescaled_time(folder):
    config = replace(TINY, noise_schedule="cosine", diffusion_steps=4000, rescale_timesteps=True)
    (folder / "rescaled.json").write_text(json.dumps(config.spec()))
    built = build_adm(None, folder / "tiny.pt", config=str(folder / "rescaled.json"), layers=("7",), t=2000)
    assert (built.spec["t"], built.spec["model_time"]) == (2000, 500.0)
    told = []
    built.network.unet.time_embed.register_forward_pre_hook(lambda module, args: told.append(args[0][0, 0].item()))
    features(built, images())
    assert told == [pytest.approx(torch.tensor(500.0).cos().item(), abs=1e-4)]


def test_noise_is_shared_by_timesteps_or_not(folder):
    def noise_at(t, share_noise):
        built = tiny(folder, t=t, share_noise=share_noise)
        found = []
        forward_to = built.network.unet.forward_to
        built.network.unet.forward_to = lambda noised, *rest: found.append(noised) or forward_to(noised, *rest)
        features(built, images())
        alpha = float(Schedule(linear_betas()).alphas_cumprod[t])
        return (found[0] - alpha**0.5 * images()) / (1 - alpha) ** 0.5

    torch.testing.assert_close(noise_at(300, True), noise_at(700, True), rtol=0, atol=1e-4)
    assert (noise_at(300, False) - noise_at(700, False)).std() > 1


# What features depend on


def test_features_do_not_depend_on_batch_or_order(folder):
    x, built = images(7), tiny(folder)
    together = features(built, x)
    torch.testing.assert_close(features(built, x.flip(0)).flip(0), together)
    torch.testing.assert_close(torch.cat([features(built, row[None]) for row in x]), together)
    assert torch.equal(features(built, x), together)


def test_features_are_the_same_in_another_process(folder):
    code = (
        "import sys, torch; from fewshot.features.diffusion.network import build_adm\n"
        "torch.set_num_threads(1); torch.rand(3); x = torch.load(sys.argv[3])\n"
        "built = build_adm(None, sys.argv[1], config=sys.argv[2], layers=('7',))\n"
        "with torch.inference_mode(): torch.save(built.network(x), sys.argv[3])"
    )
    x, path = images(), folder / "x.pt"
    torch.save(x, path)
    paths = [folder / "tiny.safetensors", folder / "tiny.json", path]
    subprocess.run(
        [sys.executable, "-c", code, *paths], cwd=ROOT, check=True, env={**os.environ, "PYTHONHASHSEED": "5"}
    )
    torch.testing.assert_close(torch.load(path), features(tiny(folder), x))


def test_formats_of_one_file_give_one_key_and_one_answer(folder):
    one, other = (Extractor(tiny(folder, file)) for file in ("tiny.pt", "tiny.safetensors"))
    assert one.key == other.key
    assert torch.equal(features(tiny(folder, "tiny.pt"), images()), features(tiny(folder), images()))


@pytest.mark.parametrize(
    "change",
    [
        {"t": 91},
        {"snr": 1.0},
        {"pool": 3},
        {"n_noise": 2},
        {"noise_seed": 1},
        {"share_noise": False},
        {"layers": ("6",)},
        {"weights": "random"},
    ],
    ids=str,
)
def test_every_setting_changes_the_key_and_the_features(folder, change):
    before, after = tiny(folder), tiny(folder, **change)
    assert Extractor(before).key != Extractor(after).key
    one, other = features(before, images()), features(after, images())
    assert one.shape != other.shape or not torch.allclose(one, other, atol=1e-3)


def test_random_weights_depend_on_the_seed_and_not_on_the_layers_or_the_global_state(folder):
    deep = tiny(folder, "random", layers=("2", "9"))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    shallow = tiny(folder, "random", layers=("2",))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(features(deep, images())["2"], features(shallow, images()))
    other = tiny(folder, "random", layers=("2",), seed=1)
    assert not torch.allclose(features(other, images()), features(shallow, images()), atol=1e-2)
    assert all(bool(weight.std() > 0) for weight in deep.network.state_dict().values() if weight.ndim > 1)


def test_the_spec_is_json_and_only_used_weights_are_kept(folder):
    built = tiny(folder, layers=("3", "1"))
    assert json.loads(json.dumps(built.spec)) == json.loads(json.dumps({**built.spec, "layers": ["3", "1"]}))
    assert {name.split(".")[0] for name in built.network.unet.state_dict()} == {"time_embed", "input_blocks"}
    assert all(parameter.dtype == torch.float32 for parameter in built.network.parameters())


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ("10",)}, "layers must be distinct block numbers from '1' to '9', got ('10',)"),
        ({"layers": ("3", "3")}, "layers must be distinct block numbers from '1' to '9', got ('3', '3')"),
        ({"layers": ("mid",)}, "layers must be distinct block numbers from '1' to '9', got ('mid',)"),
        ({"layers": ()}, "layers must be distinct block numbers from '1' to '9', got ()"),
        ({"layers": "24"}, "layers must be distinct block numbers from '1' to '9', got '24'"),
        ({"t": 1000}, "t must lie in [0, 1000), got 1000"),
        ({"snr": -1.0}, "snr must not be negative, got -1.0"),
        ({"pool": 0}, "pool must be positive, got 0"),
        ({"n_noise": 0}, "n_noise must be positive, got 0"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(folder, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tiny(folder, **options)


def test_a_network_has_one_name_or_one_config(folder):
    both = "give the name of a preset or a config file, one of them; got "
    with pytest.raises(ValueError, match=f"^{both}None and ''$"):
        build_adm(None, "random")
    with pytest.raises(ValueError, match=f"^{both}'improved_cifar10' and 'a.json'$"):
        build_adm("improved_cifar10", "random", config="a.json")
    with pytest.raises(
        ValueError, match=r"^unknown diffusion network 'adm_256': did you mean 'adm_256_uncond'\? Known: "
    ):
        build_adm("adm_256", "random")
    with pytest.raises(ValueError, match=r"^weights must be a checkpoint or 'random': none come with this library$"):
        build_adm("adm_256_uncond", None)


class Payload:
    """What a malicious checkpoint would hold."""

    def __reduce__(self):
        return os.mkdir, ("never",)


N = len(fresh_network(TINY).state_dict())
CONV = "input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop("out.2.bias"), f"expected the network's {N} tensors, got 1 missing: out.2.bias"),
        (lambda w: w.update(extra=torch.ones(1)), f"expected the network's {N} tensors, got 1 left over: extra"),
        (
            lambda w: w.update({CONV: torch.ones(32, 4, 3, 3)}),
            f"expected the network's {N} tensors, got 1 mis-shaped: {CONV} (32, 4, 3, 3) for (32, 3, 3, 3)",
        ),
        (
            lambda w: w.update(step=7),
            "expected names and tensors, got 'step' of type int: save the network's state_dict",
        ),
        (lambda w: w.update(x=Payload()), "refused, since it holds a posix.mkdir"),
    ],
    ids=["missing key", "extra key", "wrong shape", "not a tensor", "pickle"],
)
def test_a_checkpoint_of_another_network_is_refused_whole(folder, tmp_path, monkeypatch, spoil, message):
    # Only block 1 is asked for: what does not fit lies beyond it, or in it, and is refused all the same.
    monkeypatch.chdir(tmp_path)
    weights = dict(torch.load(folder / "tiny.pt"))
    spoil(weights)
    torch.save(weights, tmp_path / "spoilt.pt")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}/spoilt.pt: ')}.*{re.escape(message)}"):
        build_adm(None, tmp_path / "spoilt.pt", config=str(folder / "tiny.json"), layers=("1",))
    assert not (tmp_path / "never").exists()


def test_a_missing_checkpoint_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"^no such checkpoint: .*none\.pt$"):
        tiny(folder, "none.pt")


def test_half_precision_checkpoints_are_widened(folder, tmp_path):
    weights = {name: tensor.half() for name, tensor in torch.load(folder / "tiny.pt").items()}
    torch.save(weights, tmp_path / "half.pt")
    built = build_adm(None, tmp_path / "half.pt", config=str(folder / "tiny.json"), layers=("7",))
    torch.testing.assert_close(features(built, images()), features(tiny(folder), images()), rtol=0.02, atol=0.02)
    assert {parameter.dtype for parameter in built.network.parameters()} == {torch.float32}
