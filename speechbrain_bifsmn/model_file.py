"""The model file in Python: docs/format.md, line for line.

``Model`` holds the folded network in plain numpy arrays (bits as booleans,
True for +1); ``to_bytes`` and ``from_bytes`` are exact inverses.
"""

import json
import math
import struct
import zlib
from dataclasses import astuple, dataclass, field, fields

import numpy as np

from speechbrain_bifsmn.depths import layers_of

MAGIC = b"BiFSMN\r\n"
MAJOR, MINOR = 1, 1
HEADER = struct.Struct("<8sHHIII")
ENTRY = struct.Struct("<4sB3xII")
ALIGNMENT = 16
TEXT, I4, BITS = 0, 8, 9
TAGS = (
    *("CONF", "DPTH", "LABL", "META", "FRNT", "MELS", "GAIN"),
    *("C1.W", "C1.T", "C1.D", "C2.W", "C2.T", "C2.D", "FC.W", "FC.A", "FC.S"),
    *("ME.W", "ME.A", "ME.S", "ME.X", "P1.W", "P1.T", "P1.D", "P1.X"),
    *("P2.W", "P2.A", "P2.S", "HD.W", "HD.A", "HD.B"),
)
PLAIN = {1: "<u1", 2: "<i1", 3: "<u2", 4: "<u4", 5: "<i4", 6: "<f2", 7: "<f4"}


class ModelFileError(ValueError):
    """The bytes are not a model file that this version can read."""


@dataclass(frozen=True)
class Config:
    """The ``CONF`` section, in file order."""

    sample_rate: int = 16000
    samples: int = 16000
    win_length: int = 2048
    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 32
    frames: int = 32
    conv1_channels: int = 16
    conv2_channels: int = 32
    kernel: int = 5
    stride: int = 2
    channels: int = 128
    expansion: int = 256
    layers: int = 8
    left: int = 2
    right: int = 2
    dilation: int = 1
    classes: int = 12
    depths: int = 4
    flags: int = 0

    # Bits of flags: stages with constants of their own for each depth, …
    PRIVATE = {"memory": 1, "pointwise1": 2, "pointwise2": 4}
    # … and what some binarizers need.
    PLANES, THRESHOLDS, RPRELU = 8, 16, 32

    def after_stride(self, size, times):
        """Size of an axis after ``times`` padded, strided convolutions."""
        for _ in range(times):
            size = (size - 1) // self.stride + 1
        return size

    def check(self):
        """Refuse sizes that docs/format.md does not allow.

        Raises
        ------
        ModelFileError
            Naming the size.
        """
        for name, value in vars(self).items():
            least = 0 if name in ("left", "right", "flags") else 1
            most = 2**24 if name in ("sample_rate", "samples") else 32768
            most = 63 if name == "flags" else most
            if not least <= value <= most:
                raise ModelFileError(
                    f"section CONF: {name} must be from {least} to {most}, "
                    f"not {value}"
                )
        for allowed, rule in (
            (
                self.n_fft >= 4 and self.n_fft & (self.n_fft - 1) == 0,
                f"n_fft must be a power of two from 4, not {self.n_fft}",
            ),
            (
                self.win_length <= self.n_fft,
                f"win_length {self.win_length} is above n_fft {self.n_fft}",
            ),
            (self.kernel % 2 == 1, f"kernel must be odd, not {self.kernel}"),
            (
                self.kernel**2 * self.conv1_channels <= 65534,
                "kernel * kernel * conv1_channels must be at most 65534",
            ),
            (
                self.mels_out * self.conv2_channels <= 2**24,
                "mels_out * conv2_channels must be at most 2**24",
            ),
            (
                self.depths <= self.layers,
                f"depths {self.depths} are more than layers {self.layers}",
            ),
            (
                self.thresholds or not self.flags & (self.PLANES | self.RPRELU),
                f"flags {self.flags} need thresholds on the stream",
            ),
        ):
            if not allowed:
                raise ModelFileError(f"section CONF: {rule}")

    def is_private(self, stage):
        """Whether a stage has constants of its own for each depth."""
        if stage == "thresholds":
            return self.rprelu
        return bool(self.flags & self.PRIVATE[stage])

    @property
    def planes(self):
        """Bit planes of an activation, 1 or 2."""
        return 2 if self.flags & self.PLANES else 1

    @property
    def cuts(self):
        """Thresholds of an activation: 1, or for two planes 3."""
        return 3 if self.flags & self.PLANES else 1

    @property
    def thresholds(self):
        """Whether the stream is binarized elsewhere than at 0."""
        return bool(self.flags & self.THRESHOLDS)

    @property
    def rprelu(self):
        """Whether real outputs have a slope for each channel."""
        return bool(self.flags & self.RPRELU)

    @property
    def taps(self):
        """Taps of the FSMN memory."""
        return self.left + 1 + self.right

    @property
    def frames_out(self):
        """T2, frames of the residual stream."""
        return self.after_stride(self.frames, 2)

    @property
    def mels_out(self):
        """M2, mel rows after both convolutions."""
        return self.after_stride(self.n_mels, 2)

    @property
    def front_padding(self):
        """Zeros before the first sample, so that the last frame ends last."""
        span = self.win_length + (self.frames - 1) * self.hop_length
        return span - self.samples


