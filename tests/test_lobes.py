"""Quantizers, layers and networks compute what their formulas say."""

import copy
import doctest
import importlib
import re
import socket
import textwrap

import numpy as np
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

import speechbrain_bifsmn.quantizers
from speechbrain_bifsmn.depths import layers_of
from speechbrain_bifsmn.layers import Conv2d, Memory, PerDepth
from speechbrain_bifsmn.lobes.bifsmn import BiFSMN
from speechbrain_bifsmn.lobes.dscnn import DSCNN
from speechbrain_bifsmn.lobes.features import LogMel
from speechbrain_bifsmn.lobes.fsmn import DFSMN, DFSMNBlock, FSMNMemory
from tests.tiny import tiny_bifsmn

MODULES = [
    "quantizers",
    "quantizers.base",
    "quantizers.schedules",
    "quantizers.weights",
    "quantizers.activations",
    "depths",
    "jit",
    "layers",
    "packed",
    "metrics",
    "distillation",
    "hyperparameters",
    "lobes.features",
    "lobes.fsmn",
    "lobes.bifsmn",
    "lobes.bcresnet",
    "lobes.dscnn",
    "data.augment",
    "data.protocols",
    "spotting",
]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_in_the_docstrings_runs(name):
    module = importlib.import_module(f"speechbrain_bifsmn.{name}")
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted > 0 and result.failed == 0


def test_the_training_loop_in_the_docstring_trains_all_parameters():
    text = speechbrain_bifsmn.quantizers.__doc__
    code = textwrap.dedent(re.search(r"::\n\n(    .*?)\n\n\S", text, re.S)[1])
    method = dict.fromkeys(["weight_quantizer", "activation_quantizer"], "lsq")
    model = tiny_bifsmn(**method)
    before = copy.deepcopy(model.state_dict())
    names = vars(speechbrain_bifsmn.quantizers) | {
        "torch": torch,
        "cross_entropy": torch.nn.functional.cross_entropy,
        "model": model,
        "lr": 0.1,
        "epochs": 1,
        "batches": [(torch.randn(8, 32, 20), torch.randint(4, (8,)))] * 2,
    }
    exec(code, names)
    same = [
        name
        for name, _ in model.named_parameters()
        if torch.equal(model.state_dict()[name], before[name])
    ]
    assert not same
    rates = {group["lr"] for group in names["optimizer"].param_groups}
    assert len(rates) == 2


def test_a_copy_of_a_binary_network_is_that_network():
    model = tiny_bifsmn(weight_quantizer="lsq", activation_quantizer="lsq")
    other = tiny_bifsmn(1, weight_quantizer="lsq", activation_quantizer="lsq")
    other.copy_weights(model)
    x = torch.randn(3, model.frames, model.n_mels)
    assert torch.equal(other(x), model(x))


def test_unknown_binarizer_is_named():
    with pytest.raises(ValueError, match="'bnm'.*bnn, xnor"):
        DFSMN(weight_quantizer="bnm")


@pytest.mark.parametrize("quantizer", [None, "bifsmn"])
def test_memory_is_the_sum_over_taps(quantizer):
    torch.manual_seed(0)
    memory = Memory(3, 2, 1, 2, quantizer, quantizer).double()
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    inputs, weight = memory.quantized_input(x), memory.quantized_weight()
    outside = 0.0 if quantizer is None else 1.0
    expected = torch.zeros_like(x)
    for t in range(7):
        for j in range(4):
            source = t + (j - 2) * 2
            inside = 0 <= source < 7
            value = inputs[:, source] if inside else outside
            expected[:, t] += weight[:, j] * value
    assert torch.allclose(memory(x), expected)


def test_binary_convolution_pads_with_plus_one():
    layer = Conv2d(2, 3, 3, 1, "bnn", "bnn")
    everywhere = layer(torch.ones(1, 2, 6, 6))
    assert (everywhere == everywhere[..., 3:4, 3:4]).all()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Memory(3, 2, 1, 2, "lpb", "lsq"), (2, 7, 3)),
        (Conv2d(3, 4, 5, 2, "lpb", "lsq"), (2, 3, 6, 5)),
    ],
)
def test_a_learned_padding_gets_its_gradient(layer, shape):
    """Euler: the output is of degree 1 in x, θ and s, as the padding is."""
    torch.manual_seed(0)
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    y = layer(x.requires_grad_())
    upstream = torch.randn_like(y)
    y.backward(upstream)
    quantizer = layer.activation_quantizer
    degree = (x * x.grad).sum() + quantizer.log_step.grad
    degree += quantizer.shift * quantizer.shift.grad
    assert torch.allclose(degree, (y * upstream).sum())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", ["reactnet", "bifsmnv2", "lsq"])
