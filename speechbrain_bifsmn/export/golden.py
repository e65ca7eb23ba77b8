"""Golden vectors: what every stage gives, for porting the network anywhere.

``golden.bin`` holds the arrays one after another, little-endian, bits packed as
in the model file. ``golden.txt`` says where each lies, one line an array:
clip, depth (0 before the network), stage, k (executed layer, or -1), type,
offset and size in bytes.
"""

import numpy as np

from speechbrain_bifsmn.export.file import pack_bits
from speechbrain_bifsmn.files import whole_file


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
    """Write ``golden.bin`` and ``golden.txt``.

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
    lines, body = [], b""
    for clip, pcm in golden_clips(model.config.samples).items():
        features = engine.features(pcm)
        stages = {(0, "pcm"): pcm, (0, "features"): features}
        for depth in model.depths:
            for name, array in engine.trace(features, depth).items():
                stages[depth, name] = array
        for (depth, name), array in stages.items():
            stage, _, k = name.partition(".")
            bits = array.dtype == bool
            kind = "bits" if bits else array.dtype
            stored = pack_bits(array) if bits else array
            stored = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
            lines.append(
                f"{clip} {depth} {stage} {k or -1} {kind} "
                f"{len(body)} {len(stored)}\n"
            )
            body += stored
    with whole_file(folder / "golden.bin") as part:
        part.write_bytes(body)
    with whole_file(folder / "golden.txt") as part:
        part.write_text("".join(lines))
    return len(lines)