@dataclass
class Model:
    """A folded 1-bit network.

    Arguments
    ---------
    config : Config
        Every size.
    depths : tuple of int
        The depths that can run, deepest first.
    labels : list of str
        Class names.
    meta : dict
        Licence, training facts, accuracy; anything JSON can hold.
    arrays : dict of str to np.ndarray
        One array for each section, shaped as in docs/format.md. Bits are
        bool, 4-bit weights are int8 within [-7, 7]. The precision on disk
        follows from the array: float16 or float32 as given, the smallest
        integer type that the section allows.
    """

    config: Config
    depths: tuple
    labels: list
    meta: dict = field(default_factory=dict)
    arrays: dict = field(default_factory=dict)

    def layers_of(self, depth):
        """Layers that a depth executes, as indices, in order."""
        return layers_of(self.config.layers, depth)

    def set_of(self, stage, depth, k):
        """Index of the constants of the k-th executed layer at a depth.

        Arguments
        ---------
        stage : str
            "memory", "pointwise1", "pointwise2", or "thresholds" for those
            of the stream.
        depth : int
            One of ``depths``.
        k : int
            Position among the executed layers, from 0.

        Returns
        -------
        int
        """
        if self.config.is_private(stage):
            return sum(self.depths[: self.depths.index(depth)]) + k
        return self.layers_of(depth)[k]

    def to_bytes(self):
        """Serialize.

        Returns
        -------
        bytes

        Raises
        ------
        ModelFileError
            If an array is missing or has the wrong shape, or a value is one
            that no reader accepts.
        """
        self.config.check()
        sections = {
            "CONF": (4, _plain(astuple(self.config), 4)),
            "DPTH": (4, _plain(self.depths, 4)),
            "LABL": (TEXT, b"".join(s.encode() + b"\0" for s in self.labels)),
            "META": (TEXT, json.dumps(self.meta, sort_keys=True).encode()),
        }
        for tag, (dtypes, shape) in layout(self.config, self.depths).items():
            if tag not in self.arrays:
                raise ModelFileError(f"no array for section {tag}")
            array = self.arrays[tag]
            if array.shape != shape:
                raise ModelFileError(
                    f"section {tag} must be {shape}, not {array.shape}"
                )
            dtype = _smallest(array, dtypes, tag)
            sections[tag] = dtype, _encode(array, dtype)
        self.check()

        offset = HEADER.size + ENTRY.size * len(sections)
        table, body = b"", b""
        for tag, (dtype, data) in sections.items():
            gap = -(offset + len(body)) % ALIGNMENT
            body += bytes(gap)
            where = offset + len(body)
            table += ENTRY.pack(tag.encode(), dtype, where, len(data))
            body += data
        size = offset + len(body)
        count = struct.pack("<I", len(sections))
        crc = zlib.crc32(count + table + body)
        head = HEADER.pack(MAGIC, MAJOR, MINOR, size, crc, len(sections))
        return head + table + body

    @classmethod
    def from_bytes(cls, data):
        """Parse and check everything.

        Arguments
        ---------
        data : bytes
            A whole file.

        Returns
        -------
        Model

        Raises
        ------
        ModelFileError
            Naming what is wrong: not a model file, truncated, altered, of
            another version, or with a section or a size that breaks a rule
            of docs/format.md.
        """
        sections = read_sections(data)

        def get(tag, dtypes):
            if tag not in sections:
                raise ModelFileError(f"model file has no section {tag}")
            dtype, raw = sections[tag]
            if dtype not in dtypes:
                raise ModelFileError(
                    f"section {tag} has dtype {dtype}, it must be "
                    + " or ".join(map(str, dtypes))
                )
            return dtype, raw

        numbers = _decode(*get("CONF", (4,)), (len(fields(Config)),), "CONF")
        config = Config(*(int(n) for n in numbers))
        config.check()
        depths = _decode(*get("DPTH", (4,)), (config.depths,), "DPTH")
        depths = tuple(int(n) for n in depths)
        labels = _text(get("LABL", (TEXT,))[1], "LABL")
        if not labels.endswith("\0"):
            raise ModelFileError("section LABL: the last label has no end")
        meta = _text(get("META", (TEXT,))[1], "META")
        try:
            meta = json.loads(meta)
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"section META is not JSON: {error}") from None
        if not isinstance(meta, dict):
            raise ModelFileError("section META is not a JSON object")
        labels = labels.split("\0")[:-1]
        arrays = {
            tag: _decode(*get(tag, dtypes), shape, tag)
            for tag, (dtypes, shape) in layout(config, depths).items()
        }
        model = cls(config, depths, labels, meta, arrays)
        model.check()
        return model

    def check(self):
        """Refuse values that the arithmetic is not defined for.

        Raises
        ------
        ModelFileError
            Naming the section.
        """
        depths, layers = self.depths, self.config.layers
        classes, labels = self.config.classes, len(self.labels)
        if labels != classes:
            raise ModelFileError(f"{classes} classes but {labels} labels")
        if any("\0" in label for label in self.labels):
            raise ModelFileError("a label has a zero byte in it")
        if sorted(set(depths), reverse=True) != list(depths) or not (
            depths and depths[0] <= layers and depths[-1] >= 1
        ):
            raise ModelFileError(
                f"depths {list(depths)} must decrease from at most {layers}"
            )
        for tag, array in self.arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ModelFileError(f"section {tag} has non-finite numbers")
        if self.arrays["FRNT"][0] <= 0:
            raise ModelFileError("the floor of the front end must be positive")
        if self.config.planes > 1:
            self._check_gains()
        if (np.diff(self.arrays["MELS"]) <= 0).any():
            raise ModelFileError("mel edges must rise strictly")

    def _check_gains(self):
        c, gains = self.config, self.arrays["GAIN"].astype(np.int64)
        if (gains == 0).any():
            raise ModelFileError("section GAIN: a plane counts for nothing")
        inputs = [
            c.kernel**2 * c.conv1_channels,
            c.mels_out * c.conv2_channels,
            *[c.taps, c.channels, c.expansion] * c.layers,
        ]
        if (gains.sum(1) * inputs > 2**24).any():
            raise ModelFileError("section GAIN: sums are beyond 2**24")


