"""The C runtime (csrc/) from Python, by ctypes.

The compiled extension ``_native`` carries the functions of
csrc/include/bifsmn.h; this module calls them and checks what goes in.
"""

import ctypes
import os
import threading

import numpy as np

from speechbrain_bifsmn.model_file import ModelFileError, unpack_bits

try:
    from speechbrain_bifsmn.kernels import _native
except ImportError:
    _native = None

MISSING = (
    "the compiled core of speechbrain_bifsmn is missing, and numba is used "
    "instead; to get it, install a C compiler and then reinstall "
    "speechbrain_bifsmn"
)

# Codes of enum bifsmn_error that do not concern the file.
ERROR_SAMPLES, ERROR_DEPTH = 14, 15

TRACE = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_size_t,
)


class Info(ctypes.Structure):
    """``struct bifsmn_info``, field by field."""

    _fields_ = [
        ("sample_rate", ctypes.c_int),
        ("samples", ctypes.c_int),
        ("hop_length", ctypes.c_int),
        ("stride", ctypes.c_int),
        ("frames", ctypes.c_int),
        ("mels", ctypes.c_int),
        ("frames1", ctypes.c_int),
        ("mels1", ctypes.c_int),
        ("frames2", ctypes.c_int),
        ("mels2", ctypes.c_int),
        ("conv1_channels", ctypes.c_int),
        ("conv2_channels", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("expansion", ctypes.c_int),
        ("layers", ctypes.c_int),
        ("classes", ctypes.c_int),
        ("depths", ctypes.c_int),
        ("depth", ctypes.POINTER(ctypes.c_int)),
        ("kernels", ctypes.c_char_p),
    ]


def available():
    """Whether the compiled core was built."""
    return _native is not None


def _load():
    """The C functions, with their types."""
    if not available():
        raise ImportError(MISSING)
    lib = ctypes.CDLL(_native.__file__)
    pointer, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for name, result, *arguments in (
        ("message", ctypes.c_char_p, integer),
        ("workspace_size", integer, pointer, size, ctypes.POINTER(size)),
        (
            *("open", integer, pointer, size, pointer, size),
            ctypes.POINTER(pointer),
        ),
        ("kernel_name", ctypes.c_char_p, integer),
        ("use_kernels", integer, pointer, ctypes.c_char_p),
        ("info", integer, pointer, ctypes.POINTER(Info)),
        ("label", ctypes.c_char_p, pointer, integer),
        ("features", integer, pointer, pointer, size, pointer),
        (
            *("features_next", integer, pointer, pointer, size, size),
            pointer,
        ),
        (
            *("run_features_next", integer, pointer, pointer, size, integer),
            pointer,
        ),
        ("run", integer, pointer, pointer, size, integer, pointer),
        ("set_trace", integer, pointer, TRACE, pointer),
    ):
        function = getattr(lib, f"bifsmn_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


def kernel_names():
    """Kernels that this machine can run, best first.

    Returns
    -------
    list of str
    """
    lib, names = _load(), []
    while name := lib.bifsmn_kernel_name(len(names)):
        names.append(name.decode())
    return names


def unknown_kernels(name):
    """What to say of kernels that cannot run here."""
    return (
        f"no kernels of the name {name} (BIFSMN_KERNEL) run here: there are "
        + ", ".join(kernel_names())
    )


class NativeEngine:
    """One model in the C runtime.

    Threads that share one take turns; engines of their own may share ``data``.

    Arguments
    ---------
    data : bytes
        A whole model file.
    kernel : str, optional
        One of ``kernel_names()``; else that of the environment variable
        BIFSMN_KERNEL, else the best. All compute the same.

    Raises
    ------
    ModelFileError
        If the file is not a valid one.
    ValueError
        If this machine has no such kernels.
    ImportError
        If the compiled core was not built.
    """

    def __init__(self, data, kernel=None):
        self._lib = _load()
        self._data = bytes(data)
        size = ctypes.c_size_t()
        self._check(
            self._lib.bifsmn_workspace_size(
                self._data, len(self._data), ctypes.byref(size)
            )
        )
        self.workspace_bytes = size.value
        self._workspace = np.empty(size.value, np.uint8)
        # ctypes lets other threads run meanwhile, and there is one workspace.
        self._lock = threading.RLock()
        self._net = ctypes.c_void_p()
        self._check(
            self._lib.bifsmn_open(
                self._data,
                len(self._data),
                self._workspace.ctypes.data,
                size.value,
                ctypes.byref(self._net),
            )
        )
        kernel = kernel or os.environ.get("BIFSMN_KERNEL")
        if kernel and self._lib.bifsmn_use_kernels(self._net, kernel.encode()):
            raise ValueError(unknown_kernels(kernel))
        self.info = Info()
        self._check(self._lib.bifsmn_info(self._net, ctypes.byref(self.info)))
        self.kernels = self.info.kernels.decode()
        self.depths = tuple(self.info.depth[: self.info.depths])
        names = range(self.info.classes)
        names = [self._lib.bifsmn_label(self._net, i) for i in names]
        try:
            self.labels = [name.decode() for name in names]
        except UnicodeDecodeError:
            raise ModelFileError("section LABL is not UTF-8 text") from None

    def features(self, pcm):
        """Front end.

        Arguments
        ---------
        pcm : np.ndarray of int16, [samples]
            One decision.

        Returns
        -------
        np.ndarray of int8, [frames, mels]

        Raises
        ------
        ValueError
            If these are no such samples.
        """
        pcm = _checked(pcm, np.int16, (self.info.samples,), "pcm")
        out = np.empty((self.info.frames, self.info.mels), np.int8)
        with self._lock:
            error = self._lib.bifsmn_features(
                self._net, pcm.ctypes.data, pcm.size, out.ctypes.data
            )
        self._check(error)
        return out

    def features_next(self, features, pcm, hops):
        """Front end, for a later window of a stream.

        Arguments
        ---------
        features : np.ndarray of int8, [frames, mels]
            Of the window before.
        pcm : np.ndarray of int16, [samples]
            This window.
        hops : int
            How many times ``hop_length`` it is later. Frames that both
            windows have are taken from ``features``.

        Returns
        -------
        np.ndarray of int8, [frames, mels]
            What ``features(pcm)`` gives.

        Raises
        ------
        ValueError
            If these are no features or samples, or ``hops`` is negative.
        """
        shape = self.info.frames, self.info.mels
        out = _checked(features, np.int8, shape, "features").copy()
        pcm = _checked(pcm, np.int16, (self.info.samples,), "pcm")
        _check_hops(hops)
        with self._lock:
            error = self._lib.bifsmn_features_next(
                *(self._net, pcm.ctypes.data, pcm.size),
                *(hops, out.ctypes.data),
            )
        self._check(error)
        return out

    def scores(self, features, depth):
        """Network.

        Arguments
        ---------
        features : np.ndarray of int8, [frames, mels]
            One decision.
        depth : int
            Layers to run, one of ``depths``.

        Returns
        -------
        np.ndarray of float32, [classes]

        Raises
        ------
        ValueError
            If these are no features, or there is no such depth.
        """
        return self.scores_next(features, self.info.frames, depth)

    def scores_next(self, features, hops, depth):
        """The same, sooner, for a later window of a stream.

        What both convolutions made of frames that the last window had, too, is
        kept. The scores are the same, whatever ``hops`` is.

        Arguments
        ---------
        features : np.ndarray of int8, [frames, mels]
            Of the later window.
        hops : int
            Hops after the window that this engine ran last.
        depth : int
            Layers to run, one of ``depths``.

        Returns
        -------
        np.ndarray of float32, [classes]

        Raises
        ------
        ValueError
            If these are no features, there is no such depth, or ``hops`` is
            negative.
        """
        shape = self.info.frames, self.info.mels
        features = _checked(features, np.int8, shape, "features")
        _check_hops(hops)
        out = np.empty(self.info.classes, np.float32)
        if depth not in self.depths:
            # C would take it modulo 2^32.
            self._check(ERROR_DEPTH)
        with self._lock:
            error = self._lib.bifsmn_run_features_next(
                *(self._net, features.ctypes.data, hops, depth),
                out.ctypes.data,
            )
        self._check(error)
        return out

    def scores_pcm(self, pcm, depth):
        """Front end and network.

        Arguments
        ---------
        pcm : np.ndarray of int16, [samples]
            One decision.
        depth : int
            Layers to run, one of ``depths``.

        Returns
        -------
        np.ndarray of float32, [classes]

        Raises
        ------
        ValueError
            If these are no such samples, or there is no such depth.
        """
        pcm = _checked(pcm, np.int16, (self.info.samples,), "pcm")
        out = np.empty(self.info.classes, np.float32)
        if depth not in self.depths:
            # C would take it modulo 2^32.
            self._check(ERROR_DEPTH)
        with self._lock:
            error = self._lib.bifsmn_run(
                *(self._net, pcm.ctypes.data, pcm.size),
                *(depth, out.ctypes.data),
            )
        self._check(error)
        return out

    def trace(self, features, depth):
        """Network, with what every stage makes.

        Arguments
        ---------
        features : np.ndarray of int8, [frames, mels]
            One decision.
        depth : int
            Layers to run, one of ``depths``.

        Returns
        -------
        dict of str to np.ndarray
            "conv1" and "conv2" (bool, [frames, mels, channels]), "fc"
            (float32, [frames, channels]), for each executed layer k
            "memory.k", "pointwise1.k" (bool) and "pointwise2.k", "scores".
            Bits in two planes are [2, ...].

        Raises
        ------
        ValueError
            If these are no features, or there is no such depth.
        """
        i = self.info
        stream = (i.frames2, i.channels)
        shapes = {
            "conv1": (i.frames1, i.mels1, i.conv1_channels),
            "conv2": (i.frames2, i.mels2, i.conv2_channels),
            "pointwise1": (i.frames2, i.expansion),
            "scores": (i.classes,),
        }
        bits = {"conv1", "conv2", "pointwise1"}
        stages = {}

        @TRACE
        def keep(_, name, k, data, size):
            name, raw = name.decode(), ctypes.string_at(data, size)
            layered = name in ("memory", "pointwise1", "pointwise2")
            key = f"{name}.{k}" if layered else name
            shape = shapes.get(name, stream)
            if name in bits:
                words = np.frombuffer(raw, np.uint64)
                row = -(-shape[-1] // 64)
                planes = words.reshape(-1, *shape[:-1], row)
                if len(planes) == 1:
                    planes = planes[0]
                stages[key] = unpack_bits(planes, shape[-1])
            else:
                stages[key] = np.frombuffer(raw, np.float32).reshape(shape)

        with self._lock:
            self._lib.bifsmn_set_trace(self._net, keep, None)
            try:
                self.scores(features, depth)
            finally:
                self._lib.bifsmn_set_trace(self._net, TRACE(), None)
        return stages

    def _check(self, error):
        if not error:
            return
        message = self._lib.bifsmn_message(error).decode()
        if error == ERROR_DEPTH:
            depths = ", ".join(map(str, self.depths))
            raise ValueError(f"{message}; it can at {depths}")
        if error == ERROR_SAMPLES:
            raise ValueError(message)
        raise ModelFileError(message)


def _check_hops(hops):
    """A later window is not an earlier one."""
    if hops < 0:
        raise ValueError(f"hops must not be negative: {hops}")


def _checked(array, dtype, shape, what):
    """The array, contiguous, once its type and shape are right."""
    array = np.asarray(array)
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{what} must be {np.dtype(dtype)} {list(shape)}, "
            f"not {array.dtype} {list(array.shape)}"
        )
    return np.ascontiguousarray(array)
