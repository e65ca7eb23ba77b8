"""What is exported is what was trained, bit for bit on every engine."""

import numpy as np
import pytest
import torch

from speechbrain_bifsmn.export.check import NotOneBitError, check_one_bit
from speechbrain_bifsmn.export.file import (
    Model,
    ModelFileError,
    pack_bits,
)
from speechbrain_bifsmn.export.fold import (
    ExportError,
    fold,
    fold_bits,
    fold_integer,
)
from speechbrain_bifsmn.export.golden import golden_clips, write_golden
from speechbrain_bifsmn.export.reference import TorchEngine
from speechbrain_bifsmn.kernels.engine import NumbaEngine
from speechbrain_bifsmn.kernels.native import NativeEngine
from speechbrain_bifsmn.lobes.features import LogMel
from speechbrain_bifsmn.lobes.fsmn import DFSMN
from speechbrain_bifsmn.quantizers import WEIGHTS, WeightQuantizer
from tests.random_model import random_model
from tests.tiny import tiny_bifsmn

LABELS = ["low", "middle", "high", "_silence_"]
SHAPES = [
    {},
    {"channels": 70, "expansion": 130, "left": 3, "right": 0, "dilation": 2},
    {"conv_channels": (1, 1), "channels": 1, "expansion": 1},
    {"kernel": 3, "stride": 3, "n_mels": 7, "head_bits": 8},
    {"private": ["memory", "pointwise1", "pointwise2"], "depths": [3, 2]},
    {"weight_quantizer": "bnn", "private": []},
]


def folded(model, **options):
    log_mel = LogMel(n_mels=model.n_mels, n_fft=1024)
    return fold(model, log_mel, 16000, LABELS, **options)


def random_features(model, seed):
    rng = np.random.default_rng(seed)
    shape = model.config.frames, model.config.n_mels
    return rng.integers(-128, 128, shape).astype(np.int8)


def assert_same_stages(ours, theirs):
    assert ours.keys() == theirs.keys()
    for stage, array in ours.items():
        if stage == "scores":
            assert np.abs(array - theirs[stage]).max() < 1e-4
        else:
            assert array.dtype == theirs[stage].dtype, stage
            assert np.array_equal(array, theirs[stage]), stage


@pytest.mark.parametrize("shape", SHAPES)
def test_pytorch_numba_and_c_agree_on_every_bit(shape):
    data = folded(tiny_bifsmn(**shape)).to_bytes()
    engines = TorchEngine(data), NumbaEngine(data), NativeEngine(data)
    for depth in engines[0].model.depths:
        features = random_features(engines[0].model, depth)
        traces = [engine.trace(features, depth) for engine in engines]
        assert_same_stages(traces[0], traces[1])
        assert_same_stages(traces[0], traces[2])


@pytest.mark.parametrize("seed", range(3))
def test_random_files_run_alike_on_every_engine(seed):
    data = random_model(seed, private=seed, head_bits=8).to_bytes()
    engines = TorchEngine(data), NumbaEngine(data), NativeEngine(data)
    features = random_features(engines[0].model, seed)
    for depth in (8, 1):
        traces = [engine.trace(features, depth) for engine in engines]
        assert_same_stages(traces[0], traces[1])
        assert_same_stages(traces[0], traces[2])


@pytest.mark.parametrize("shape", SHAPES)
def test_folding_changes_nothing_but_rounding(shape):
    """The training graph in float64 against the file with fp32 constants."""
    model = tiny_bifsmn(**shape)
    file = folded(model, real=np.float32)
    engine = NumbaEngine(file.to_bytes())
    graph = model.double()
    worst = 0.0
    for depth in model.depths:
        features = random_features(file, depth)
        x = torch.from_numpy(features.astype(float)) * model.conv1.step
        with torch.no_grad():
            logits = graph(x[None], depth=depth)[0].numpy()
        scores = engine.scores(features, depth)
        worst = max(worst, np.abs(scores - logits).max())
    assert worst < 1e-4


@pytest.mark.parametrize("scale", [0.5, -0.5, 0.0])
@pytest.mark.parametrize("slope", [0.25, 0.0, -0.25, 2.0])
@pytest.mark.parametrize("bias", [0.0, 0.3, -0.3, 9.0, -9.0])
def test_threshold_and_direction_for_every_norm_and_slope(scale, slope, bias):
    inputs = 12
    norm_scale, norm_bias = torch.tensor([scale]), torch.tensor([bias])
    weight = torch.ones(1)
    t, direction = fold_bits(
        inputs, weight, norm_scale, norm_bias, slope, 0.0, "layer"
    )
    assert 0 <= t[0] <= inputs + 1
    for d in range(inputs + 1):
        z = scale * (inputs - 2 * d) + bias
        y = z if z >= 0 else z * slope
        assert ((d < t[0]) != direction[0]) == (y >= 0)

    t, direction = fold_integer(
        weight.double(), norm_scale.double(), norm_bias.double(), slope, 0.0
    )
    for total in range(-40, 41):
        z = scale * total + float(norm_bias.double())
        y = z if z >= 0 else z * slope
        assert ((total >= t[0]) != direction[0]) == (y >= 0)