def layout(config, depths):
    """Allowed dtypes and shape of every numeric section.

    Arguments
    ---------
    config : Config
        Sizes.
    depths : tuple of int
        Depths that can run.

    Returns
    -------
    dict of str to (tuple of int, tuple of int)
    """
    c = config
    conv = c.kernel * c.kernel

    def sets(stage):
        return sum(depths) if c.is_private(stage) else c.layers

    def thresholds(inputs):
        if c.planes > 1:
            return (3, 4)
        return (1,) if inputs < 255 else (3,)

    conv2_in = conv * c.conv1_channels
    real = (6, 7)

    def slopes(sets):
        return (real, (sets, c.channels)) if c.rprelu else ((7,), (sets,))

    cut = sets("thresholds"), c.cuts, c.channels if c.rprelu else 1
    sections = {
        "FRNT": ((7,), (3,)),
        "MELS": ((7,), (c.n_mels + 2,)),
        "C1.W": ((2,), (c.conv1_channels, c.kernel, c.kernel)),
        "C1.T": ((5,), (c.cuts, c.conv1_channels)),
        "C1.D": ((BITS,), (1, c.conv1_channels)),
        "C2.W": ((BITS,), (c.conv2_channels, conv2_in)),
        "C2.T": (thresholds(conv2_in), (c.cuts, c.conv2_channels)),
        "C2.D": ((BITS,), (1, c.conv2_channels)),
        "FC.W": ((BITS,), (c.channels, c.mels_out * c.conv2_channels)),
        "FC.A": (real, (2, c.channels)),
        "FC.S": slopes(1),
        "ME.W": ((BITS,), (c.layers * c.taps, c.channels)),
        "ME.A": (real, (sets("memory"), 2, c.channels)),
        "ME.S": slopes(sets("memory")),
        "P1.W": ((BITS,), (c.layers * c.expansion, c.channels)),
        "P1.T": (
            thresholds(c.channels),
            (sets("pointwise1"), c.cuts, c.expansion),
        ),
        "P1.D": ((BITS,), (sets("pointwise1"), c.expansion)),
        "P2.W": ((BITS,), (c.layers * c.channels, c.expansion)),
        "P2.A": (real, (sets("pointwise2"), 2, c.channels)),
        "P2.S": slopes(sets("pointwise2")),
        "HD.W": ((I4, 2), (c.classes, c.frames_out * c.channels)),
        "HD.A": ((7,), (2, c.classes)),
    }
    if c.planes > 1:
        sections["GAIN"] = (1,), (2 + 3 * c.layers, c.planes)
    if c.thresholds:
        sections["ME.X"] = sections["P1.X"] = real, cut
    if c.rprelu:
        sections["HD.B"] = (7,), (len(depths), c.classes)
    return sections