def test_a_network_can_be_traced_for_other_runtimes(name, tmp_path):
    model = tiny_bifsmn(weight_quantizer=name, activation_quantizer=name).eval()
    feats = torch.randn(2, model.frames, model.n_mels)
    expected = model(feats)
    traced = torch.export.export(model, (feats,)).module()
    torch.testing.assert_close(traced(feats), expected)
    torch.jit.trace(model, feats, check_trace=False).save(tmp_path / "net.pt")
    traced = torch.jit.load(tmp_path / "net.pt")
    torch.testing.assert_close(traced(feats), expected)


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [(8, 8, [*range(8)]), (8, 4, [1, 3, 5, 7]), (8, 2, [3, 7]), (8, 1, [7])]
    + [(6, 4, [0, 2, 3, 5]), (3, 2, [0, 2])],
)
def test_depths_choose_evenly_spread_layers(layers, depth, expected):
    assert layers_of(layers, depth) == expected


@pytest.mark.parametrize("private", [[], ["memory", "pointwise1"]])
def test_any_sizes_and_depths_run(private):
    model = BiFSMN(
        n_mels=23,
        frames=37,
        classes=3,
        conv_channels=(4, 6),
        kernel=3,
        stride=3,
        channels=10,
        expansion=12,
        layers=5,
        left=3,
        right=0,
        dilation=2,
        depths=[5, 3, 1],
        private=private,
    )
    x = torch.randn(2, 37, 23)
    outputs = model(x, depth=model.depths)
    for depth, (logits, features) in outputs.items():
        assert logits.shape == (2, 3)
        assert len(features) == depth
    model.eval()
    assert torch.equal(model(x), model(x, depth=5))
    sum(o[0].sum() for o in outputs.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_wrong_depth_shape_and_settings_are_named(network):
    x = torch.randn(1, 32, 20)
    for none in (3, 2.0, True, "2"):
        for depth in (none, [4, none]):
            with pytest.raises(ValueError, match=f"no depth {none}.*4, 2, 1"):
                network(x, depth=depth)
    with pytest.raises(ValueError, match="no norm for depth 4.* 2, 1"):
        FSMNMemory(8, depths=[2, 1], private=True)(torch.randn(1, 4, 8), 4)
    for step in (0.0, float("inf"), float("nan")):
        with pytest.raises(
            ValueError, match=f"positive and finite, not {step}"
        ):
            BiFSMN(feature_step=step)
    with pytest.raises(ValueError, match=r"\[batch, 32, 20\], got \[1, 31"):
        network(x[:, 1:])
    with pytest.raises(ValueError, match="depths must decrease"):
        DFSMN(depths=[2, 4])
    with pytest.raises(ValueError, match="no norm called norm9"):
        DFSMN(private=["norm9"])
    with pytest.raises(ValueError, match="list of norms, not 'memory'"):
        DFSMN(private="memory")
    with pytest.raises(ValueError, match="conv_channels are two, not 16"):
        DFSMN(conv_channels=16)
    with pytest.raises(ValueError, match="no binarizer named ''"):
        BiFSMN(weight_quantizer="")
    feats = torch.randn(2, network.frames, network.n_mels)
    assert torch.equal(
        network(feats, depth=np.int64(2)), network(feats, depth=2)
    )


def test_student_starts_from_the_teacher():
    sizes = {"n_mels": 20, "classes": 4, "channels": 24, "expansion": 40}
    teacher = DFSMN(**sizes, layers=4)
    torch.nn.init.normal_(teacher.blocks[1].norm2["shared"].norm.bias)
    student = BiFSMN(**sizes, layers=4, depths=[4, 2], private=["pointwise2"])
    student.copy_weights(teacher)
    assert torch.equal(student.conv2.weight, teacher.conv2.weight)
    before = copy.deepcopy(student.state_dict())
    theirs = teacher.blocks[1].norm2["shared"].norm.bias
    for depth in ("4", "2"):
        assert torch.equal(student.blocks[1].norm2[depth].norm.bias, theirs)
    with pytest.raises(ValueError, match="conv1.weight does not match"):
        student.copy_weights(DFSMN(**sizes, layers=4, conv_channels=(8, 32)))
    narrow = BiFSMN(**sizes | {"expansion": 32}, layers=4, depths=[4])
    narrow.copy_weights(teacher)
    block, theirs = narrow.blocks[1], teacher.blocks[1]
    assert torch.equal(block.pointwise1.weight, theirs.pointwise1.weight[:32])
    assert torch.equal(
        block.pointwise2.weight, theirs.pointwise2.weight[:, :32]
    )
    with pytest.raises(ValueError, match="does not match"):
        wide = BiFSMN(**sizes | {"expansion": 48}, layers=4, depths=[4])
        wide.copy_weights(teacher)
    with pytest.raises(ValueError, match="it is a DSCNN, not a DFSMN"):
        student.copy_weights(DSCNN())
    for other in {"layers": 6}, {"layers": 4, "left": 4, "right": 0}:
        with pytest.raises(ValueError, match="left, right and dilation"):
            student.copy_weights(DFSMN(**sizes, **other))
    with pytest.raises(ValueError, match="does not match"):
        teacher.copy_weights(student)
    # Its slopes are one for each channel.
    other = BiFSMN(
        **sizes, layers=4, depths=[4], activation_quantizer="reactnet"
    )
    with pytest.raises(ValueError, match="slope does not match"):
        student.copy_weights(other)
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_thinner_depths_share_weights_but_not_private_norms():
    block = DFSMNBlock(8, 12, depths=[4, 2], private=["pointwise2"])
    names = {name for name, _ in block.named_parameters()}
    assert {"norm2.4.slope", "norm2.2.slope", "norm1.shared.slope"} <= names


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("private", [[], ["memory", "pointwise2"]])
def test_every_depth_is_trained_with_the_statistics_it_keeps(private, dtype):
    """Of shared norms too: one mean and variance serve several depths."""
    torch.manual_seed(0)
    model = DFSMN(channels=16, layers=4, depths=[4, 2, 1], private=private)
    model.to(dtype)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = 1.0
            torch.nn.init.normal_(module.bias)
    feats = torch.randn(64, 32, 32, dtype=dtype)
    # In whatever order they are asked for.
    trained = model(feats, depth=[1, 2, 4])
    model.eval()
    for depth, (logits, _) in trained.items():
        # All but the n / (n - 1) of the variance.
        kept = model(feats, depth=depth)
        assert torch.allclose(kept, logits, atol=0.05), depth


def test_no_step_is_normalised_by_the_statistics_of_an_earlier_one():
    """Layer 1 is run by depths 4 and 3, not by the deepest."""
    torch.manual_seed(0)
    model = DFSMN(channels=16, layers=8, depths=[5, 4, 3])
    assert [1 in model.layers_of(n) for n in model.depths] == [0, 1, 1]
    fresh = copy.deepcopy(model)
    model(torch.randn(16, 32, 32), depth=[5, 4])
    feats = torch.randn(16, 32, 32)
    (expected, _), (got, _) = (
        network(feats, depth=[5, 3])[3] for network in (fresh, model)
    )
    assert torch.equal(got, expected)


def test_frozen_norms_stay_frozen_at_every_depth():
    torch.manual_seed(0)
    model = DFSMN(channels=16, layers=4, depths=[4, 2], private=[])
    feats = torch.randn(16, 32, 32)
    model(feats, depth=[4, 2])
    expected = model.eval()(3 * feats, depth=[4, 2])
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    for depth, (logits, _) in model(3 * feats, depth=[4, 2]).items():
        assert torch.equal(logits, expected[depth][0]), depth


def test_layers_that_no_depth_runs_are_not_trained():
    model = DFSMN(channels=16, layers=3, depths=[2, 1])
    logits = model(torch.randn(4, 32, 32), depth=[2, 1])
    sum(o[0].square().sum() for o in logits.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    run = {*model.layers_of(2), *model.layers_of(1)}
    (left,) = set(range(3)) - run
    assert not any(p.requires_grad for p in model.blocks[left].parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"sample_rate": 8000, "f_max": 8000.0},
            "<= 4000.0 .*0.0 and 8000",
        ),
        ({"f_min": 4000.0, "f_max": 3000.0}, "f_min < f_max"),
        ({"f_min": -900.0}, "0 <= f_min"),
        ({"f_max": 0.0}, "f_min < f_max"),
        ({"floor": 0.0}, "must be positive, got 0.0 and 20"),
        ({"scale": 0.0}, "must be positive"),
        ({"scale": float("inf")}, "scale .* a finite number, not inf"),
        ({"offset": float("nan")}, "offset .* a finite number, not nan"),
        ({"n_mels": 0}, "n_mels is a whole number from 1 on"),
    ],
)
def test_impossible_front_ends_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        LogMel(**options)


