"""The bitwise kernels as a numba prototype.

A dot product of two ±1 vectors of length K is K - 2·popcount(a xor b). Rows
are packed into 64-bit words, the last one zero-padded in both operands, so
that the padding never differs. Sums are integers; each real output is one
fp32 multiply, then one fp32 add (docs/format.md), never fused.
"""

import numpy as np

from speechbrain_bifsmn.jit import njit

_M1 = np.uint64(0x5555555555555555)
_M2 = np.uint64(0x3333333333333333)
_M4 = np.uint64(0x0F0F0F0F0F0F0F0F)
_H01 = np.uint64(0x0101010101010101)


@njit(inline="always")
def popcount(x):
    """Bits set in a uint64."""
    x = x - ((x >> np.uint64(1)) & _M1)
    x = (x & _M2) + ((x >> np.uint64(2)) & _M2)
    x = (x + (x >> np.uint64(4))) & _M4
    return np.int32((x * _H01) >> np.uint64(56))


@njit()
def differing(x, w):
    """XOR-popcount GEMM.

    Arguments
    ---------
    x : np.ndarray of uint64, [rows, words]
        Packed inputs.
    w : np.ndarray of uint64, [outputs, words]
        Packed weights.

    Returns
    -------
    np.ndarray of int32, [rows, outputs]
        Number of places that differ.
    """
    rows, words = x.shape
    outputs = w.shape[0]
    d = np.empty((rows, outputs), np.int32)
    for m in range(rows):
        for n in range(outputs):
            total = np.int32(0)
            for k in range(words):
                total += popcount(x[m, k] ^ w[n, k])
            d[m, n] = total
    return d


@njit()
def differing_depthwise(x, w, left, dilation):
    """Depthwise memory over time; places outside count as +1.

    Arguments
    ---------
    x : np.ndarray of bool, [frames, channels]
        Input bits.
    w : np.ndarray of bool, [taps, channels]
        Weight bits, oldest tap first.
    left : int
        Taps in the past.
    dilation : int
        Frames between two taps.

    Returns
    -------
    np.ndarray of int32, [frames, channels]
        Number of taps that differ.
    """
    frames, channels = x.shape
    taps = w.shape[0]
    d = np.zeros((frames, channels), np.int32)
    for t in range(frames):
        for j in range(taps):
            source = t + (j - left) * dilation
            inside = 0 <= source < frames
            for c in range(channels):
                bit = x[source, c] if inside else True
                if bit != w[j, c]:
                    d[t, c] += 1
    return d


@njit()
def to_real(d, inputs, scale, bias, slope):
    """Real output: PReLU of sum · scale + bias, by channel.

    Arguments
    ---------
    d : np.ndarray of int32, [rows, outputs]
        Differing places.
    inputs : int
        K.
    scale, bias : np.ndarray of float32, [outputs]
        Multiply-add.
    slope : np.ndarray of float32, [outputs]
        Of the PReLU.

    Returns
    -------
    np.ndarray of float32, [rows, outputs]
    """
    y = np.empty(d.shape, np.float32)
    for m in range(d.shape[0]):
        for n in range(d.shape[1]):
            z = np.float32(inputs - 2 * d[m, n]) * scale[n]
            z = z + bias[n]
            y[m, n] = z if z >= np.float32(0) else z * slope[n]
    return y
