"""Keyword spotting from a SpeechBrain YAML to a 1-bit network in plain C."""

from speechbrain_bifsmn._torchaudio import make_importable

__version__ = "0.1.0"

make_importable()


def __getattr__(name):
    # Only who packs a model pays for what that imports.
    if name == "pack":
        from speechbrain_bifsmn.packed import pack

        return pack
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
