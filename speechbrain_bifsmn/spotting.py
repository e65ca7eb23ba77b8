"""Keywords with an exported model file: PCM in, keyword out."""

import operator
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechbrain_bifsmn.data.audio import read_pcm, read_window
from speechbrain_bifsmn.kernels import open_engine
from speechbrain_bifsmn.model_file import Model, ModelFileError
from speechbrain_bifsmn.pretrained import FILE, THRESHOLD

# Windows whose posteriors are averaged: so many hold the whole of a word.
SMOOTHED = 4


@dataclass(frozen=True)
class Spotted:
    """What was heard in a clip.

    Arguments
    ---------
    label : str
        Keyword, or a class named ``_…_`` if no keyword was sure enough.
    probability : float
        Its smoothed posterior in the best window.
    start : float
        Where that window starts, seconds.
    posteriors : dict of str to float
        All classes in that window.
    """

    label: str
    probability: float
    start: float
    posteriors: dict


class Spotter:
    """A model file, ready to listen.

    Arguments
    ---------
    path : str or Path
        Exported ``.bifsmn`` file; the one in the package, if not given.
    depth : int, optional
        Depth to run at; the deepest, if not given.
    engine : type, optional
        An engine class; the compiled core or, without it, numba.
    threshold : float
        Posterior from which a keyword is believed, 0 to 1. Less of it hears
        more keywords, where there are some and where there are none.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If it is not a whole, unaltered model file.
    ValueError
        If it has no such depth, or the threshold is none.

    Example
    -------
    >>> Spotter().spot_file("yes.wav")  # doctest: +SKIP
    Spotted(label='yes', probability=0.98, ...)
    """

    def __init__(
        self, path=FILE, depth=None, engine=open_engine, threshold=THRESHOLD
    ):
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold} is not from 0 to 1")
        self.threshold = threshold
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no model file {path}")
        data = path.read_bytes()
        try:
            self.model = Model.from_bytes(data)
            self.engine = engine(data)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
        deepest = self.model.depths[0]
        self.depth = deepest if depth is None else operator.index(depth)
        if self.depth not in self.model.depths:
            raise ValueError(
                f"no depth {depth}: this model runs at depth "
                + ", ".join(map(str, self.model.depths))
            )

    def spot_file(self, path):
        """Recognise a sound file.

        Arguments
        ---------
        path : str or Path
            Mono, at the model's sample rate.

        Returns
        -------
        Spotted

        Raises
        ------
        DataError
            If the file cannot be used.
        """
        rate = self.model.config.sample_rate
        return self.spot(read_pcm(path, sample_rate=rate))

    def spot(self, pcm):
        """Recognise samples.

        The most probable keyword of all windows is reported or, if it does
        not reach the threshold, the most probable class named ``_…_``; a model
        without such classes always hears a keyword.

        Arguments
        ---------
        pcm : np.ndarray of int16, [n]
            Samples.

        Returns
        -------
        Spotted

        Raises
        ------
        ValueError
            If these are no such samples.
        """
        starts, posteriors = self.posteriors(pcm)
        keywords = is_keyword(self.model.labels)
        heard = posteriors * keywords
        sure = keywords.any() and heard.max() >= self.threshold
        if not sure and not keywords.all():
            heard = posteriors * ~keywords
        window, best = np.unravel_index(heard.argmax(), heard.shape)
        return spotted(self.model, best, posteriors[window], starts[window])

    def posteriors(self, pcm):
        """Posteriors of every window, averaged over it and those before.

        A clip shorter than the model's window is zero-padded at the end.

        Arguments
        ---------
        pcm : np.ndarray of int16, [n]
            Samples.

        Returns
        -------
        starts : list of int
            Where each window starts, in samples.
        posteriors : np.ndarray, [windows, classes]
            Means over ``SMOOTHED`` windows, over fewer at the beginning.

        Raises
        ------
        ValueError
            If these are no such samples.
        """
        pcm = _checked(pcm)
        size = self.model.config.samples
        starts = window_starts(len(pcm), self.model.config)
        moving, means = _MovingWindow(self), []
        for start in starts:
            window = pcm[start : start + size]
            window = np.pad(window, (0, size - len(window)))
            means.append(moving.posteriors(window, start))
        return starts, np.stack(means)


