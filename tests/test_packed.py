"""Packed layers and models compute what those they were made from do."""

import copy
import io
import subprocess
import threading

import pytest
import torch
from torch import nn

import speechbrain_bifsmn
from speechbrain_bifsmn.kernels import native
from speechbrain_bifsmn.layers import Conv2d, Linear, Memory, NormPReLU
from speechbrain_bifsmn.lobes.fsmn import DFSMN
from speechbrain_bifsmn.onebit import NotOneBitError
from speechbrain_bifsmn.packed import (
    PackedConv2d,
    PackedLinear,
    PackedMemory,
    _library,
    pack,
)
from speechbrain_bifsmn.quantizers import ACTIVATIONS, WEIGHTS, sign
from tests.test_native import CSRC, FLAGS
from tests.tiny import tiny_bifsmn

BINARY = sorted(set(ACTIVATIONS) - {"as-released"})
METHODS = sorted(set(WEIGHTS) - {"as-released"})
KERNELS = native.kernel_names() if native.available() else []


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def lived_in(layer):
    """Thresholds and scales other than the first."""
    for parameter in layer.activation_quantizer.parameters():
        nn.init.normal_(parameter, 0.2, 0.3)
    for name, buffer in layer.activation_quantizer.named_buffers():
        if name == "scale":
            buffer.fill_(0.73)
    return layer.eval()


def dice(low, high):
    return int(torch.randint(low, high + 1, ()))


def random_linear(*quantizers):
    inputs, repeats = dice(1, 150), dice(1, 3)
    shape = [dice(1, 3) for _ in range(dice(0, 1))] + [dice(1, 70)]
    layer = Linear(
        *(inputs * repeats, dice(1, 150), *quantizers), channels=inputs
    )
    return layer, torch.randn(*shape, inputs * repeats)


def random_conv(*quantizers):
    layer = Conv2d(
        *(dice(1, 70), dice(1, 40), 2 * dice(0, 2) + 1, dice(1, 3)),
        *quantizers,
    )
    inputs = layer.weight.shape[1]
    return layer, torch.randn(dice(1, 3), inputs, dice(1, 20), dice(1, 90))


def random_memory(*quantizers):
    layer = Memory(
        *(dice(1, 140), dice(0, 6), dice(0, 6), dice(1, 9)), *quantizers
    )
    shape = dice(1, 4), dice(1, 300), len(layer.weight)
    return layer, torch.randn(shape)


RANDOM = [random_linear, random_conv, random_memory]