def read_sections(data):
    """Check header, size and checksum, and cut the file into sections.

    Arguments
    ---------
    data : bytes
        A whole file.

    Returns
    -------
    dict of str to (int, bytes)
        dtype code and raw bytes of each tag, in file order.

    Raises
    ------
    ModelFileError
        If the file is not whole and unaltered, or its sections overlap, are
        out of order or there twice.
    """
    if len(data) < HEADER.size or data[:8] != MAGIC:
        raise ModelFileError("not a BiFSMN model file")
    _, major, minor, size, crc, count = HEADER.unpack_from(data)
    if major != MAJOR:
        raise ModelFileError(
            f"model file has format version {major}.{minor}; "
            f"this reader knows {MAJOR}.x: install a newer speechbrain_bifsmn"
        )
    if size != len(data):
        raise ModelFileError(
            f"model file should be {size} bytes and is {len(data)}: "
            "truncated or padded; copy or export it again"
        )
    if zlib.crc32(data[20:]) != crc:
        raise ModelFileError(
            "checksum does not match: the model file was altered; "
            "copy or export it again"
        )
    end = HEADER.size + count * ENTRY.size  # of what was read so far
    if end > size:
        raise ModelFileError("section table runs past the end")
    sections = {}
    for i in range(count):
        where = HEADER.size + i * ENTRY.size
        tag, dtype, offset, length = ENTRY.unpack_from(data, where)
        name = tag.decode("latin-1")
        if offset % ALIGNMENT:
            raise ModelFileError(
                f"section {name} does not start at a multiple of {ALIGNMENT}"
            )
        if offset < end:
            raise ModelFileError(f"section {name} overlaps what is before it")
        end = offset + length
        if end > size:
            raise ModelFileError(f"section {name} lies outside the file")
        # One from a later minor version may be there as often as it likes.
        if name in sections and name in TAGS:
            raise ModelFileError(f"section {name} is there twice")
        sections[name] = dtype, data[offset:end]
    return sections