def _checked(pcm):
    pcm = np.asarray(pcm)
    if pcm.dtype != np.int16 or pcm.ndim != 1:
        raise ValueError(
            f"pcm must be int16 [n], not {pcm.dtype} {list(pcm.shape)}"
        )
    return pcm


class _MovingWindow:
    """Posteriors of one window after another, averaged.

    What a window has in common with the one before is kept.
    """

    def __init__(self, spotter):
        self.spotter = spotter
        self.recent = deque(maxlen=SMOOTHED)
        self.features = None
        self.start = 0

    def posteriors(self, pcm, start):
        """Means over this window, int16 [samples], and those before it."""
        engine = self.spotter.engine
        hop_length = self.spotter.model.config.hop_length
        hops, rest = divmod(start - self.start, hop_length)
        if self.features is None or rest:
            self.features = engine.features(pcm)
        else:
            self.features = engine.features_next(self.features, pcm, hops)
        self.start = start
        depth = self.spotter.depth
        scores = engine.scores_next(self.features, hops, depth)
        self.recent.append(softmax(scores))
        return np.mean(self.recent, axis=0)


class Listener:
    """Keywords in a stream, as they are heard.

    A keyword is reported in the first window in which its smoothed posterior
    reaches the spotter's threshold; then not again until none of the windows
    that are averaged has heard what that one has.

    Arguments
    ---------
    spotter : Spotter

    Example
    -------
    >>> listener = Listener(Spotter())
    >>> listener.feed(np.zeros(24000, np.int16))
    []
    """

    def __init__(self, spotter):
        self.spotter = spotter
        self.waiting = np.zeros(0, np.int16)
        self.moving = _MovingWindow(spotter)
        self.start = 0
        self.next = [0] * len(spotter.model.labels)

    def feed(self, pcm):
        """Hear more samples.

        Arguments
        ---------
        pcm : np.ndarray of int16, [n]
            What came since the last time, however little.

        Returns
        -------
        list of Spotted
            The keywords heard meanwhile; starts count from the first sample.

        Raises
        ------
        ValueError
            If these are no such samples; then nothing was heard of them.
        """
        pcm = _checked(pcm)
        spotter, model = self.spotter, self.spotter.model
        config, keywords = model.config, is_keyword(model.labels)
        step = window_step(config)
        self.waiting = np.concatenate([self.waiting, pcm])
        heard = []
        while len(self.waiting) >= config.samples:
            window = self.waiting[: config.samples]
            row = self.moving.posteriors(window, self.start)
            best = int((row * keywords).argmax())
            sure = row[best] >= spotter.threshold and keywords[best]
            if sure and self.start >= self.next[best]:
                heard.append(spotted(model, best, row, self.start))
                last = self.start + (SMOOTHED - 1) * step
                self.next[best] = last + config.samples
            self.waiting = self.waiting[step:]
            self.start += step
        return heard


def is_keyword(labels):
    """Which labels are keywords: all but those named ``_…_``, [classes]."""
    return np.array([not label.startswith("_") for label in labels])


def spotted(model, best, posteriors, start):
    """A ``Spotted``, of a class's index and a window's start in samples."""
    row = posteriors.tolist()
    return Spotted(
        model.labels[best],
        row[best],
        start / model.config.sample_rate,
        dict(zip(model.labels, row, strict=True)),
    )


def window_step(config):
    """Samples between two windows: stride² frames, the least it tells apart."""
    return min(config.stride**2 * config.hop_length, config.samples)


def window_starts(length, config):
    """Where the windows of a clip start.

    Every ``window_step``, and one that ends with the clip.

    Arguments
    ---------
    length : int
        Samples of the clip.
    config : Config
        Of the model.

    Returns
    -------
    list of int
    """
    last = max(0, length - config.samples)
    return sorted({*range(0, last + 1, window_step(config)), last})


def softmax(scores):
    """Posteriors of logits, [classes]."""
    exponents = np.exp(scores - scores.max())
    return exponents / exponents.sum()


def clip_features(engine, model, rows):
    """int8 features of every clip of a manifest.

    Arguments
    ---------
    engine : NativeEngine or NumbaEngine
        Runs the front end.
    model : Model
        The model file.
    rows : iterable of dict
        Manifest rows.

    Yields
    ------
    np.ndarray of int8, [frames, n_mels]
    """
    config = model.config
    for row in rows:
        pcm = read_window(row, config.samples, config.sample_rate)
        yield engine.features(pcm)
