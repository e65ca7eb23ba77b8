"""Random model files of any shape, for the parity and corruption tests."""

import numpy as np

from speechbrain_bifsmn.model_file import Config, Model, layout


def random_model(seed=0, depths=(8, 4, 2, 1), head_bits=4, half=True, **sizes):
    """A valid model with random weights and constants."""
    rng = np.random.default_rng(seed)
    config = Config(depths=len(depths), **sizes)
    model = Model(
        config,
        tuple(depths),
        [f"word{i}" for i in range(config.classes)],
        {"licence": "Apache-2.0"},
    )
    c = config
    limits = {
        "C2.T": c.kernel**2 * c.conv1_channels,
        "P1.T": c.channels,
    }
    edges = np.linspace(0, c.sample_rate / 2, c.n_mels + 2)
    sections = layout(config, depths)
    # GAIN first: it says how large sums are.
    for tag in sorted(sections, key=lambda tag: tag != "GAIN"):
        dtypes, shape = sections[tag]
        if tag == "FRNT":
            array = np.float32([1e-10, 40.0, 1.6])
        elif tag == "MELS":
            array = edges.astype(np.float32)
        elif tag == "C1.W":
            array = rng.integers(-127, 128, shape)
        elif tag == "C1.T":
            array = rng.integers(-50000, 50000, shape)
        elif tag == "GAIN":
            array = rng.integers(1, 128, shape)
            even = rng.random(len(array)) < 0.5  # levels: one counts twice
            array[even, 0] = 2 * array[even, 1]
            gains = array.sum(1)
            limits["C2.T"] *= gains[0]
            limits["P1.T"] *= gains[3]
        elif tag in ("ME.X", "P1.X"):
            array = np.sort(rng.normal(size=shape) * 0.3, axis=1)
            array = array.astype(np.float16 if half else np.float32)
        elif tag in limits:
            # Centred on a coin toss, with the constants 0 and K + 1 among them.
            array = rng.binomial(limits[tag], 0.5, shape)
            array[rng.random(shape) < 0.02] = 0
            array[rng.random(shape) < 0.02] = limits[tag] + 1
        elif dtypes == (9,):
            array = rng.random(shape) < 0.5
        elif tag == "HD.W":
            top = 2 ** (head_bits - 1) - 1
            array = rng.integers(-top, top + 1, shape)
            array.flat[0] = top
        elif tag in ("HD.A", "HD.B"):
            array = (rng.normal(size=shape) * 1e-3).astype(np.float32)
        elif tag.endswith(".S"):
            array = rng.normal(0.2, 0.3, shape).astype(np.float32)
        else:
            array = rng.normal(size=shape) * 0.1
            array = array.astype(np.float16 if half else np.float32)
        model.arrays[tag] = array
    return model