def test_integers_are_no_waveforms():
    with pytest.raises(ValueError, match="torch.int16 .* divide"):
        LogMel()(torch.zeros(1, 16000, dtype=torch.int16))


def test_clips_without_samples_have_no_features():
    with pytest.raises(ValueError, match="without a sample"):
        LogMel()(torch.zeros(1, 0))
    assert LogMel()(torch.zeros(0, 16000)).shape == (0, 32, 32)


@pytest.mark.parametrize("depths", [8, [8, 4.0], [True], "8"])
def test_depths_are_whole_numbers(depths):
    with pytest.raises(ValueError, match="a list of whole numbers"):
        BiFSMN(depths=depths)


@pytest.mark.parametrize(
    ("options", "least"),
    [
        *(({name: 0}, 1) for name in ("n_mels", "frames", "classes")),
        *(({name: 0}, 1) for name in ("kernel", "stride", "dilation")),
        *(({name: 0}, 1) for name in ("channels", "expansion", "layers")),
        *(({name: 1.5}, 0) for name in ("left", "right")),
        ({"channels": -4}, 1),
        ({"conv_channels": [0, 4]}, 1),
    ],
)
def test_sizes_are_whole_numbers(options, least):
    ((name, value),) = options.items()
    words = f"{name}.* is a whole number from {least} on, not "
    with pytest.raises(ValueError, match=words):
        DFSMN(**options)