def pack_bits(bits):
    """Pack the last axis into little-endian 64-bit words, zero-padded.

    Arguments
    ---------
    bits : np.ndarray of bool, [..., n]
        True is +1.

    Returns
    -------
    np.ndarray of uint64, [..., ceil(n / 64)]
    """
    words = -(-bits.shape[-1] // 64)
    packed = np.packbits(bits, axis=-1, bitorder="little")
    missing = words * 8 - packed.shape[-1]
    widths = [(0, 0)] * (packed.ndim - 1) + [(0, missing)]
    packed = np.ascontiguousarray(np.pad(packed, widths))
    return packed.view("<u8").astype(np.uint64)


def unpack_bits(words, size):
    """Inverse of ``pack_bits``.

    Arguments
    ---------
    words : np.ndarray of uint64, [..., ceil(size / 64)]
        Packed rows.
    size : int
        Bits of a row.

    Returns
    -------
    np.ndarray of bool, [..., size]
    """
    raw = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(raw, axis=-1, bitorder="little")[..., :size] > 0


def _smallest(array, dtypes, tag):
    """The dtype code, of those allowed, that stores the array exactly."""
    for dtype in dtypes:
        if dtype == BITS:
            ok = array.dtype == bool
        elif dtype == I4:
            # abs(-128) is -128 in 8 bits.
            ok = array.min() >= -7 and array.max() <= 7
        else:
            ok = (array.astype(PLAIN[dtype]) == array).all()
        if ok:
            return dtype
    raise ModelFileError(f"section {tag} cannot hold {array.dtype} values")


def _plain(values, dtype):
    return np.ascontiguousarray(values, dtype=PLAIN[dtype]).tobytes()


def _encode(array, dtype):
    if dtype == BITS:
        return pack_bits(array).astype("<u8").tobytes()
    if dtype == I4:
        nibbles = array.astype(np.int8).view(np.uint8) & 15
        odd = [(0, 0)] * (array.ndim - 1) + [(0, array.shape[-1] % 2)]
        nibbles = np.pad(nibbles, odd)
        return (nibbles[..., ::2] | nibbles[..., 1::2] << 4).tobytes()
    return _plain(array, dtype)


def _text(data, tag):
    """Raw bytes of a section to a string."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ModelFileError(f"section {tag} is not UTF-8 text") from None


def _decode(dtype, data, shape, tag):
    """Raw bytes of a section to an array of the given shape."""
    rows = math.prod(shape[:-1])
    n = shape[-1]
    if dtype == BITS:
        width = -(-n // 64) * 8
    elif dtype == I4:
        width = -(-n // 2)
    else:
        width = n * np.dtype(PLAIN[dtype]).itemsize
    if len(data) != rows * width:
        raise ModelFileError(
            f"section {tag} should be {rows * width} bytes, is {len(data)}"
        )
    if dtype == BITS:
        words = np.frombuffer(data, "<u8").reshape(*shape[:-1], -1)
        # A one beyond the end of a row would be counted as a difference.
        if n % 64 and (words[..., -1] >> np.uint64(n % 64)).any():
            raise ModelFileError(f"section {tag} has bits beyond a row's end")
        return unpack_bits(words, n)
    if dtype == I4:
        raw = np.frombuffer(data, np.uint8).reshape(rows, width)
        nibbles = np.stack([raw & 15, raw >> 4], -1).reshape(rows, -1)
        signed = (nibbles.astype(np.int8) ^ 8) - 8
        return signed[:, :n].reshape(shape)
    array = np.frombuffer(data, PLAIN[dtype]).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))
