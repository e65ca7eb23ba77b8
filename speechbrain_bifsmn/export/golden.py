"""Golden vectors: what every stage gives, for porting the network anywhere.

``golden.bin`` holds the arrays one after another, ``golden.json`` says where
each lies. Bits are packed as in the model file.
"""

import json

import numpy as np

from speechbrain_bifsmn.export.file import pack_bits


def golden_clips(samples, seed=0):
    """Clips that reach every corner and belong to nobody.

    Arguments
    ---------
    samples : int
        Length.
    seed : int
        Of the noise.

    Returns
    -------
    dict of str to np.ndarray of int16, [samples]
        Digital silence, full-scale square wave, chirp, quiet noise.
    """
    t = np.arange(samples)
    chirp = 12000 * np.sin(np.pi * 0.4 * t * t / samples)
    noise = np.random.default_rng(seed).normal(0, 300, samples)
    square = np.where(t // 40 % 2, -32768, 32767)
    clips = {
        "silence": np.zeros(samples),
        "square": square,
        "chirp": chirp,
        "noise": noise,
    }
    return {name: clip.astype(np.int16) for name, clip in clips.items()}


def write_golden(folder, engine):
    """Write ``golden.bin`` and ``golden.json``.

    Arguments
    ---------
    folder : Path
        Where to write.
    engine : Engine
        The reference that made them.

    Returns
    -------
    int
        Number of arrays.
    """
    model = engine.model
    entries, body = [], b""
    for name, pcm in golden_clips(model.config.samples).items():
        features = engine.features(pcm)
        stages = {"pcm": pcm, "features": features}
        for depth in model.depths:
            for stage, array in engine.trace(features, depth).items():
                stages[f"{depth}.{stage}"] = array
        for stage, array in stages.items():
            bits = array.dtype == bool
            stored = pack_bits(array) if bits else array
            stored = stored.astype(stored.dtype.newbyteorder("<"))
            entries.append(
                {
                    "clip": name,
                    "stage": stage,
                    "type": "bits" if bits else str(array.dtype),
                    "shape": list(array.shape),
                    "offset": len(body),
                    "size": stored.nbytes,
                }
            )
            body += stored.tobytes()
            body += bytes(-len(body) % 8)
    (folder / "golden.bin").write_bytes(body)
    (folder / "golden.json").write_text(json.dumps(entries, indent=0))
    return len(entries)
