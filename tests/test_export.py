"""What is exported is what was trained, bit for bit on every engine."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.interfaces import pretrained_from_hparams

from speechbrain_bifsmn.data.manifest import read_labels
from speechbrain_bifsmn.export import folder as export_module
from speechbrain_bifsmn.export import parity
from speechbrain_bifsmn.export.check import check_one_bit
from speechbrain_bifsmn.export.fold import (
    ExportError,
    fold,
    fold_bits,
    fold_integer,
)
from speechbrain_bifsmn.export.folder import export_folder
from speechbrain_bifsmn.export.golden import golden_clips, write_golden
from speechbrain_bifsmn.export.reference import TorchEngine
from speechbrain_bifsmn.hyperparameters import (
    HyperparameterError,
    network_yaml,
)
from speechbrain_bifsmn.inference import (
    KeywordSpotter,
    load_weights,
    save_trained,
)
from speechbrain_bifsmn.kernels.engine import NumbaEngine
from speechbrain_bifsmn.kernels.native import NativeEngine, kernel_names
from speechbrain_bifsmn.lobes.features import LogMel
from speechbrain_bifsmn.lobes.fsmn import DFSMN
from speechbrain_bifsmn.model_file import (
    Model,
    ModelFileError,
    pack_bits,
)
from speechbrain_bifsmn.onebit import NotOneBitError
from speechbrain_bifsmn.quantizers import ACTIVATIONS, Planes
from speechbrain_bifsmn.teachers import load_teacher
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
    # Every method, its learned numbers at random.
    *(
        {"weight_quantizer": name, "activation_quantizer": name}
        for name in ACTIVATIONS
        if name not in ("bifsmn", "as-released")
    ),
    {"activation_quantizer": "bifsmnv2", "depths": [4], "head_bits": 8},
    {"activation_quantizer": "dorefa", "private": ["memory", "pointwise1"]},
    {
        "activation_quantizer": "reactnet",
        "private": ["memory", "pointwise1", "pointwise2"],
        "n_mels": 7,
        "kernel": 3,
        "left": 1,
    },
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


@pytest.mark.parametrize("kernel", kernel_names()[:-1])
@pytest.mark.parametrize("method", ["bifsmn", "dorefa", "reactnet", "bifsmnv2"])
def test_every_kernel_serves_every_kind_of_method(method, kernel):
    """One for each way through the runtime; the best is tested above."""
    options = {"weight_quantizer": method, "activation_quantizer": method}
    data = folded(tiny_bifsmn(**options, channels=64)).to_bytes()
    engines = NativeEngine(data, kernel), NativeEngine(data, "scalar")
    features = random_features(Model.from_bytes(data), 1)
    for depth in engines[0].depths:
        assert_same_stages(*(e.trace(features, depth) for e in engines))


@pytest.mark.parametrize("seed", range(3))
def test_random_files_run_alike_on_every_engine(seed):
    data = random_model(seed, flags=seed, head_bits=8).to_bytes()
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


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_of_fewer_depths_says_the_same_in_fewer_bytes(shape):
    model = tiny_bifsmn(**shape)
    data = folded(model).to_bytes()
    whole = NativeEngine(data)
    features = random_features(Model.from_bytes(data), 0)
    some = {model.depths[:1], model.depths[1:], model.depths[-1:]}
    for depths in some - {()}:
        thinned = model.thinned(depths[::-1])
        check_one_bit(thinned)
        thin = folded(thinned).to_bytes()
        engine = NativeEngine(thin)
        assert tuple(engine.depths) == depths
        # Without private norms a deepest layer shares all that it has.
        assert len(thin) < len(data) or depths[0] == len(model.blocks)
        for depth in depths:
            assert_same_stages(
                *(e.trace(features, depth) for e in (whole, engine))
            )
    # The network itself is as it was.
    assert folded(model).to_bytes() == data


def test_all_depths_can_be_kept():
    for depths, layers in ([3, 2], 4), ([2], 2), ([4, 2], 4):
        thinned = tiny_bifsmn(depths=depths).thinned(depths)
        assert len(thinned.blocks) == layers
        assert folded(thinned).depths == tuple(depths)


def test_depths_that_cannot_be_kept_are_named():
    model = tiny_bifsmn(depths=[3, 2])
    assert folded(model.thinned([3])).depths == (3,)
    for depths, message in [
        ([4], r"\[4\] of a network that runs at depth 3, 2"),
        ([], "cannot keep depths"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.thinned(depths)
    model = tiny_bifsmn(depths=[3, 2, 1])
    with pytest.raises(ValueError, match="depth 2 beside 3 without"):
        model.thinned([3, 2])


@pytest.mark.parametrize("scale", [0.5, -0.5, 0.0])
@pytest.mark.parametrize("slope", [0.25, 0.0, -0.25, 2.0])
@pytest.mark.parametrize("bias", [0.0, 0.3, -0.3, 9.0, -9.0])
def test_threshold_and_direction_for_every_norm_and_slope(scale, slope, bias):
    inputs = 12
    norm_scale, norm_bias = torch.tensor([scale]), torch.tensor([bias])
    slopes, after = torch.tensor([slope]), Planes((torch.zeros(1),))
    (t,), direction = fold_bits(
        inputs, norm_scale, norm_bias, slopes, after, "layer"
    )
    assert 0 <= t[0] <= inputs + 1
    for d in range(inputs + 1):
        z = scale * (inputs - 2 * d) + bias
        y = z if z >= 0 else z * slope
        assert ((d < t[0]) != direction[0]) == (y >= 0)

    (t,), direction = fold_integer(
        torch.ones(1), norm_scale.double(), norm_bias.double(), slopes, after
    )
    for total in range(-40, 41):
        z = scale * total + float(norm_bias.double())
        y = z if z >= 0 else z * slope
        assert ((total >= t[0]) != direction[0]) == (y >= 0)


@pytest.mark.parametrize("seed", range(20))
def test_planes_fold_for_every_norm(seed):
    """Two planes, three thresholds for each channel, any scale and slope."""
    rng = np.random.default_rng(seed)
    inputs, channels = int(rng.integers(1, 60)), 30
    scale = rng.normal(size=channels) * rng.choice([0, 0.1, 1], channels)
    # Some thresholds are met exactly, or never, or always.
    bias = rng.choice([0.0, 0.5, -0.5, 1e6, -1e6, 0.3], channels)
    cuts = np.sort(rng.choice([-1, -0.5, 0, 0.5, 2], (3, channels)), axis=0)
    after = Planes(tuple(torch.from_numpy(cuts)), gains=(3, 2))
    slope = np.full(channels, rng.choice([0.25, 1, 2]))
    tensors = [torch.from_numpy(v) for v in (scale, bias, slope)]
    t, direction = fold_bits(inputs, *tensors, after, "layer")
    assert t.min() >= 0 and t.max() <= inputs + 1
    d = np.arange(inputs + 1)[:, None]
    sums = inputs - 2 * d
    z = scale * sums + bias
    expected = after.bits(torch.from_numpy(np.where(z >= 0, z, z * slope)))
    reached = [(d < row) ^ direction for row in t]
    middle, parity = reached[1], reached[0] ^ reached[1] ^ reached[2]
    assert np.array_equal(middle, expected[0])
    assert np.array_equal(parity, expected[1])
    # The first convolution, by analysis instead of trial.
    t, direction = fold_integer(torch.ones(channels), *tensors, after)
    reached = [(sums >= row) ^ direction for row in t]
    assert np.array_equal(reached[1], expected[0])
    assert np.array_equal(reached[0] ^ reached[1] ^ reached[2], expected[1])


def test_a_front_end_of_other_bands_is_refused(network):
    with pytest.raises(ExportError, match="19 mel bands, the network takes 20"):
        fold(network, LogMel(n_mels=19, n_fft=1024), 16000, LABELS)


def test_a_channel_that_needs_two_thresholds_is_refused():
    one = torch.ones(1)
    with pytest.raises(ExportError, match="conv2.*more thresholds"):
        fold_bits(12, one, 0 * one, -one, Planes((3 * one,)), "conv2")


def test_the_check_proves_every_binary_layer(network):
    names = check_one_bit(network)
    assert names[:2] == ["conv2", "fc"] and len(names) == 2 + 3 * 4


def test_the_check_allows_rounding_but_not_one_wrong_bit():
    """Sums of 1,600 floats, some far from the whole numbers that they mean."""
    network = tiny_bifsmn(
        n_mels=32,
        frames=32,
        conv_channels=(64, 64),
        weight_quantizer="bifsmnv2",
        activation_quantizer="bifsmnv2",
    )
    conv2 = network.conv2
    torch.nn.init.uniform_(conv2.weight, -0.7, 0.7)
    conv2.weight.data[:8].abs_()
    conv2.activation_quantizer.scale.fill_(2.6)
    network.norm1.norm.weight.data.fill_(3.0)
    network.norm1.norm.bias.data.zero_()
    assert "conv2" in check_one_bit(network)
    signs, scale = conv2.weight_quantizer.fold(conv2.weight)
    signs[5, 3, 2, 1] ^= True
    conv2.weight_quantizer.fold = lambda _: (signs, scale)
    with pytest.raises(NotOneBitError, match="conv2 .* its sums are not"):
        check_one_bit(network)


def test_the_check_refuses_by_name(network):
    with pytest.raises(NotOneBitError, match="conv1 has real weights"):
        check_one_bit(DFSMN())
    network.blocks[2].pointwise1.activation_quantizer = None
    with pytest.raises(NotOneBitError, match="blocks.2.pointwise1 .*activa"):
        check_one_bit(network)
    released = "blocks.0.pointwise1 is not 1-bit: channel 0"
    with pytest.raises(NotOneBitError, match=released):
        check_one_bit(tiny_bifsmn(weight_quantizer="as-released"))
    padding = "conv2 is not 1-bit: it is padded with 0"
    with pytest.raises(NotOneBitError, match=padding):
        check_one_bit(tiny_bifsmn(activation_quantizer="as-released"))


def test_constants_that_do_not_fit_half_precision_are_named(network):
    torch.nn.init.constant_(network.norm_fc.norm.bias, 1e5)
    with pytest.raises(ExportError, match="fc: .*does not fit float16"):
        folded(network)


@pytest.mark.parametrize("head_bits", [4, 8])
@pytest.mark.parametrize("half", [True, False])
def test_the_file_holds_everything_exactly(head_bits, half):
    model = random_model(1, head_bits=head_bits, half=half, flags=5)
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


YAML = Path(__file__).parents[1] / "hparams/bifsmn.yaml"
OVERRIDES = """
data_folder: none
classes: 4
n_mels: 20
n_fft: 1024
win_length: 800
conv_channels: [4, 6]
channels: 24
expansion: 32
layers: 2
depths: [2, 1]
"""


def write_manifest(path, clips, label=None):
    rows = [
        {"ID": i, "wav": clip, "start": 0, "stop": 16000}
        | {"label": label or clip.parent.name, "duration": 1.0}
        for i, clip in enumerate(clips)
    ]
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def trained(tmp_path, archive):
    """A trained folder, but for the training, and its test manifest."""
    clips = sorted(archive.glob("[a-z]*/*.wav"))[::12]
    manifest = write_manifest(tmp_path / "test.csv", clips)
    torch.manual_seed(0)
    model = load_hyperpyyaml(network_yaml(YAML, OVERRIDES))["model"]
    folder = tmp_path / "model"
    facts = {"test_manifest": str(manifest)}
    save_trained(folder, YAML, OVERRIDES, model, LABELS, facts)
    return folder


def test_a_folder_is_exported_with_every_clip_measured(trained, tmp_path):
    report = export_folder(trained, tmp_path / "out", parity_clips=5)
    # Four golden clips, and every second of the ten in the manifest.
    assert report["parity"]["clips"] == 4 + 5
    assert report["parity"]["stages"] == 9 * 2 * 3 + 9 * (2 + 1) * 3 + 9 * 2
    assert report["accuracy"].keys() == {"2", "1"}
    assert (tmp_path / "out/model.bifsmn").stat().st_size == report["bytes"]


@pytest.mark.parametrize(
    "owner, name, change, message",
    [
        (DFSMN, "stem", lambda x: x - x.mean(), "the network, a BiFSMN"),
        (LogMel, "forward", lambda x: x - x.roll(1, -1), "log_mel, a LogMel"),
    ],
)
def test_what_a_file_cannot_compute_is_not_exported(
    owner, name, change, message, trained, tmp_path, monkeypatch
):
    """As a subclass in somebody's YAML may override it."""
    own = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda self, x: own(self, change(x)))
    with pytest.raises(ExportError, match=message):
        export_folder(trained, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_wrong_depth_is_enough(trained, tmp_path, monkeypatch):
    own = DFSMN.forward

    def wrong(self, x, depth=None):
        y = own(self, x, depth)
        return -y if depth == self.depths[-1] else y

    monkeypatch.setattr(DFSMN, "forward", wrong)
    with pytest.raises(ExportError, match="something else at depth 1 than"):
        export_folder(trained, tmp_path / "out")


def test_labels_that_do_not_fit_are_named_before_anything_is_written(
    trained, tmp_path, archive
):
    out, labels = tmp_path / "out", trained / "labels.txt"
    for text, message in [
        ("lwo\nmiddle\nhigh\n_silence_\n", "label 'low', the network only lwo"),
        ("low\nlow\nhigh\n_silence_\n", "label 'low', number 2"),
        ("low\n\nhigh\n_silence_\n", "label '', number 2"),
        ("low\nhigh\n", "2 labels, the network 4 outputs"),
    ]:
        labels.write_text(text)
        with pytest.raises(ValueError, match=message):
            export_folder(trained, out)
    labels.write_text("\n".join(LABELS))
    clips = sorted(archive.glob("low/*.wav"))[:2]
    other = write_manifest(tmp_path / "other.csv", clips, "cat")
    with pytest.raises(ExportError, match="other.csv has the label 'cat'"):
        export_folder(trained, out, other)
    other.write_text("ID,wav\n1,2\n")
    with pytest.raises(ValueError, match="no column start, stop, label"):
        export_folder(trained, out, other)
    assert not out.exists()


def test_engines_that_disagree_are_refused_by_stage():
    class Engine:
        model = SimpleNamespace(depths=(2,))

        def __init__(self, bit, score):
            scores = np.float32([score])
            self.stages = {"conv2": np.array([bit]), "scores": scores}

        def trace(self, features, depth):
            return self.stages

    for bit, score, stage in (False, 3, "conv2"), (True, 3.01, "scores"):
        with pytest.raises(ExportError, match=f"depth 2, stage {stage}"):
            parity.compare_engines(Engine(True, 3), Engine(bit, score), [None])


def test_accuracies_of_graph_and_file_are_told_apart(monkeypatch):
    monkeypatch.setattr(parity, "read_clip", lambda *_: torch.zeros(4))
    config = SimpleNamespace(samples=4, sample_rate=1)
    model = SimpleNamespace(labels=["a", "b"], depths=(2,), config=config)
    graph = {2: (torch.eye(2)[[0, 0, 1, 1]], [])}
    mods = SimpleNamespace(log_mel=lambda w: w, model=lambda f, depth: graph)
    engine = SimpleNamespace(scores=lambda f, depth: np.eye(2)[f])
    rows = [{"label": label} for label in "abbb"]
    found = parity.compare_accuracy(
        SimpleNamespace(mods=mods), engine, model, rows, [1, 0, 1, 1]
    )
    assert found["2"] == {"graph": 75, "file": 50, "agreement": 75}


def test_a_failing_measurement_leaves_nothing(trained, tmp_path, monkeypatch):
    def fail(*_):
        raise ExportError("no")

    monkeypatch.setattr(export_module, "compare_accuracy", fail)
    with pytest.raises(ExportError):
        export_folder(trained, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_a_manifest_that_was_asked_for_must_be_there(
    trained, tmp_path, caplog
):
    out, none = tmp_path / "out", tmp_path / "none.csv"
    with pytest.raises(FileNotFoundError, match="no manifest .*none.csv"):
        export_folder(trained, out, none)
    manifest = tmp_path / "test.csv"
    write_manifest(manifest, [tmp_path / "gone.wav"], "low")
    with pytest.raises(ValueError, match="gone.wav"):
        export_folder(trained, out, manifest)
    assert not out.exists()
    report = export_folder(trained, out)
    assert "accuracy" not in report and "gone.wav" in caplog.text
    manifest.unlink()
    assert "accuracy" not in export_folder(trained, out)


class Malice:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def one_line_about(name, call, *args):
    with pytest.raises(ValueError, match=name) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "damaged"),
        ("empty", "damaged"),
        ("text", "damaged"),
        ("pickled code", "holds more than weights"),
        ("list", "holds no weights"),
        ("smaller network", "another network"),
        ("network with other layers", "another network"),
    ],
)
def test_weights_that_cannot_be_used_are_one_line(
    damage, message, trained, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = trained / "model.ckpt"
    network = KeywordSpotter.from_hparams(trained).hparams.model
    state, data = network.state_dict(), path.read_bytes()
    if damage in ("cut", "empty", "text"):
        size = {"cut": len(data) // 2, "empty": 0, "text": 0}[damage]
        path.write_bytes(data[:size] + b"no weights" * (damage == "text"))
    else:
        other = {
            "pickled code": {"weight": Malice()},
            "list": [1, 2],
            "smaller network": {k: v[:1] for k, v in state.items() if v.dim()},
            "network with other layers": dict(list(state.items())[1:]),
        }
        torch.save(other[damage], path)
    for call, *args in [
        (load_weights, path, network),
        (load_teacher, network, path),
        (KeywordSpotter.from_hparams, trained),
    ]:
        assert message in one_line_about("model.ckpt", call, *args)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("channels:", "chanels:", "chanels"),
        ("modules:", "moduls:", "no key 'modules'"),
        ("sample_rate: 16000", "sample_rate: [", ""),
        ("lobes.bifsmn.BiFSMN", "lobes.bifsmn.NoSuch", "NoSuch"),
        ("samples: 16000", "", "samples"),
    ],
)
def test_a_damaged_yaml_is_one_line(right, wrong, message, trained):
    path = trained / "hyperparams.yaml"
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    spoken = one_line_about(
        "hyperparams.yaml", KeywordSpotter.from_hparams, trained
    )
    assert message in spoken


