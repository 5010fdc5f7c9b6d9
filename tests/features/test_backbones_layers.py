"""A layer gives what it gave in the whole network, in the order asked for, and the network is as it was."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fewshot.features.backbones.custom import build_module
from fewshot.features.backbones.layers import LayerNetwork, check_layers, layer_outputs
from fewshot.features.backbones.pooling import Known, read_output, readout
from fewshot.features.frozen import weights_hash
from fewshot.features.images.preprocess import Preprocess

LAYERS = ("stem", "norm", "body.0", "body.1", "head")
SMALL = Preprocess(size=(8, 8))


class Body(nn.Module):
    """Every child runs once but ``act``, which runs twice and writes into what ``norm`` gave; ``idle`` never runs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.Conv2d(5, 7, 3, stride=2), nn.Dropout())
        self.idle = nn.Linear(2, 2)
        self.pair = Pair()
        self.head = nn.Linear(7, 4)
        self.n_heads_run = 0

    def forward(self, images):
        maps = self.act(self.norm(self.stem(images)))
        try:
            maps = self.act(self.body(maps))
        except Exception:  # a network that catches what it can
            maps = maps * 0
        self.pair(maps)
        self.n_heads_run += 1
        return self.head(maps.mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.fixture
def body():
    torch.manual_seed(0)
    network = Body()
    network(torch.randn(6, 3, 8, 8))  # so that the statistics are not those of birth
    return network.eval()


def images(n=2, side=8):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def whole_run(network, x):
    """Every child's first output, copied as it leaves, from one full forward pass."""
    seen = {}

    def keeper(name):
        def keep(module, arguments, output):
            seen.setdefault(name, output.detach().clone())  # returned, it would replace the output

        return keep

    handles = [network.get_submodule(name).register_forward_hook(keeper(name)) for name in LAYERS]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return seen


def n_hooks(network):
    return sum(len(module._forward_hooks) for module in network.modules())


@given(asked=st.lists(st.sampled_from(LAYERS), min_size=1, max_size=7))
def test_layers_equal_those_of_a_whole_run_in_the_order_asked_for(asked):
    torch.manual_seed(0)
    network = Body().eval()
    expected = whole_run(network, images())
    with torch.inference_mode():
        outputs = layer_outputs(network, asked, images(), lambda name, output: output)
    assert len(outputs) == len(asked)
    assert all(torch.equal(output, expected[name]) for name, output in zip(asked, outputs, strict=True))
    assert n_hooks(network) == 0


def test_a_view_of_an_output_is_safe_from_what_writes_into_it_later(body):
    with torch.inference_mode():
        norm, _ = layer_outputs(body, ["norm", "head"], images(), lambda name, output: output.flatten(1))
    assert (norm < 0).any()
    assert torch.equal(norm, whole_run(body, images())["norm"].flatten(1))


def test_the_network_is_left_after_the_last_layer_asked_for_even_if_it_catches_exceptions(body):
    before = body.n_heads_run
    layer_outputs(body, ["stem", "body.0"], images(), lambda name, output: output)
    assert body.n_heads_run == before
    layer_outputs(body, ["head"], images(), lambda name, output: output)
    assert body.n_heads_run == before + 1


def test_of_a_module_that_runs_twice_the_first_run_counts(body):
    with torch.inference_mode():
        act, _ = layer_outputs(body, ["act", "head"], images(), lambda name, output: output)
    assert torch.equal(act, whole_run(body, images())["norm"].clamp(min=0))


def test_hooks_are_gone_after_an_error(body):
    with pytest.raises(ZeroDivisionError):
        layer_outputs(body, ["stem", "head"], images(), lambda name, output: 1 / 0)
    assert n_hooks(body) == 0


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["sten"], "unknown layer 'sten': did you mean 'stem'? named_modules() of the network lists them"),
        (["zzzz"], "unknown layer 'zzzz'. named_modules() of the network lists them"),
        (
            ["stem", "act"],
            "layer 'act' runs 2 times in one forward pass: choose a module that runs once, such as the block it is in",
        ),
        (
            ["idle"],
            "layer 'idle' runs 0 times in one forward pass: choose a module that runs once, such as the block it is in",
        ),
    ],
)
def test_layers_that_say_nothing_are_refused(body, layers, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_layers(body, layers, images())
    assert n_hooks(body) == 0


def test_layers_that_do_not_run_or_give_no_tensor_are_errors(body):
    with pytest.raises(ValueError, match=r"^layer 'idle' does not run when the network does: choose another$"):
        layer_outputs(body, ["idle"], images(), lambda name, output: output)
    message = r"^the output of layer 'pair' is a tuple, not one tensor: choose a layer that gives one$"
    with pytest.raises(ValueError, match=message):
        layer_outputs(body, ["pair"], images(), lambda name, output: output)


# Readouts


def truth(x, kind, n_prefix=0):
    """x (b, positions, c) in float64, by loops over images and channels."""
    rows = []
    for image in x.double():
        patches = image[n_prefix:]
        mean = [float(sum(channel) / len(channel)) for channel in patches.T]
        gem = [(sum(max(v, 1e-6) ** 3 for v in c.tolist()) / len(c)) ** (1 / 3) for c in patches.T]
        cls = image[0].tolist()
        rows.append(
            {
                "default": mean, "gap": mean, "mean_patch": mean, "gem": gem, "cls": cls,
                "max": [max(c.tolist()) for c in patches.T], "cls+mean_patch": cls + mean,
            }[kind]
        )  # fmt: skip
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["default", "gap", "mean_patch", "gem", "max"])
def test_maps_are_read_alike_in_both_layouts(kind):
    x = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = truth(x.flatten(2).mT, kind)
    torch.testing.assert_close(readout(x, kind, "nchw"), expected)
    torch.testing.assert_close(readout(x.permute(0, 2, 3, 1), kind, "nhwc"), expected)


