"""How well keywords are recognised."""

import numpy as np

from speechbrain_bifsmn.data.protocols import SILENCE


def summarize(labels, truth, predictions):
    """Accuracy and recall of one set of predictions.

    Arguments
    ---------
    labels : list of str
        Class names, by index.
    truth, predictions : sequence of int, [clips]
        True and predicted classes.

    Returns
    -------
    dict
        ``accuracy``, ``accuracy_without_silence`` and ``balanced_accuracy``
        (the mean of the recalls) in percent, ``recall`` of each class in
        percent, ``confusion`` as a list of rows, true class by predicted
        class. What has no clips is None.

    Example
    -------
    >>> summarize(["yes", "no"], [0, 0, 1, 1], [0, 1, 1, 1])["accuracy"]
    75.0
    """
    truth = np.asarray(truth, int)
    predictions = np.asarray(predictions, int)
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth, predictions), 1)
    counts = confusion.sum(1)
    right = confusion.diagonal()
    spoken = np.array([label != SILENCE for label in labels])
    recalls = right[counts > 0] / counts[counts > 0]
    return {
        "accuracy": _percent(right.sum(), counts.sum()),
        "accuracy_without_silence": _percent(
            right[spoken].sum(), counts[spoken].sum()
        ),
        "balanced_accuracy": _percent(recalls.sum(), len(recalls)),
        "recall": {
            label: _percent(r, n)
            for label, r, n in zip(labels, right, counts, strict=True)
        },
        "confusion": confusion.tolist(),
    }


def _percent(part, whole):
    return 100.0 * float(part) / int(whole) if whole else None


def paired_bootstrap(first, second, speakers, resamples=10000, seed=0):
    """Difference of two networks' accuracies, with a 95 % interval.

    Speakers are drawn anew, with replacement and the same ones for both
    networks, each with all clips of theirs, which are not independent; over a
    network's seeds its score on a clip is averaged. So the interval tells how
    the difference varies with the test speakers, for these trained networks.
    Percentile interval, Efron & Tibshirani, An Introduction to the Bootstrap,
    1993, chapters 8 and 13.

    Arguments
    ---------
    first, second : array of bool, [seeds, clips]
        Whether each clip was recognised; the clips are the same.
    speakers : sequence, [clips]
        Who speaks in each clip.
    resamples : int
        Number of draws.
    seed : int
        Of the draws.

    Returns
    -------
    (float, float, float)
        Accuracy of ``first`` minus that of ``second`` and the ends of the
        interval, in percentage points.

    Example
    -------
    >>> paired_bootstrap([[True, False]], [[True, False]], ["ann", "bob"])
    (0.0, 0.0, 0.0)
    """
    gain = 100 * (np.mean(first, axis=0) - np.mean(second, axis=0))
    rng = np.random.default_rng(seed)
    _, who = np.unique(speakers, return_inverse=True)
    counts, sums = np.bincount(who), np.bincount(who, gain)
    n = len(counts)
    drawn = (rng.integers(n, size=n) for _ in range(resamples))
    means = [sums[i].sum() / counts[i].sum() for i in drawn]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(gain.mean()), float(low), float(high)