def test_a_yaml_without_a_front_end_makes_no_folder(tmp_path):
    own = tmp_path / "own.yaml"
    text = YAML.read_text().replace("sample_rate: 16000\n", "rate: 16000\n")
    own.write_text(text.replace("<sample_rate>", "<rate>"))
    folder = tmp_path / "model"
    with pytest.raises(HyperparameterError, match="key 'sample_rate' is miss"):
        save_trained(folder, own, OVERRIDES, tiny_bifsmn(), LABELS, {})
    assert not list(folder.glob("*"))


def test_a_value_that_nobody_gave_is_asked_for(tmp_path):
    with pytest.raises(HyperparameterError, match="data_folder.*overrides"):
        save_trained(tmp_path / "out", YAML, "", tiny_bifsmn(), LABELS, {})
    assert not list((tmp_path / "out").glob("*"))


def test_a_full_disk_leaves_the_folder_as_it_was(trained, monkeypatch):
    def save(state, file):
        file.write(b"half")
        raise OSError("No space left on device")

    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space"):
        save_trained(trained, YAML, OVERRIDES, tiny_bifsmn(), ["a"], {})
    assert before == {
        path.name: path.read_bytes() for path in trained.iterdir()
    }


@pytest.mark.parametrize("name", ["labels.txt", "training.json", "model.ckpt"])
def test_an_interruption_leaves_the_folder_as_it_was(
    name, trained, monkeypatch
):
    replace = os.replace

    def interrupted(source, target):
        if str(source).endswith(".part") and Path(target).name == name:
            raise KeyboardInterrupt
        replace(source, target)

    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_trained(trained, YAML, OVERRIDES, tiny_bifsmn(), ["a"], {})
    assert before == {
        path.name: path.read_bytes() for path in trained.iterdir()
    }


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: b"extra\n" + text, "5 labels, the network 4 outputs"),
        (lambda text: text + b"\xff\n", "no text in UTF-8"),
    ],
)
def test_labels_that_are_not_the_network_s(change, message, trained):
    path = trained / "labels.txt"
    path.write_bytes(change(path.read_bytes()))
    spoken = one_line_about("labels.txt", KeywordSpotter.from_hparams, trained)
    assert message in spoken


def test_speechbrain_s_own_loader_has_no_labels(trained):
    spotter = pretrained_from_hparams(KeywordSpotter, str(trained))
    with pytest.raises(ValueError, match="KeywordSpotter.from_hparams, or set"):
        spotter.classify_file("yes.wav")


def test_labels_may_have_spaces_and_accents(trained, tmp_path):
    labels = ["turn on", "arrête", "高い", "_silence_"]
    text = "\n".join(labels) + "\n"
    (trained / "labels.txt").write_text(text, encoding="utf-8")
    assert read_labels(trained / "labels.txt") == labels
    assert KeywordSpotter.from_hparams(trained).labels == labels
    facts = json.loads((trained / "training.json").read_text())
    Path(facts["test_manifest"]).unlink()
    export_folder(trained, tmp_path / "out")
    data = (tmp_path / "out/model.bifsmn").read_bytes()
    assert NumbaEngine(data).model.labels == labels
    assert NativeEngine(data).labels == labels


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c", "d\0"]])
def test_labels_that_no_reader_accepts_are_not_written(labels, network):
    model = folded(network)
    model.labels = labels
    with pytest.raises(ModelFileError, match="label"):
        model.to_bytes()