@pytest.mark.parametrize("n_prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("kind", ["default", "gem", "max", "cls", "mean_patch", "cls+mean_patch"])
def test_tokens_are_read_without_their_prefix(kind, n_prefix):
    x = torch.randn(2, n_prefix + 9, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    if "cls" in kind and n_prefix == 0:
        message = rf"^readout '{re.escape(kind)}' needs a class token, and this layer has none: use 'mean_patch'$"
        with pytest.raises(ValueError, match=message):
            readout(x, kind, "tokens", n_prefix)
    else:
        torch.testing.assert_close(readout(x, kind, "tokens", n_prefix), truth(x, kind, n_prefix))


@pytest.mark.parametrize(("windows", "side"), [(2, 6), (4, 8), (3, 9)])
def test_adaptive_is_a_loop_over_windows_and_its_mean_is_the_global_one(windows, side):
    x = torch.randn(2, 5, side, side, generator=torch.Generator().manual_seed(4))
    step = side // windows
    cells = [
        x[:, c, i * step : (i + 1) * step, j * step : (j + 1) * step].mean((1, 2))
        for c in range(5)
        for i in range(windows)
        for j in range(windows)
    ]
    read = readout(x, f"adaptive{windows}", "nchw")
    torch.testing.assert_close(read, torch.stack(cells, 1))
    torch.testing.assert_close(readout(x.permute(0, 2, 3, 1), f"adaptive{windows}", "nhwc"), read)
    tokens = torch.cat([torch.full((2, 1, 5), 9.0), x.flatten(2).mT], 1)
    torch.testing.assert_close(readout(tokens, f"adaptive{windows}", "tokens", 1), read)
    torch.testing.assert_close(read.unflatten(1, (5, -1)).mean(2), readout(x, "gap", "nchw"))


def test_flatten_keeps_all_with_channels_slowest_in_maps():
    x = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    assert torch.equal(readout(x, "flatten", "nchw"), x.reshape(2, 60))
    assert torch.equal(readout(x.permute(0, 2, 3, 1), "flatten", "nhwc"), x.reshape(2, 60))
    assert torch.equal(readout(x[0], "flatten", "tokens", None), x[0].reshape(3, 20))


def test_half_precision_is_widened_before_it_is_averaged():
    x = torch.full((1, 2, 16, 16), 300.0, dtype=torch.float16)
    for kind in ("gap", "gem"):
        assert readout(x, kind, "nchw").dtype == torch.float32
        torch.testing.assert_close(readout(x, kind, "nchw"), torch.full((1, 2), 300.0))


@pytest.mark.parametrize(
    ("shape", "known", "channels"),
    [
        ((2, 5, 4, 4), Known(channels_last=True), 5),
        ((2, 4, 4, 5), Known(), 5),
        ((2, 4, 4, 4), Known(channels_last=True), "last"),
        ((2, 4, 4, 4), Known(), "first"),
    ],
)
def test_the_two_equal_sizes_are_the_space_and_only_a_cube_is_told(shape, known, channels):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    read = read_output(x, "gap", images(), known, "x")
    last = channels == "last" or (channels == 5 and shape[-1] == 5)
    torch.testing.assert_close(read, x.mean((1, 2)) if last else x.mean((2, 3)))


def test_of_other_than_square_images_the_layout_is_what_is_told():
    x = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(5))
    oblong = torch.zeros(2, 3, 8, 12)
    torch.testing.assert_close(read_output(x, "gap", oblong, Known(), "x"), x.mean((2, 3)))


def test_prefix_tokens_are_told_by_the_number_of_patches():
    known = Known(n_prefix_tokens=2, n_patches=9)
    for n_tokens, n_prefix in ((9, 0), (11, 2)):
        x = torch.randn(2, n_tokens, 4, generator=torch.Generator().manual_seed(6))
        torch.testing.assert_close(read_output(x, "gap", images(), known, "x"), x[:, n_prefix:].mean(1))
    message = (
        r"^x: readout 'gap' needs to know how many of the 10 tokens are not patches, "
        r"which is not known of this layer: use 'flatten', or another layer$"
    )
    with pytest.raises(ValueError, match=message):
        read_output(torch.zeros(2, 10, 4), "gap", images(), known, "x")


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (torch.zeros(2, 5), "gap", "x: readout 'gap' needs a map or tokens, got vectors (2, 5): use 'default'"),
        (torch.zeros(2, 5, 4, 4), "cls", "x: readout 'cls' needs tokens, got a map (2, 5, 4, 4): use 'gap'"),
        (torch.zeros(2, 7, 5), "adaptive2", "x: readout 'adaptive2' needs a square grid of patches, got 7 patches"),
        (
            torch.zeros(8, 5, 4),
            "gap",
            "x: expected a vector, tokens or a map for each of 2 images, got (8, 5, 4): choose another layer",
        ),
        (
            torch.zeros(2),
            "default",
            "x: expected a vector, tokens or a map for each of 2 images, got (2,): choose another layer",
        ),
    ],
)
def test_what_cannot_be_read_is_an_error(x, kind, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_output(x, kind, images(), Known(), "x")


def test_an_unknown_readout_is_an_error():
    for kind in ("gep", "adaptive0", "adaptive"):
        with pytest.raises(
            ValueError, match=rf"^unknown readout '{kind}': did you mean '(gem|gap|adaptive2)'\? Known: "
        ):
            readout(torch.zeros(1, 2), kind, "vector")


# The user's own


def test_several_layers_in_one_pass_are_those_of_one_each(body):
    asked = ("body.0", "head", "stem", "head")
    with torch.inference_mode():
        together = build_module(body, preprocess=SMALL, layers=asked).network(images())
        alone = {name: build_module(body, preprocess=SMALL, layers=(name,)).network(images()) for name in asked}
    assert list(together) == ["body.0", "head", "stem"]
    assert all(torch.equal(together[name], alone[name]) for name in asked)
    assert [together[name].shape[1] for name in together] == [7, 4, 5]


@pytest.mark.parametrize("layers", [(), ("norm", "head")])
def test_the_users_module_is_left_as_it_was(body, layers):
    body.train()
    body.norm.eval()
    before = weights_hash(body), [m.training for m in body.modules()], [p.requires_grad for p in body.parameters()]
    built = build_module(body, preprocess=SMALL, layers=layers)
    built.network(images())
    after = weights_hash(body), [m.training for m in body.modules()], [p.requires_grad for p in body.parameters()]
    assert after == before
    assert n_hooks(body) == n_hooks(built.network) == 0
    assert not any(module.training for module in built.network.network.modules())
    assert not any(parameter.requires_grad for parameter in built.network.parameters())


def test_a_modules_own_output_is_read_as_its_layout_asks():
    conv = nn.Conv2d(3, 5, 3)
    with torch.no_grad():
        expected = conv(images()).mean((2, 3))
        torch.testing.assert_close(build_module(conv, preprocess=SMALL).network(images()), expected)


def test_tokens_of_a_module_lose_the_prefix_that_the_user_names():
    tokens = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(7))
    built = build_module(lambda x: tokens, name="tokens", n_prefix_tokens=2)
    torch.testing.assert_close(built.network(images()), tokens[:, 2:].mean(1))
    assert built.spec["n_prefix_tokens"] == 2


def test_a_function_works_and_is_identified_by_its_name():
    def brightness(x):
        return x.mean((2, 3))

    built = build_module(brightness, preprocess=SMALL, name="mean colour")
    assert torch.equal(built.network(images()), brightness(images()))
    assert built.spec["module"].endswith("brightness")
    assert built.spec["name"] == "mean colour"
    with pytest.raises(ValueError, match=r"^expected a name for the function, since it has no weights"):
        build_module(brightness)
    with pytest.raises(ValueError, match=r"^layers are read of modules, got a function and layers a, b: pass an nn"):
        build_module(brightness, layers=("a", "b"), name="x")
    with pytest.raises(TypeError, match=r"^expected a module or a function, got a int$"):
        build_module(3)


def test_one_text_is_not_a_sequence_of_layers(body):
    message = r"^layers must be a sequence of names, got the text 'head': write \('head',\)$"
    with pytest.raises(TypeError, match=message):
        build_module(body, layers="head")


def test_one_layer_gives_a_tensor(body):
    network = LayerNetwork(body, ("body.0",), "max", Known())
    with torch.inference_mode():
        torch.testing.assert_close(network(images()), whole_run(body, images())["body.0"].amax((2, 3)))
