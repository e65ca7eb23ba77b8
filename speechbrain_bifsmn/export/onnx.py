"""Full-precision networks in ONNX Runtime, to compare 1-bit ones with.

fp32 as trained, or int8 by static quantization; on one thread, clip by clip,
as a device would. Needs the extra ``onnx``.
"""

import tempfile
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from speechbrain_bifsmn.data.features import read_clip
from speechbrain_bifsmn.data.manifest import (
    check_same_labels,
    read_labels,
    read_manifest,
)
from speechbrain_bifsmn.files import whole_file
from speechbrain_bifsmn.inference import KeywordSpotter
from speechbrain_bifsmn.metrics import summarize
from speechbrain_bifsmn.quantizers import quantizers_of

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  (torch.onnx needs it)
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
except ImportError as error:
    raise ImportError(
        f"{error.name} is missing: pip install 'speechbrain_bifsmn[onnx]'"
    ) from error


def evaluate_onnx(trained, prepared, folder, clips=500):
    """Bytes and accuracy of a trained network, fp32 and int8.

    Arguments
    ---------
    trained : str or Path
        Trained folder.
    prepared : str or Path
        Folder with ``train.csv``, which int8 is calibrated on, ``test.csv``
        and ``labels.txt``.
    folder : str or Path
        Where to write ``fp32.onnx`` and ``int8.onnx``.
    clips : int
        Training clips to calibrate with, spread over all.

    Returns
    -------
    dict of str to dict
        For "fp32" and "int8" ``bytes`` of the file, ``weight_bytes``, what
        its constants alone take, ``predictions``, a class index for each
        test clip, and ``results``, what ``metrics.summarize`` gives.

    Raises
    ------
    ValueError
        If the protocol's labels are not the network's.
    """
    spotter = KeywordSpotter.from_hparams(trained)
    prepared, folder = Path(prepared), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    labels = read_labels(prepared / "labels.txt")
    check_same_labels(trained, spotter.labels, labels)
    rows = read_manifest(prepared / "train.csv")
    calibration = _features(spotter, rows[:: -(-len(rows) // clips)])
    rows = read_manifest(prepared / "test.csv")
    features = _features(spotter, rows)
    truth = [labels.index(row["label"]) for row in rows]
    fp32, int8 = folder / "fp32.onnx", folder / "int8.onnx"
    export_onnx(spotter.hparams.model, torch.as_tensor(features[:1]), fp32)
    quantize_onnx(fp32, calibration, int8)
    found = {}
    for path in (fp32, int8):
        network = OnnxNetwork(path)
        predictions = network.logits(features).argmax(1).tolist()
        found[path.stem] = {
            "bytes": path.stat().st_size,
            "weight_bytes": sum(
                onnx.numpy_helper.to_array(constant).nbytes
                for constant in onnx.load(path).graph.initializer
            ),
            "predictions": predictions,
            "results": summarize(labels, truth, predictions),
        }
    return found


def export_onnx(model, example, path):
    """Write a network, at its deepest, as an fp32 ONNX file.

    Arguments
    ---------
    model : nn.Module
        One input and one output, in eval mode.
    example : torch.Tensor, [1, frames, n_mels]
        An input; every later one has its shape.
    path : str or Path
        File to write.

    Raises
    ------
    ValueError
        If the network is binary.
    """
    if quantizers_of(model):
        raise ValueError(
            "ONNX has no 1-bit layers: `bifsmn export` writes a binary network"
        )
    program = torch.onnx.export(model, (example,), dynamo=True, verbose=False)
    _save(program.model_proto, path)


def quantize_onnx(path, calibration, out):
    """Quantize a file to int8: static, QDQ, weights by output channel.

    Weights have 7 bits: x86 processors without VNNI add two products in 16
    bits, which 8 would overflow, without a word.

    Arguments
    ---------
    path : str or Path
        What ``export_onnx`` wrote.
    calibration : iterable of np.ndarray, [frames, n_mels]
        Inputs that the ranges of activations are taken from.
    out : str or Path
        File to write.
    """
    network = OnnxNetwork(path)
    inputs = ({network.name: network.shaped(clip)} for clip in calibration)
    reader = type("Reader", (), {"get_next": lambda _: next(inputs, None)})()
    with tempfile.TemporaryDirectory() as folder:
        folded, quantized = Path(folder) / "folded", Path(folder) / "int8"
        # Folds batch norms before their weights are rounded; those that
        # follow no convolution stay, and stay fp32.
        quant_pre_process(path, folded)
        norms = [
            node.name
            for node in onnx.load(folded).graph.node
            if node.op_type == "BatchNormalization"
        ]
        quantize_static(
            folded,
            quantized,
            reader,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=norms,
        )
        _save(onnx.load(quantized), out)


class OnnxNetwork:
    """An ONNX file on one thread, its input and output bound once.

    Arguments
    ---------
    path : str or Path
        What ``export_onnx`` or ``quantize_onnx`` wrote.
    """

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        (source,), (target,) = session.get_inputs(), session.get_outputs()
        self.name = source.name
        self._shape = source.shape
        value = onnxruntime.OrtValue
        self._input = value.ortvalue_from_shape_and_type(
            source.shape, np.float32
        )
        self._output = value.ortvalue_from_shape_and_type(
            target.shape, np.float32
        )
        binding = session.io_binding()
        binding.bind_ortvalue_input(source.name, self._input)
        binding.bind_ortvalue_output(target.name, self._output)
        self.run = partial(session.run_with_iobinding, binding)

    def shaped(self, clip):
        """One input as the file wants it."""
        return np.asarray(clip, np.float32).reshape(self._shape)

    def feed(self, clip):
        """Take the next input."""
        self._input.update_inplace(self.shaped(clip))

    def output(self):
        """What the last run computed."""
        return self._output.numpy()

    def logits(self, features):
        """Run clip after clip.

        Arguments
        ---------
        features : np.ndarray, [clips, frames, n_mels]
            Inputs.

        Returns
        -------
        np.ndarray, [clips, classes]
        """
        found = []
        for clip in features:
            self.feed(clip)
            self.run()
            found.append(self.output().copy())
        return np.concatenate(found)


def _save(model, path):
    """Write without the exporter's notes, which outweigh a small network."""
    graph = model.graph
    noted = graph.node, graph.input, graph.output, graph.initializer
    for item in (model, graph, *chain.from_iterable(noted)):
        item.ClearField("metadata_props")
    graph.ClearField("value_info")
    with whole_file(path) as part:
        onnx.save(model, part)


@torch.no_grad()
def _features(spotter, rows):
    """[clips, frames, n_mels] of manifest rows."""
    hparams = spotter.hparams
    found = []
    for row in rows:
        clip = read_clip(row, hparams.samples, hparams.sample_rate)
        found.append(hparams.log_mel(clip[None]).numpy())
    return np.concatenate(found)