def test_dropout_is_on_what_a_layer_adds():
    block, x = DFSMNBlock(8, 12, dropout=1.0), torch.randn(4, 5, 8)
    assert torch.equal(block(x), block.memory(x))
    assert not torch.equal(block.eval()(x), block.memory(x))


@pytest.mark.parametrize("name", [None, "bnn"])
def test_layers_are_made_from_yaml(name):
    """By keywords, as a mapping gives them."""
    for kind, shape in (
        ("Linear {inputs: 6, outputs: 6", (2, 6)),
        ("Conv2d {inputs: 6, outputs: 6, kernel: 3, stride: 1", (2, 6, 5, 5)),
        ("Memory {channels: 6", (2, 5, 6)),
    ):
        layer = load_hyperpyyaml(
            f"layer: !new:speechbrain_bifsmn.layers.{kind}, "
            f"weight_quantizer: {name or 'null'}, "
            f"activation_quantizer: {name or 'null'}}}\n"
        )["layer"]
        assert (layer.weight_quantizer is None) == (name is None)
        assert layer(torch.randn(shape)).shape == shape


def test_log_mel_frames_do_not_change_when_the_window_moves():
    torch.manual_seed(0)
    log_mel = LogMel(n_fft=512, win_length=400, hop_length=160)
    stream = torch.randn(1, 16000) * 0.1
    late = log_mel(stream[:, 1600:])
    # Frames that look past the start of a window see zeros there.
    full = log_mel(stream)[:, -late.shape[1] :]
    assert torch.allclose(full[:, 2:], late[:, 2:], atol=1e-4)
    assert late.shape == (1, 90, 32)


def test_log_mel_is_torchaudio_without_centring():
    import torchaudio

    torch.manual_seed(0)
    log_mel = LogMel(f_min=20.0)
    wav = torch.randn(1, 16000) * 0.1
    power = torchaudio.transforms.MelSpectrogram(
        n_fft=2048, hop_length=512, n_mels=32, f_min=20.0, center=False
    )(torch.nn.functional.pad(wav, [1920, 0]))
    expected = (10 * power.clamp(min=1e-10).log10() + 40) / 20
    assert torch.allclose(log_mel(wav), expected.mT, atol=1e-3)


def test_gradients_reach_every_weight_through_all_signs():
    model = tiny_bifsmn().train()
    logits = model(torch.randn(8, 32, 20), depth=model.depths)
    sum(o[0].square().sum() for o in logits.values()).backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
    assert model.conv1.weight.grad.abs().sum() > 0


class OnCpu(torch.nn.SyncBatchNorm):
    """SyncBatchNorm runs on GPUs alone; this one does not synchronize."""

    forward = torch.nn.BatchNorm1d.forward


def statistics_of_a_process(rank, port, x, results):
    torch.distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    norm = PerDepth(3, [2, 1], private=False)
    norm["shared"].norm = OnCpu(3)
    norm(x[:2] if rank else x[2:], 2)
    results[rank] = torch.stack(norm.statistics)


def test_thin_depths_take_the_statistics_of_all_processes():
    """As the deepest does, whose norms SpeechBrain synchronizes."""
    x = torch.randn(5, 4, 3) + torch.randn(5, 1, 3)
    results = torch.zeros(2, 2, 3).share_memory_()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(
        statistics_of_a_process, (port, x, results), nprocs=2
    )
    var, mean = torch.var_mean(x, (0, 1), correction=0)
    for found in results:
        torch.testing.assert_close(found, torch.stack([mean, var]))
