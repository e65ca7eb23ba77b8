"""The networks that ours is compared with, from YAML to ONNX Runtime."""

import importlib
import json
import sys

import numpy as np
import pytest
import torch

from speechbrain_bifsmn.data.manifest import read_manifest
from speechbrain_bifsmn.export.onnx import (
    OnnxNetwork,
    evaluate_onnx,
    export_onnx,
    quantize_onnx,
)
from speechbrain_bifsmn.inference import KeywordSpotter
from speechbrain_bifsmn.lobes.bcresnet import (
    BCResBlock,
    BCResNet,
    SubSpectralNorm,
)
from speechbrain_bifsmn.lobes.dscnn import DSCNN, dct
from tests.recipe import REPO, load_train
from tests.tiny import tiny_bifsmn


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("tau", "thousands"), [(1, 9.2), (2, 27.3), (3, 54.2), (8, 321)]
)
def test_bcresnet_has_the_parameters_of_the_paper(tau, thousands):
    assert parameters(BCResNet(tau=tau)) == pytest.approx(
        1000 * thousands, rel=0.01
    )


def test_dscnn_has_the_memory_of_the_paper():
    """38.6 KB: weights with folded norms, and two activations, in int8."""
    model, sizes = DSCNN(), []
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_hook(lambda *a: sizes.append(a[-1].numel()))
    model(torch.randn(1, 50, 40))
    # A folded norm is a bias.
    weights = parameters(model) - sum(norm.num_features for norm in norms)
    assert weights + 2 * max(sizes) == pytest.approx(38600, rel=0.001)


@pytest.mark.parametrize("model", [BCResNet(), DSCNN()])
def test_they_are_called_as_dfsmn_is(model):
    model.eval()
    x = torch.randn(2, model.frames, model.n_mels)
    (depth,) = model.depths
    logits, features = model(x, torch.ones(2), depth=model.depths)[depth]
    assert logits.shape == (2, 12) and features == []
    assert torch.equal(model(x), logits)
    assert torch.equal(model(x, depth=depth), logits)
    wrong = rf"\[batch, {model.frames}, 40\], got \[2, 40"
    with pytest.raises(ValueError, match=wrong):
        model(x.transpose(1, 2))
    with pytest.raises(ValueError, match=f"no depth 3.*depth {depth}"):
        model(x, depth=3)


def test_impossible_sizes_are_named():
    with pytest.raises(ValueError, match="multiple of 40, not 60"):
        BCResNet(n_mels=60)
    with pytest.raises(ValueError, match="8 mel bands have no 10"):
        DSCNN(n_mels=8)
    for name in ("frames", "coefficients"):
        with pytest.raises(ValueError, match=f"{name} is .* from 2 on, not 1"):
            DSCNN(**{name: 1})
    for network, name in (BCResNet, "classes"), (DSCNN, "channels"):
        with pytest.raises(ValueError, match=f"{name} is .* from 1 on, not 0"):
            network(**{name: 0})
    with pytest.raises(ValueError, match="tau is a number from 0.125 on"):
        BCResNet(tau=0)
    # Stages alike in channels, of which one halves the mel bands.
    assert BCResNet(tau=0.125)(torch.randn(2, 100, 40)).shape == (2, 12)


def test_each_sub_band_is_normalised_by_itself():
    level = torch.arange(10.0).view(1, 1, 10, 1) // 2
    x = torch.randn(64, 3, 10, 50) * (1 + level) + 100 * level
    y = SubSpectralNorm(3)(x).unflatten(2, (5, 2))
    mean, std = y.mean((0, 3, 4)), y.std((0, 3, 4))
    assert torch.allclose(mean, torch.zeros(3, 5), atol=1e-4)
    assert torch.allclose(std, torch.ones(3, 5), atol=1e-3)


def test_a_block_looks_along_mel_and_broadcasts_over_time():
    """What one value of the input reaches, frame by frame and band by band."""
    torch.manual_seed(0)
    block = BCResBlock(6, 6, dilation=4).eval()
    x = torch.rand(1, 6, 20, 30)
    touched = x.clone()
    touched[:, :, 10, 15] += 1
    reached = (block(touched) != block(x)).any(1)[0]
    # f2 and the residual: the neighbouring bands, in the frame itself only.
    # f1: the mean's frame and its dilated neighbours, in every band.
    frames = reached.any(0).nonzero().flatten().tolist()
    assert frames == [11, 15, 19]
    assert reached[:, [11, 15, 19]].all()
    near = block.frequency(touched) != block.frequency(x)
    assert near.any(1)[0].nonzero().tolist() == [[9, 15], [10, 15], [11, 15]]


