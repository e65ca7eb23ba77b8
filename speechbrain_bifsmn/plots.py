"""Pictures: confusion matrix, training curves, DET curve."""

import numpy as np


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
    plt = pyplot()
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
    plt = pyplot()
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
    plt = pyplot()
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


def pyplot():
    """pyplot without a screen, imported only when a picture is drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
