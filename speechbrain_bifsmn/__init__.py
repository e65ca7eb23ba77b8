"""Keyword spotting from a SpeechBrain YAML to a 1-bit network in plain C."""

from speechbrain_bifsmn._torchaudio import make_importable

__version__ = "0.1.0"

make_importable()
