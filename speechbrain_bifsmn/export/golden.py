"""Golden vectors: what every stage gives, for porting the network anywhere.

``golden.bin`` holds the arrays one after another, little-endian, bits packed as
in the model file. ``golden.txt`` says where each lies, one line an array:
clip, depth (0 before the network), stage, k (executed layer, or -1), type,
offset and size in bytes. ``golden.h`` has hashes of them, of noise, for devices
without files.
"""

import numpy as np

from speechbrain_bifsmn.files import whole_file
from speechbrain_bifsmn.model_file import pack_bits


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


def made_noise(samples):
    """The noise that ``selftest.c`` makes, too.

    Arguments
    ---------
    samples : int
        Length.

    Returns
    -------
    np.ndarray of int16, [samples]
    """
    noise, state = np.empty(samples, np.int16), 1
    for i in range(samples):
        state = (state * 1664525 + 1013904223) % 2**32
        noise[i] = (state >> 18) - 8192
    return noise


def stage_hash(array):
    """FNV-1a of numbers of 32 bits, bits taken as words, as ``selftest.c`` has.

    Arguments
    ---------
    array : np.ndarray of bool or float32
        What a stage gives.

    Returns
    -------
    int
    """
    words = pack_bits(array) if array.dtype == bool else array
    words = words.astype(words.dtype.newbyteorder("<")).tobytes()
    state = 2166136261
    for word in np.frombuffer(words, "<u4").tolist():
        state = (state ^ word) * 16777619 % 2**32
    return state


def golden_header(engine):
    """``golden.h``: what ``selftest.c`` compares.

    Arguments
    ---------
    engine : Engine
        The reference.

    Returns
    -------
    str
    """
    model = engine.model
    features = engine.features(made_noise(model.config.samples))
    hashes, scores = [], []
    for depth in model.depths:
        stages = engine.trace(features, depth)
        scores += stages.pop("scores").tolist()
        hashes += map(stage_hash, stages.values())

    def rows(values, each):
        values = list(values)
        lines = (values[i : i + each] for i in range(0, len(values), each))
        return "".join(f"    {', '.join(line)},\n" for line in lines)

    layers = model.depths[0]
    return (
        "/* golden.h: what the model of this package makes of the noise of\n"
        " * selftest.c. */\n\n"
        "#include <stdint.h>\n\n"
        f"enum {{\n    GOLDEN_DEPTHS = {len(model.depths)},\n"
        f"    GOLDEN_LAYERS = {layers},\n"
        f"    GOLDEN_STAGES = {3 + 3 * layers},\n"
        f"    GOLDEN_CLASSES = {len(model.labels)}\n}};\n\n"
        f"static const signed char golden_features[{features.size}] = {{\n"
        + rows(map(str, features.ravel().tolist()), 12)
        + f"}};\n\nstatic const uint32_t golden_hashes[{len(hashes)}] = {{\n"
        + rows((f"0x{value:08x}u" for value in hashes), 5)
        + f"}};\n\nstatic const float golden_scores[{len(scores)}] = {{\n"
        + rows((f"{value:.9e}f" for value in scores), 4)
        + "};\n"
    )