def test_the_transition_block_has_no_residual():
    block = BCResBlock(4, 6).eval()
    assert parameters(block) - parameters(BCResBlock(6, 6)) == 4 * 6 + 2 * 6
    torch.nn.init.zeros_(block.frequency[0].weight)
    x = torch.rand(1, 4, 20, 30)
    assert torch.equal(block(x), block(torch.zeros_like(x)))


def test_mfcc_are_those_of_torchaudio():
    import torchaudio

    expected = torchaudio.functional.create_dct(10, 40, norm="ortho").T
    assert torch.allclose(dct(10, 40), expected, atol=1e-6)


@pytest.fixture(scope="module", params=["bcresnet", "dscnn"])
def trained(request, archive, tmp_path_factory):
    """Results of a short training, and the network's output folder in them."""
    results = tmp_path_factory.mktemp(request.param)
    load_train().main(
        [
            str(REPO / f"hparams/{request.param}.yaml"),
            f"--data_folder={archive}",
            f"--results_folder={results}",
            "--protocol=words",
            "--words=[low, middle, high, _silence_]",
            "--classes=4",
            "--batch_size=16",
            "--feature_copies=1",
            "--number_of_epochs=2",
            "--noprogressbar",
        ]
    )
    return results / "words", results / "words" / request.param / "1"


def test_onnx_runtime_computes_what_was_trained(trained, tmp_path):
    prepared, output = trained
    found = evaluate_onnx(output, prepared, tmp_path)
    report = json.loads((output / "results.json").read_text())
    (row,) = report["depths"].values()
    assert found["fp32"]["results"]["accuracy"] == row["accuracy"]
    spotter = KeywordSpotter.from_hparams(output)
    model, size = spotter.hparams.model, spotter.hparams.log_mel.n_mels
    x = torch.randn(20, model.frames, size)
    with torch.no_grad():
        expected = model(x).numpy()
    logits = OnnxNetwork(tmp_path / "fp32.onnx").logits(x.numpy())
    assert np.allclose(logits, expected, atol=1e-4)

    fp32, int8 = found["fp32"], found["int8"]
    same = np.equal(fp32["predictions"], int8["predictions"])
    assert len(same) == len(read_manifest(prepared / "test.csv"))
    assert same.mean() >= 0.8
    for kind, width in (("fp32", 4), ("int8", 1)):
        assert (tmp_path / f"{kind}.onnx").stat().st_size == (
            found[kind]["bytes"]
        )
        assert found[kind]["weight_bytes"] > 0.9 * width * parameters(model)
    # Sub-spectral norms stay fp32.
    assert int8["weight_bytes"] < 0.75 * fp32["weight_bytes"]


def test_int8_sums_do_not_saturate(tmp_path):
    """The largest weights on the largest inputs, on any processor."""
    sizes = {"stride": 2, "padding": 1, "bias": False}
    model = torch.nn.Conv2d(8, 16, 3, **sizes).requires_grad_(False)
    model.weight.fill_(1.0)
    x = torch.ones(1, 8, 12, 12)
    export_onnx(model.eval(), x, tmp_path / "fp32.onnx")
    with pytest.raises(ValueError, match="no 1-bit layers"):
        export_onnx(tiny_bifsmn(), x, tmp_path / "binary.onnx")
    quantize_onnx(tmp_path / "fp32.onnx", x.numpy(), tmp_path / "int8.onnx")
    y = OnnxNetwork(tmp_path / "int8.onnx").logits(x.numpy())
    assert np.allclose(y, model(x).numpy(), rtol=0.02)


def test_labels_of_another_protocol_are_refused(trained, tmp_path):
    _, output = trained
    (tmp_path / "labels.txt").write_text("yes\nno\n")
    with pytest.raises(ValueError, match="asks for yes, no"):
        evaluate_onnx(output, tmp_path, tmp_path)


def test_without_onnx_runtime_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "speechbrain_bifsmn.export.onnx")
    with pytest.raises(ImportError, match=r"speechbrain_bifsmn\[onnx\]"):
        importlib.import_module("speechbrain_bifsmn.export.onnx")
