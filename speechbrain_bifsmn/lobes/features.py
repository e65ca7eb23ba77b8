"""Causal log-mel features: the front end that the device computes too.

Frames are not centred: each looks back from its last sample, so a frame does
not change when the window around it moves, and what a clip gives offline is
what a stream gives live.
"""

import math

import torch
import torchaudio
from torch import nn

from speechbrain_bifsmn.layers import check_sizes


class LogMel(nn.Module):
    """Waveform to level-normalised log-mel frames.

    Zeros are put in front of the waveform so that the last frame ends with
    the last sample: n samples give ceil(n / hop_length) frames. A frame is
    windowed (periodic Hann), zero-padded to ``n_fft``, and its power spectrum
    summed by triangular HTK mel filters;
    feature = (10·log10(max(power, floor)) + offset) / scale.

    Arguments
    ---------
    sample_rate : int
        Hz.
    n_fft : int
        Points of the Fourier transform; a power of two for export.
    win_length : int, optional
        Samples of a frame; ``n_fft``, if not given.
    hop_length : int
        Samples between frames.
    n_mels : int
        Mel bands.
    f_min, f_max : float, optional
        Range of the filters in Hz; up to half the sample rate, if not given.
    floor : float
        Smallest power.
    offset, scale : float
        Level normalisation, dB.

    Raises
    ------
    ValueError
        If lengths, frequencies or level are impossible.

    Example
    -------
    >>> LogMel()(torch.randn(2, 16000)).shape
    torch.Size([2, 32, 32])
    """

    def __init__(
        self,
        sample_rate=16000,
        n_fft=2048,
        win_length=None,
        hop_length=512,
        n_mels=32,
        f_min=20.0,
        f_max=None,
        floor=1e-10,
        offset=40.0,
        scale=20.0,
    ):
        super().__init__()
        win_length = win_length or n_fft
        if not 0 < hop_length <= win_length <= n_fft:
            raise ValueError(
                "the front end needs 0 < hop_length <= win_length <= n_fft, "
                f"got {hop_length}, {win_length}, {n_fft}"
            )
        check_sizes(
            n_fft=n_fft,
            win_length=win_length,
            hop_length=hop_length,
            n_mels=n_mels,
        )
        for name, number in (
            ("sample_rate", sample_rate),
            ("floor", floor),
            ("offset", offset),
            ("scale", scale),
        ):
            if not math.isfinite(number):
                raise ValueError(
                    f"{name} of the front end is a finite number, not {number}"
                )
        highest = sample_rate / 2
        f_max = highest if f_max is None else f_max
        if not 0 <= f_min < f_max <= highest:
            raise ValueError(
                f"the front end needs 0 <= f_min < f_max <= {highest} (half "
                f"the sample rate), got {f_min} and {f_max}"
            )
        if not (floor > 0 and scale > 0):
            raise ValueError(
                "floor and scale of the front end must be positive, got "
                f"{floor} and {scale}"
            )
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.win_length = win_length
        self.hop_length = hop_length
        self.n_mels = n_mels
        self.f_min = f_min
        self.f_max = f_max
        self.floor = floor
        self.offset = offset
        self.scale = scale
        window = torch.hann_window(win_length)
        filters = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1,
            self.f_min,
            self.f_max,
            n_mels,
            sample_rate,
            norm=None,
            mel_scale="htk",
        )
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def mel_edges(self):
        """Edges of the triangular filters.

        Returns
        -------
        torch.Tensor of float64, [n_mels + 2]
            Hz; filter m rises from edge m to m + 1 and falls to m + 2.
        """

        def mel(hz):
            return 2595 * torch.log10(1 + torch.tensor(hz).double() / 700)

        points = torch.linspace(
            mel(self.f_min), mel(self.f_max), self.n_mels + 2
        ).double()
        return 700 * (10 ** (points / 2595) - 1)

    def forward(self, wavs, lens=None):
        """Compute features.

        Arguments
        ---------
        wavs : torch.Tensor, [batch, samples]
            Waveforms within ±1.
        lens : torch.Tensor, optional
            Relative lengths, as SpeechBrain passes them; not used.

        Returns
        -------
        torch.Tensor, [batch, ceil(samples / hop_length), n_mels]

        Raises
        ------
        ValueError
            If the samples are integers, or clips have none.
        """
        if not wavs.is_floating_point():
            raise ValueError(
                f"clips of {wavs.dtype} are not within ±1: divide 16-bit "
                "samples by 32768"
            )
        samples = wavs.shape[-1]
        if samples == 0:
            raise ValueError("clips without a sample have no features")
        frames = -(-samples // self.hop_length)
        if not wavs.numel():
            # Not every library transforms a batch of none.
            return self.window.new_empty(*wavs.shape[:-1], frames, self.n_mels)
        span = self.win_length + (frames - 1) * self.hop_length
        padded = nn.functional.pad(wavs.float(), [span - samples, 0])
        windows = padded.unfold(-1, self.win_length, self.hop_length)
        # FFT and logarithm in full precision, also under autocast.
        with torch.autocast(wavs.device.type, enabled=False):
            wide = torch.promote_types(self.window.dtype, torch.float32)
            windows = windows * self.window.to(wide)
            spectrum = torch.fft.rfft(windows, self.n_fft)
            power = spectrum.real.square() + spectrum.imag.square()
            mel = power @ self.filters.to(wide)
            level = 10 * mel.clamp(min=self.floor).log10()
        return ((level + self.offset) / self.scale).to(self.window.dtype)