def test_a_channel_that_needs_two_thresholds_is_refused():
    one = torch.ones(1)
    with pytest.raises(ExportError, match="conv2.*more than one threshold"):
        fold_bits(12, one, one, 0 * one, -1.0, 3.0, "conv2")


def test_the_check_proves_every_binary_layer(network):
    names = check_one_bit(network)
    assert names[:2] == ["conv2", "fc"] and len(names) == 2 + 3 * 4


class AsReleased(WeightQuantizer):
    """A scale for every weight: what kernel-axis means come to."""

    def forward(self, weight):
        return weight.sign() * weight.abs()


def test_the_check_refuses_by_name(network, monkeypatch):
    with pytest.raises(NotOneBitError, match="conv1 has real weights"):
        check_one_bit(DFSMN())
    network.blocks[2].pointwise1.activation_quantizer = None
    with pytest.raises(NotOneBitError, match="blocks.2.pointwise1 .*activa"):
        check_one_bit(network)
    monkeypatch.setitem(WEIGHTS, "as-released", AsReleased)
    with pytest.raises(NotOneBitError, match="conv2 is not 1-bit: channel 0"):
        check_one_bit(tiny_bifsmn(weight_quantizer="as-released"))


def test_the_check_finds_a_third_value_in_the_padding(network, monkeypatch):
    quantizer = network.blocks[1].memory.memory.activation_quantizer
    monkeypatch.setattr(quantizer, "padding", 0.0)
    with pytest.raises(NotOneBitError, match="blocks.1.memory.* 3 values"):
        check_one_bit(network)


def test_constants_that_do_not_fit_half_precision_are_named(network):
    torch.nn.init.constant_(network.norm_fc.norm.bias, 1e5)
    with pytest.raises(ExportError, match="fc: .*does not fit float16"):
        folded(network)


@pytest.mark.parametrize("head_bits", [4, 8])
@pytest.mark.parametrize("half", [True, False])
def test_the_file_holds_everything_exactly(head_bits, half):
    model = random_model(1, head_bits=head_bits, half=half, private=5)
    data = model.to_bytes()
    again = Model.from_bytes(data)
    assert again.to_bytes() == data
    assert (again.labels, again.depths) == (model.labels, model.depths)
    for tag, array in model.arrays.items():
        assert np.array_equal(again.arrays[tag], array), tag


def test_a_damaged_file_is_refused_in_words():
    data = random_model(0, layers=2, depths=(2,)).to_bytes()
    altered = bytearray(data)
    altered[len(data) // 2] ^= 1
    later = bytearray(data)
    later[8] = 2
    for bad, words in [
        (b"", "not a BiFSMN"),
        (b"RIFF" + data[4:], "not a BiFSMN"),
        (data[:-1], "truncated"),
        (data + b"\0", "truncated or padded"),
        (bytes(altered), "checksum"),
        (bytes(later), "format version 2"),
    ]:
        for engine in (NumbaEngine, NativeEngine):
            with pytest.raises(ModelFileError) as error:
                engine(bad)
            if engine is NumbaEngine:
                assert words in str(error.value)


def test_golden_vectors_can_be_read_back(tmp_path, network):
    engine = TorchEngine(folded(network).to_bytes())
    count = write_golden(tmp_path, engine)
    lines = (tmp_path / "golden.txt").read_text().splitlines()
    body = (tmp_path / "golden.bin").read_bytes()
    assert len(lines) == count
    chirp = golden_clips(16000)["chirp"]
    features = engine.features(chirp)
    trace = engine.trace(features, 2)
    expected = {
        "chirp 0 pcm -1 int16": chirp,
        "chirp 0 features -1 int8": features,
        "chirp 2 memory 1 float32": trace["memory.1"],
        "chirp 2 pointwise1 0 bits": pack_bits(trace["pointwise1.0"]),
        "chirp 2 scores -1 float32": trace["scores"],
    }
    for line in lines:
        head, offset, size = line.rsplit(" ", 2)
        if head in expected:
            raw = body[int(offset) : int(offset) + int(size)]
            assert raw == expected.pop(head).tobytes()
    assert not expected


def test_front_ends_agree_to_one_step(network):
    data = folded(network).to_bytes()
    rng = np.random.default_rng(0)
    log_mel = LogMel(n_mels=20, n_fft=1024)
    for level in (30, 3000):
        pcm = (rng.normal(0, level, 16000)).astype(np.int16)
        x = torch.from_numpy(pcm / 32768.0)[None]
        steps = torch.round(log_mel(x)[0] / network.conv1.step)
        steps = steps.clamp(-128, 127).numpy()
        for engine in (NumbaEngine(data), NativeEngine(data)):
            difference = np.abs(engine.features(pcm) - steps)
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.01
