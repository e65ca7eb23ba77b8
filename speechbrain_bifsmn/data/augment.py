"""Waveform augmentation for clips of fixed length."""

import math
from dataclasses import asdict, dataclass

import torch
import torchaudio


@dataclass
class ClipAugment:
    """Speed, shift, gain and background noise, drawn for every clip.

    A fresh draw from torch's random generator for each call; seed that to
    repeat it.

    Arguments
    ---------
    speed : float
        Speed and pitch change by up to this fraction, either way.
    shift : float
        Shift in seconds, either way. What comes in is silence.
    gain : float
        Level change in dB, either way.
    noise_probability : float
        Share of the clips that get noise.
    snr_low, snr_high : float
        Range of the signal-to-noise ratio, dB.
    sample_rate : int
        Hz.

    Example
    -------
    >>> ClipAugment()(torch.randn(2, 16000), noise=torch.randn(30000)).shape
    torch.Size([2, 16000])
    """

    speed: float = 0.15
    shift: float = 0.1
    gain: float = 6.0
    noise_probability: float = 0.7
    snr_low: float = 5.0
    snr_high: float = 30.0
    sample_rate: int = 16000

    def __post_init__(self):
        """Refuse what no clip could be changed by.

        Raises
        ------
        ValueError
        """
        for name, good, words in [
            ("speed", 0 <= self.speed < 1, "from 0 to below 1"),
            ("shift", 0 <= self.shift < math.inf, "finite and at least 0"),
            ("gain", 0 <= self.gain < math.inf, "finite and at least 0"),
            (
                "noise_probability",
                0 <= self.noise_probability <= 1,
                "from 0 to 1",
            ),
            (
                "snr_low",
                -math.inf < self.snr_low <= self.snr_high < math.inf,
                f"finite and at most snr_high, {self.snr_high}",
            ),
        ]:
            if not good:
                raise ValueError(
                    f"{name} must be {words}, not {getattr(self, name)}"
                )

    def __call__(self, wavs, noise=None):
        """Augment a batch.

        Arguments
        ---------
        wavs : torch.Tensor, [batch, samples]
            Clips.
        noise : torch.Tensor, [n], optional
            Background noise, at least as long as a clip.

        Returns
        -------
        torch.Tensor, [batch, samples]
            Within ±1.

        Raises
        ------
        ValueError
            If the noise is shorter than a clip.
        """
        batch, samples = wavs.shape
        wavs = self._warp(wavs)
        wavs = wavs * 10 ** (_uniform(batch, self.gain, wavs) / 20)
        if noise is None:
            return wavs.clamp(-1, 1)
        if len(noise) < samples:
            raise ValueError(
                f"background noise of {len(noise)} samples is shorter than a "
                f"clip of {samples}: give more, or none"
            )
        starts = torch.randint(len(noise) - samples + 1, (batch, 1))
        index = starts.to(noise.device) + torch.arange(
            samples, device=noise.device
        )
        cuts = noise[index].to(wavs)
        middle = (self.snr_low + self.snr_high) / 2
        snr = middle + _uniform(batch, self.snr_high - middle, wavs)
        # Digital silence, of either, has no level to be relative to.
        noisy = torchaudio.functional.add_noise(
            wavs + 1e-4 * torch.randn_like(wavs),
            cuts + 1e-4 * torch.randn_like(cuts),
            snr[:, 0],
        )
        chosen = torch.rand(batch, 1) < self.noise_probability
        noisy = torch.where(chosen.to(wavs.device), noisy, wavs)
        return noisy.clamp(-1, 1)

    def _warp(self, wavs):
        """Speed and shift: read each clip along another line of time."""
        batch, samples = wavs.shape
        middle = samples / 2
        speed = 1 + _uniform(batch, self.speed, wavs)
        shift = _uniform(batch, self.shift * self.sample_rate, wavs)
        time = torch.arange(samples, device=wavs.device)
        time = (time - middle) * speed + middle + shift
        left = time.floor()
        part = time - left
        padded = torch.nn.functional.pad(wavs, [1, 1])

        def at(t):
            index = (t.long() + 1).clamp(0, samples + 1)
            return padded.gather(1, index)

        return at(left) * (1 - part) + at(left + 1) * part

    def describe(self):
        """The settings, for naming what was computed with them.

        Returns
        -------
        dict
        """
        return asdict(self)


def _uniform(batch, limit, like):
    """[batch, 1] numbers in ±limit."""
    return (torch.rand(batch, 1) * 2 - 1).to(like.device) * limit
