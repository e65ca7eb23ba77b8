"""The file's front end in numpy: PCM to int8 log-mel."""

import numpy as np


def features(model, pcm):
    """Features of one decision, as docs/format.md defines them.

    Arguments
    ---------
    model : Model
        A model file.
    pcm : np.ndarray of int16, [samples]
        One decision's samples; fewer are zero-padded at the end.

    Returns
    -------
    np.ndarray of int8, [frames, n_mels]

    Raises
    ------
    ValueError
        If pcm is not int16 or is longer than one decision.
    """
    c = model.config
    pcm = np.asarray(pcm)
    if pcm.dtype != np.int16 or pcm.ndim != 1 or len(pcm) > c.samples:
        raise ValueError(
            f"expected at most {c.samples} int16 samples, "
            f"got {pcm.dtype} {list(pcm.shape)}"
        )
    x = np.zeros(max(c.front_padding, 0) + c.samples)
    x[len(x) - c.samples :][: len(pcm)] = pcm / 32768
    # Less than none: windows that end before the first sample are left out.
    x = x[max(-c.front_padding, 0) :]
    windows = np.lib.stride_tricks.sliding_window_view(x, c.win_length)
    phase = 2 * np.pi * np.arange(c.win_length) / c.win_length
    hann = 0.5 - 0.5 * np.cos(phase)
    spectrum = np.fft.rfft(windows[:: c.hop_length] * hann, c.n_fft)
    power = spectrum.real**2 + spectrum.imag**2

    f = np.arange(c.n_fft // 2 + 1)[:, None] * c.sample_rate / c.n_fft
    edges = model.arrays["MELS"].astype(np.float64)
    a, b, d = edges[:-2], edges[1:-1], edges[2:]
    filters = np.maximum(0, np.minimum((f - a) / (b - a), (d - f) / (d - b)))

    floor, offset, gain = model.arrays["FRNT"]
    level = 10 * np.log10(np.maximum(power @ filters, floor))
    steps = np.rint((level + offset) * gain)
    return np.clip(steps, -128, 127).astype(np.int8)