def check(layer, x):
    """Equal within rounding, which grows with the terms of a sum."""
    with torch.no_grad():
        expected, actual = layer(x), pack(layer)(x)
        one = torch.full_like(layer.weight, 3.0).flatten(1).sum(1).max()
        scale = layer.quantized_weight().abs().max() * one
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    assert actual.is_contiguous()
    torch.testing.assert_close(
        actual, expected, rtol=1e-5, atol=float(1e-6 * scale)
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_binarizer_of_weights(name):
    for random in RANDOM:
        layer, x = random(name, "bnn")
        check(lived_in(layer), x)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", BINARY)
def test_every_binarizer_of_inputs_in_every_kernel(monkeypatch, kernel, name):
    monkeypatch.setenv("BIFSMN_KERNEL", kernel)
    for random in RANDOM * 2:
        weights = METHODS[dice(0, len(METHODS) - 1)]
        layer, x = random(weights, name)
        check(lived_in(layer), x)


@pytest.mark.parametrize("kernel", KERNELS)
def test_integers_are_exact(monkeypatch, kernel):
    monkeypatch.setenv("BIFSMN_KERNEL", kernel)
    for random in RANDOM * 10:
        layer, x = random("bnn", "bnn")
        with torch.no_grad():
            sums = layer.double()(x.double())
            expected = sums / layer.quantized_weight().abs().max()
            packed = pack(layer.float())
            packed.scale.fill_(1)
            assert torch.equal(packed(x).double(), expected.round())


def test_inputs_at_their_thresholds():
    layer = lived_in(Linear(70, 9, "bnn", "reactnet"))
    at = layer.activation_quantizer.threshold.detach()
    up, down = (torch.nextafter(at, at + side) for side in (1, -1))
    check(layer, torch.stack([at, up, down]))
    check(Linear(3, 2, "bnn", "bnn"), torch.tensor([[0.0, -0.0, -1e-45]]))


@pytest.mark.parametrize("frames", [1, 63, 64, 65, 75, 140, 700])
def test_memory_across_its_blocks(frames):
    check(Memory(70, 3, 2, 4, "bnn", "bnn").eval(), torch.randn(2, frames, 70))


def test_shapes_at_their_ends():
    check(Linear(1, 1, "bnn", "bnn"), torch.randn(1))
    check(Linear(2000, 3, "bnn", "bifsmnv2"), torch.randn(2, 2000))
    check(Linear(3, 2000, "bnn", "bnn"), torch.randn(70, 3))
    check(Linear(70, 9, "bnn", "bnn"), torch.randn(0, 4, 70))
    for name in ("reactnet", "bnn", "fda"):
        linear = lived_in(Linear(7, 9, "bnn", name))
        x = torch.randn(2, 7, 5, 7)
        check(linear, x)
        assert torch.equal(linear(x), linear(x[:, :, None])[:, :, 0])
    check(Conv2d(1, 1, 1, 1, "bnn", "bnn"), torch.randn(1, 1, 1, 1))
    check(Conv2d(33, 5, 3, 2, "bnn", "bifsmnv2"), torch.randn(1, 33, 70, 200))
    check(Conv2d(2, 3, 9, 2, "bnn", "bnn"), torch.randn(3, 2, 3, 2))
    check(Conv2d(2, 3, 3, 2, "bnn", "bnn"), torch.randn(0, 2, 3, 2))


def test_many_frames():
    layer = Linear(16, 8, "bnn", "bnn").eval()
    check(layer, torch.randn(300_000, 16))


def test_inputs_that_are_not_contiguous():
    check(Linear(6, 4, "bnn", "bnn"), torch.randn(6, 9).T)
    check(Memory(6, 2, 2, 1, "bnn", "bnn"), torch.randn(2, 6, 9).mT)
    x = torch.randn(2, 6, 5, 7).to(memory_format=torch.channels_last)
    check(Conv2d(6, 4, 3, 1, "bnn", "bnn"), x)
    check(Linear(6, 4, "bnn", "bnn"), torch.randn(1, 6).expand(3, 6))


def same_model(model, packed, x, **options):
    with torch.no_grad():
        expected = model(x, **options)
        torch.testing.assert_close(
            packed(x, **options), expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("binarizer", ["bifsmn", "reactnet", "dorefa"])
def test_models_at_every_depth(binarizer):
    model = tiny_bifsmn(
        weight_quantizer=binarizer, activation_quantizer=binarizer
    )
    before = copy.deepcopy(model.state_dict())
    packed = pack(model)
    kinds = [type(module) for module in packed.modules()]
    assert kinds.count(PackedConv2d) == 1
    assert kinds.count(PackedLinear) == 1 + 2 * 4
    assert kinds.count(PackedMemory) == 4
    for depth in model.depths:
        same_model(model, packed, torch.randn(3, 32, 20), depth=depth)
    for batch in range(1, 71, 3):
        same_model(model, packed, torch.randn(batch, 32, 20))
    assert type(model.fc) is Linear
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("names", [(None, None), ("as-released",) * 2])
def test_what_is_not_binary_stays(names):
    model = DFSMN(
        *(8, 8, 3, (2, 3), 3, 2, 4, 5, 1),
        weight_quantizer=names[0],
        activation_quantizer=names[1],
    )
    packed = pack(model.eval())
    kinds = {type(module) for module in packed.modules()}
    assert not kinds & {PackedConv2d, PackedLinear, PackedMemory}
    same_model(model, packed, torch.randn(2, 8, 8))


@pytest.fixture
def own():
    """A user's own model; one layer is there twice."""
    twice = Linear(32, 32, "bifsmn", "bifsmn", kind="pointwise")
    model = nn.Sequential(
        nn.Linear(20, 24),
        NormPReLU(24, rprelu=True),
        nn.Sequential(Linear(24, 32, "xnor", "reactnet"), nn.BatchNorm1d(32)),
        *(twice, nn.BatchNorm1d(32), twice),
        Linear(32, 32, "lpb", "bifsmnv2"),
        Linear(32, 5, "bnn", None),
    )
    lived_in(model[6])
    for norm in model[2][1], model[4]:  # a sum of zero is no tie then
        nn.init.normal_(norm.bias)
    return model


def test_own_model(own):
    x = torch.randn(64, 20)
    own(x)  # statistics; and what training leaves behind
    packed = pack(own)
    assert own.training and not packed.training
    assert packed[3] is packed[5]
    assert type(packed[2][0]) is PackedLinear and type(packed[7]) is Linear
    same_model(own.eval(), packed, x)


def test_pack_in_training_with_losses_kept():
    layer = Linear(6, 4, "rad", "rad")
    layer(torch.randn(8, 6)).sum().backward()
    assert pack(layer)(torch.randn(2, 6)).shape == (2, 4)


def test_copies_files_and_states(own, tmp_path):
    x = torch.randn(7, 20)
    packed = pack(own)
    expected = packed(x)
    assert torch.equal(copy.deepcopy(packed)(x), expected)
    torch.save(packed, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(loaded(x), expected)
    for parameter in own.parameters():
        nn.init.normal_(parameter)
    own[6].activation_quantizer.scale.fill_(0.4)
    other = pack(own)
    assert not torch.equal(other(x), expected)
    file = io.BytesIO()
    torch.save(packed.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), expected)
    assert torch.equal(pack(packed)(x), expected)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a")
def test_compiled(own):
    packed, x = pack(own), torch.randn(7, 20)
    compiled = torch.compile(packed, backend="eager")
    got = []
    # In a thread that has not called it before.
    thread = threading.Thread(target=lambda: got.append(compiled(x)))
    thread.start()
    thread.join()
    assert torch.equal(got[0], packed(x))


def test_threads_share_a_model(network):
    packed, failed = pack(network), []
    clips = [torch.randn(i + 1, 32, 20) for i in range(4)]
    expected = [packed(x) for x in clips]
    packed = copy.deepcopy(packed)

    def work(i):
        for _ in range(20):
            if not torch.equal(packed(clips[i]), expected[i]):
                failed.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_wrong_inputs_are_named():
    linear = pack(Linear(6, 4, "bnn", "bnn"))
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(TypeError, match=f"float32, not {dtype}"):
            linear(torch.randn(2, 6, dtype=dtype))
    with pytest.raises(ValueError, match=r"\[\.\.\., 6\], got \[2, 5\]"):
        linear(torch.randn(2, 5))
    with pytest.raises(ValueError, match="run on the CPU.* on meta"):
        linear(torch.randn(2, 6, device="meta"))
    with pytest.raises(ValueError, match=r"\[batch, 3, time, mel\]"):
        pack(Conv2d(3, 4, 3, 1, "bnn", "bnn"))(torch.randn(3, 5, 5))
    with pytest.raises(ValueError, match=r"\[batch, time, 6\], got \[2, 6\]"):
        pack(Memory(6, 1, 1, 1, "bnn", "bnn"))(torch.randn(2, 6))


@pytest.mark.parametrize("shape", [(2, 9), (2, 9, 3, 1)])
def test_what_is_no_number_stays_none(shape):
    norm = NormPReLU(9).eval()
    x = torch.randn(shape)
    x.view(-1)[::4] = torch.nan
    expected = norm(x).detach()
    assert torch.allclose(pack(norm)(x), expected, equal_nan=True)
    assert expected.isnan().any() and expected.isfinite().any()


def test_it_only_runs():
    packed = pack(nn.Sequential(Linear(6, 4, "bnn", "bnn")))
    with pytest.raises(RuntimeError, match="cannot be trained"):
        packed.train()
    packed.eval()
    for trace in (torch.jit.trace, torch.export.export):
        with pytest.raises(RuntimeError, match="cannot be traced"):
            trace(packed, (torch.randn(2, 6),))
    assert packed.double()(torch.randn(2, 6)).dtype is torch.float32


def test_weights_of_two_magnitudes_are_named():
    model = nn.Sequential(nn.ReLU(), Linear(6, 4, "bnn", "bnn"))
    model[1].weight_quantizer.forward = lambda weight: weight
    with pytest.raises(NotOneBitError, match="1 is not 1-bit: channel 0 has"):
        pack(model)


def test_inputs_that_fold_to_others_are_named():
    model = nn.Sequential(Linear(6, 4, "bnn", "bnn"))
    model[0].activation_quantizer.forward = lambda x: sign(x - 0.5)
    with pytest.raises(NotOneBitError, match="0 is not 1-bit: its activat"):
        pack(model)


def test_other_types_are_named():
    with pytest.raises(ValueError, match="1 is of torch.float64.*float()"):
        pack(nn.Sequential(nn.ReLU(), NormPReLU(6)).double())
    pack(nn.Sequential(Linear(6, 4)).double())


def test_layers_with_hooks_stay(own):
    calls = []
    own[6].register_forward_hook(lambda *call: calls.append(call))
    packed = pack(own)
    packed(torch.randn(2, 20))
    assert type(packed[6]) is Linear and len(calls) == 1
    own[6].activation_quantizer.register_forward_hook(
        lambda *call: calls.append(call)
    )
    own[6]._forward_hooks.clear()
    pack(own)(torch.randn(2, 20))
    assert len(calls) == 2


def test_padding_with_a_third_value_is_named():
    model = nn.Sequential(Memory(6, 1, 1, 1, "bnn", "bnn"))
    type(model[0].activation_quantizer).padding, kept = 0.0, 1.0
    try:
        with pytest.raises(NotOneBitError, match="0 is not 1-bit: .* padded"):
            pack(model)
    finally:
        type(model[0].activation_quantizer).padding = kept


def test_missing_core_and_unknown_kernels(monkeypatch):
    layer = Linear(6, 4, "bnn", "bnn")
    with monkeypatch.context() as patch:
        patch.setenv("BIFSMN_KERNEL", "abacus")
        with pytest.raises(ValueError, match="name abacus .*: .*scalar"):
            pack(layer)
    monkeypatch.setattr(native, "_native", None)
    _library.cache_clear()
    with pytest.raises(ImportError, match="install a C compiler"):
        pack(layer)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warnings(compiler):
    folders = f"-I{CSRC / 'include'}", f"-I{CSRC / 'src'}"
    options = "-fsyntax-only", "-Wpedantic", "-Wshadow", *FLAGS, *folders
    subprocess.run([compiler, *options, CSRC / "python/packed.c"], check=True)


def test_at_the_top_of_the_package():
    assert speechbrain_bifsmn.pack is pack
    with pytest.raises(AttributeError, match="no attribute 'unpack'"):
        _ = speechbrain_bifsmn.unpack
