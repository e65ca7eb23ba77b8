"""Small networks and small data."""

import hashlib

import numpy as np
import soundfile
import torch
from torch import nn

from speechbrain_bifsmn.layers import NormPReLU
from speechbrain_bifsmn.lobes.bifsmn import BiFSMN

WORDS = {"low": 300, "middle": 900, "high": 2700}
SIZES = {
    "n_mels": 20,
    "frames": 32,
    "classes": 4,
    "conv_channels": (5, 7),
    "channels": 24,
    "expansion": 40,
    "layers": 4,
    "depths": (4, 2, 1),
}


def tiny_bifsmn(seed=0, **options):
    """A BiFSMN whose norms have random constants and statistics."""
    torch.manual_seed(seed)
    model = BiFSMN(**{**SIZES, **options})
    for module in model.modules():
        if isinstance(module, NormPReLU):
            nn.init.normal_(module.norm.weight, 0.3, 0.7)
            nn.init.normal_(module.norm.bias, 0.0, 0.5)
            if module.slope is not None:
                nn.init.uniform_(module.slope, -0.1, 0.4)
            if module.before is not None:
                nn.init.normal_(module.before, 0.0, 0.3)
                nn.init.normal_(module.after, 0.0, 0.3)
    for name, parameter in model.named_parameters():
        if "_quantizer." in name:
            nn.init.uniform_(parameter, 0.1, 0.6)
    model.train()
    for _ in range(3):
        shape = 16, model.frames, model.n_mels
        model(torch.randn(shape), depth=model.depths)
    return model.eval()


def make_archive(root, clips=40):
    """Tones named as words, by many speakers, and noise to be silent in."""
    rng = np.random.default_rng(0)
    t = np.arange(16000) / 16000
    for word, hertz in WORDS.items():
        (root / word).mkdir(parents=True)
        for i in range(clips):
            speaker = hashlib.sha1(f"{i}".encode()).hexdigest()[:8]
            tone = np.sin(2 * np.pi * hertz * (1 + i / 400) * t)
            tone *= np.exp(-(((t - 0.5) / 0.2) ** 2)) * 0.3
            clip = tone + rng.normal(0, 0.003, t.size)
            name = root / word / f"{speaker}_nohash_0.wav"
            soundfile.write(name, clip, 16000, "PCM_16")
    noise = root / "_background_noise_"
    noise.mkdir()
    soundfile.write(
        noise / "white.wav", rng.normal(0, 0.02, 16000 * 40), 16000, "PCM_16"
    )
    return root
