"""Who is timed: our C library, and other runtimes on the fp32 network.

Another runtime is a function that takes a module and an input and gives a
``Prepared``: everything that can be done before the first clip is done, and
what is left is one call. All of them use one thread.
"""

import json
import logging
import os
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from arm.count import run

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Prepared:
    """A module that is ready to run.

    Arguments
    ---------
    run : callable
        One call.
    feed : callable
        Takes the next input, np.ndarray.
    output : callable
        What the last call computed, np.ndarray.
    """

    run: Callable
    feed: Callable
    output: Callable

    def __call__(self, x):
        """The output for an input; not for timing."""
        self.feed(x)
        self.run()
        return self.output().copy()

    def burst(self, calls):
        """Microseconds of CPU time that one of ``calls`` calls takes."""
        for _ in range(calls // 8 + 1):
            self.run()
        run, repeat = self.run, range(calls)
        start = time.process_time_ns()
        for _ in repeat:
            run()
        return (time.process_time_ns() - start) / calls / 1000


class CLibrary:
    """The C library in a process of its own, benchmarks/driver.c.

    Arguments
    ---------
    folder : Path
        For the program and its input.
    data : bytes
        Model file.
    pcm : np.ndarray of int16, [samples]
        Input of the front end.
    features : np.ndarray of int8, [clips, frames, n_mels]
        Inputs of the network; the first is timed.
    """

    def __init__(self, folder, data, pcm, features):
        program, model, inputs = (folder / n for n in ("driver", "model", "in"))
        model.write_bytes(data)
        inputs.write_bytes(pcm.tobytes() + features.tobytes())
        self.compiler = shlex.split(os.environ.get("CC", "cc"))
        self.flags = ["-O3", "-std=c99", "-ffp-contract=off"]
        sources = sorted((ROOT / "csrc/src").glob("*.c"))
        sources.append(ROOT / "benchmarks/driver.c")
        include = f"-I{ROOT / 'csrc/include'}"
        run(
            *(*self.compiler, *self.flags, include, *sources),
            *("-lm", "-o", program),
        )
        self._process = subprocess.Popen(
            [program, model, inputs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        hello = json.loads(self._process.stdout.readline())
        self.kernels, self.clock_us = hello["kernels"], hello["clock_us"]

    def ask(self, *words):
        """One line of the driver's protocol, see driver.c."""
        print(*words, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def torch_eager(module, x):
    """PyTorch, as it stands."""
    return _torch(module, x)


def torch_frozen(module, x):
    """PyTorch, traced and frozen."""
    return _torch(torch.jit.freeze(torch.jit.trace(module, x)), x)


def _torch(module, x):
    inputs, outputs = x.clone(), [None]

    def run():
        outputs[0] = module(inputs)

    def feed(values):
        inputs.copy_(torch.from_numpy(values))

    return Prepared(run, feed, lambda: outputs[0].numpy())


class OnnxRuntime:
    """ONNX Runtime, see ``speechbrain_bifsmn.export.onnx``.

    Arguments
    ---------
    folder : Path
        For the ONNX files.
    """

    def __init__(self, folder):
        import onnx
        import onnxruntime

        from speechbrain_bifsmn.export import onnx as ours

        self._folder, self._ours = folder, ours
        self.version = f"{onnxruntime.__version__}, onnx {onnx.__version__}"

    def fp32(self, module, x):
        """The module as it is."""
        return self._open(self._export(module, x))

    def int8(self, module, x):
        """Static QDQ quantization, calibrated on random features."""
        path, target = self._export(module, x), self._folder / "int8.onnx"
        generator = torch.Generator().manual_seed(1)
        clips = torch.randn(100, *x.shape, generator=generator)
        self._ours.quantize_onnx(path, clips.numpy(), target)
        return self._open(target)

    def _export(self, module, x):
        path = self._folder / "fp32.onnx"
        self._ours.export_onnx(module, x, path)
        return path

    def _open(self, path):
        network = self._ours.OnnxNetwork(path)
        return Prepared(network.run, network.feed, network.output)


class LiteRT:
    """LiteRT (once TFLite) with its XNNPACK delegate.

    Arguments
    ---------
    folder : Path
        For the .tflite files.
    """

    def __init__(self, folder):
        from importlib.metadata import version

        import litert_torch
        from ai_edge_litert.interpreter import Interpreter

        self._path = str(folder / "model.tflite")
        self._convert, self._interpreter = litert_torch.convert, Interpreter
        self.version = f"{version('ai-edge-litert')}, " + (
            f"litert-torch {version('litert-torch')}"
        )

    def fp32(self, module, x):
        """The module as it is."""
        self._convert(module, (x,)).export(self._path)
        model = self._interpreter(self._path, num_threads=1)
        model.allocate_tensors()
        # Private, but the only way to see that XNNPACK took the graph.
        operations = model._get_ops_details()
        if "DELEGATE" not in [o["op_name"] for o in operations]:
            raise RuntimeError("XNNPACK did not take the graph")
        source = model.get_input_details()[0]["index"]
        target = model.get_output_details()[0]["index"]
        model.set_tensor(source, x.numpy())
        return Prepared(
            model.invoke,
            lambda values: model.set_tensor(source, values),
            lambda: model.get_tensor(target),
        )


@contextmanager
def silence():
    """Without the chatter of exporters and converters, in C++ too."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {fd: os.dup(fd) for fd in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for fd in kept:
            os.dup2(nowhere, fd)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, copy in kept.items():
            os.dup2(copy, fd)
            os.close(copy)
        os.close(nowhere)
        logging.disable(level)
