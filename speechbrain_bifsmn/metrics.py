"""Counts and pictures of how well keywords are recognised."""

from itertools import cycle

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


def plot_confusion(labels, confusion, title, path):
    """Draw a confusion matrix, each row in percent of its class.

    Arguments
    ---------
    labels : list of str
        Class names.
    confusion : list of list of int
        True class by predicted class.
    title : str
        Above the picture.
    path : str or Path
        PNG to write.
    """
    plt = _pyplot()
    confusion = np.asarray(confusion)
    share = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = 2.5 + 0.5 * len(labels)
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels, rotation=45, ha="right")
    axes.set_yticks(ticks, labels)
    axes.set(xlabel="recognised as", ylabel="spoken", title=title)
    if len(labels) <= 15:
        for (i, j), value in np.ndenumerate(share):
            if value >= 0.5:
                color = "white" if value > 50 else "black"
                axes.text(
                    j,
                    i,
                    f"{value:.0f}",
                    color=color,
                    ha="center",
                    va="center",
                    fontsize=8,
                )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_curves(history, path):
    """Draw training curves.

    Arguments
    ---------
    history : list of dict
        One row an epoch: ``epoch``, ``train_loss``, ``valid_loss`` and
        ``valid_accuracy``, a dict of percent by depth.
    path : str or Path
        PNG to write.
    """
    plt = _pyplot()
    epochs = [row["epoch"] for row in history]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.5), layout="constrained"
    )
    for name in ("train_loss", "valid_loss"):
        left.plot(epochs, [row[name] for row in history], label=name[:5])
    left.set(xlabel="epoch", ylabel="loss", yscale="log")
    for depth in history[-1]["valid_accuracy"]:
        values = [row["valid_accuracy"][depth] for row in history]
        right.plot(epochs, values, label=f"depth {depth}")
    right.set(xlabel="epoch", ylabel="validation accuracy, %")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_study(rows, path):
    """Draw accuracy against bytes and against time, one point a network.

    Arguments
    ---------
    rows : dict of str to dict
        By "<binarizer>-<distillation>": ``c``, percent by depth, ``bytes`` and
        ``microseconds`` by depth. Rows without ``bytes`` are left out.
    path : str or Path
        PNG to write.
    """
    plt = _pyplot()
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.5), layout="constrained", sharey=True
    )
    methods = dict.fromkeys(name.rpartition("-")[0] for name in rows)
    colors = plt.get_cmap("tab20")(range(len(methods)))
    kinds = dict.fromkeys(name.rpartition("-")[2] for name in rows)
    markers = dict(zip(kinds, "osD^vP*", strict=False))
    for name, row in rows.items():
        if "bytes" not in row:
            continue
        method, _, kind = name.rpartition("-")
        style = {
            "color": colors[list(methods).index(method)],
            "marker": markers[kind],
        }
        depths = list(row["c"])
        left.plot(row["bytes"] / 1e3, row["c"][depths[0]], **style)
        times = [row["microseconds"][d] for d in depths]
        right.plot(times, [row["c"][d] for d in depths], lw=0.5, **style)
    for method, color in zip(methods, colors, strict=True):
        left.plot([], [], "o", color=color, label=method)
    for kind, marker in markers.items():
        right.plot([], [], marker, color="gray", label=kind)
    left.set(xlabel="kilobytes of the file, all depths", ylabel="accuracy, %")
    right.set(xlabel="µs a clip in C, every depth", xscale="log")
    left.legend(frameon=False, fontsize=7, ncols=2)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_results(networks, path):
    """Draw accuracy against bytes and against time, each network and depth.

    Arguments
    ---------
    networks : dict of str to dict
        By name ``depths``, and by depth ``accuracy``, with ``mean`` and
        ``std`` (None for a single seed), ``bytes`` and ``microseconds`` (None
        leaves it out of one half).
    path : str or Path
        PNG to write.
    """
    plt = _pyplot()
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.5), layout="constrained", sharey=True
    )
    colors = cycle(plt.get_cmap("tab20").colors)
    for color, (name, row) in zip(colors, networks.items(), strict=False):
        style = {"color": color, "lw": 0.7, "ms": 4, "capsize": 3}
        for axes, key, unit in (
            (left, "bytes", 1000),
            (right, "microseconds", 1),
        ):
            points = [
                (
                    depth[key] / unit,
                    depth["accuracy"]["mean"],
                    depth["accuracy"]["std"] or 0,
                )
                for depth in row["depths"].values()
                if depth[key]
            ]
            # Without points too, so that colours agree.
            x, y, spread = zip(*points, strict=True) if points else ([],) * 3
            axes.errorbar(x, y, spread, fmt="o-", label=name, **style)
    for axes in (left, right):
        low, high = axes.dataLim.intervalx
        # Within a decade a logarithmic axis has more labels than room.
        if high > 10 * low:
            axes.set_xscale("log")
            # Labels of all that lies between powers of ten would overlap.
            axes.xaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.xaxis.set_minor_formatter("")
    left.set(
        xlabel="kB, every depth; the deepest with all", ylabel="accuracy, %"
    )
    right.set(xlabel="µs a clip, every depth")
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_det(curves, threshold, path):
    """Draw keywords missed against false alarms, one curve a depth.

    Arguments
    ---------
    curves : dict of int to list of dict
        By depth ``threshold``, ``missed`` (percent) and ``false_alarms`` (an
        hour).
    threshold : float
        The one to mark.
    path : str or Path
        PNG to write.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for depth, rows in curves.items():
        x = [row["false_alarms"] for row in rows]
        y = [row["missed"] for row in rows]
        (line,) = axes.plot(x, y, label=f"depth {depth}")
        marked = min(rows, key=lambda r: abs(r["threshold"] - threshold))
        axes.plot(
            marked["false_alarms"], marked["missed"], "o", c=line.get_color()
        )
    # Logarithmic, but with a place for none.
    axes.set_xscale("symlog", linthresh=1)
    axes.set_yscale("symlog", linthresh=1)
    axes.set(
        xlabel="false alarms an hour",
        ylabel="keywords missed, %",
        title=f"dots: threshold {threshold}",
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def _pyplot():
    """pyplot without a screen, imported only when a picture is drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
