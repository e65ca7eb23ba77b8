"""The results table: means, deviations, differences, Markdown, a picture."""

import statistics
from itertools import cycle, product

import numpy as np
from predictions import SHARED

from speechbrain_bifsmn.data.protocols import SILENCE, speaker_of
from speechbrain_bifsmn.metrics import paired_bootstrap, summarize
from speechbrain_bifsmn.plots import pyplot

# The row that is compared with every other, and those rows that it is compared
# with at each of its depths.
BEST = "best"
AT_EACH_DEPTH = "teacher", "fp32", "fp32-twin", "bc-resnet", "ds-cnn"


def compare(cells, names, protocol, seeds):
    """All that results.json holds.

    Arguments
    ---------
    cells, names : dict
        See ``summary``.
    protocol : str
    seeds : list of int
        Those that were asked for.

    Returns
    -------
    dict
        ``protocol``, ``seeds``, number of ``clips``, whether there is
        ``silence`` among them, ``networks`` (see ``summary``) and
        ``differences``.

    Raises
    ------
    ValueError
        If networks were tested on different clips.
    """
    one, *others = [c for by_seed in cells.values() for c in by_seed.values()]
    for other in others:
        if any(other[key] != one[key] for key in SHARED):
            raise ValueError("the networks were tested on different clips")
    networks = summary(cells, names)
    return {
        "protocol": protocol,
        "seeds": seeds,
        "clips": len(one["clips"]),
        "silence": SILENCE in one["labels"],
        "networks": networks,
        "differences": differences(networks, cells),
    }


def summary(cells, names):
    """Each network's figures over its seeds.

    Arguments
    ---------
    cells : dict of str to dict
        By row, by seed, what ``results.measure`` gives.
    names : dict of str to str
        What the table calls each row.

    Returns
    -------
    dict of str to dict
        By name: ``row``, ``form``, ``seeds``, ``parameters`` and ``depths``,
        deepest first: ``accuracy`` and ``accuracy_without_silence``, ``mean``
        and ``std`` in percent, ``recall``, the mean by class that has clips,
        ``bytes`` (the largest file), ``microseconds`` (the median) and
        ``runs``, what ``metrics.summarize`` gives by seed.
    """
    networks = {}
    for row, by_seed in cells.items():
        first = next(iter(by_seed.values()))
        for suffix, form in first["forms"].items():
            networks[", ".join(filter(None, [names[row], suffix]))] = {
                "row": row,
                "form": suffix,
                "seeds": list(by_seed),
                "parameters": first["parameters"],
                "depths": {
                    depth: over_seeds(by_seed, suffix, depth)
                    for depth in form["predicted"]
                },
            }
    return networks


def over_seeds(by_seed, form, depth):
    """One network at one depth, see ``summary``."""
    runs = {
        seed: summarize(
            cell["labels"],
            cell["truth"],
            cell["forms"][form]["predicted"][depth],
        )
        for seed, cell in by_seed.items()
    }
    forms = [cell["forms"][form] for cell in by_seed.values()]
    times = [form["microseconds"] for form in forms]
    sizes = [form["bytes"][depth] for form in forms]

    def spread(key):
        values = [run[key] for run in runs.values()]
        several = len(values) > 1
        return {
            "mean": statistics.mean(values),
            "std": statistics.stdev(values) if several else None,
        }

    recalls = [run["recall"] for run in runs.values()]
    return {
        "accuracy": spread("accuracy"),
        "accuracy_without_silence": spread("accuracy_without_silence"),
        "recall": {
            label: statistics.mean(recall[label] for recall in recalls)
            for label, value in recalls[0].items()
            if value is not None
        },
        "bytes": max(sizes) if all(sizes) else None,
        "microseconds": statistics.median(t[depth] for t in times)
        if all(times)
        else None,
        "runs": runs,
    }


def differences(networks, cells):
    """The best row against every other, and against the teacher by depth.

    Arguments
    ---------
    networks : dict of str to dict
        What ``summary`` gives.
    cells : dict of str to dict
        What it was given.

    Returns
    -------
    list of dict
        ``first``, ``second``: [name, depth]; ``seeds`` that both have;
        ``difference``, ``low`` and ``high``, percentage points.
    """
    table = []
    clips = next(iter(cells[next(iter(cells))].values()))["clips"]
    for (best, ours), (name, theirs) in product(networks.items(), repeat=2):
        seeds = [seed for seed in ours["seeds"] if seed in theirs["seeds"]]
        if ours["row"] != BEST or theirs["row"] == BEST or not seeds:
            continue
        deepest = next(iter(theirs["depths"]))
        depths = list(ours["depths"])
        for depth in depths if theirs["row"] in AT_EACH_DEPTH else depths[:1]:
            difference, low, high = paired_bootstrap(
                correct(cells, ours, seeds, depth),
                correct(cells, theirs, seeds, deepest),
                [speaker_of(clip) for clip in clips],
            )
            table.append(
                {
                    "first": (best, depth),
                    "second": (name, deepest),
                    "seeds": seeds,
                    "difference": difference,
                    "low": low,
                    "high": high,
                }
            )
    return table


def correct(cells, network, seeds, depth):
    """Which clips a network recognises, [seeds, clips]."""
    by_seed = [cells[network["row"]][seed] for seed in seeds]
    return [
        np.equal(
            cell["forms"][network["form"]]["predicted"][depth], cell["truth"]
        )
        for cell in by_seed
    ]


def markdown(report):
    """The report as results.md.

    Arguments
    ---------
    report : dict
        See ``compare``.

    Returns
    -------
    str
    """
    silence = report["silence"]
    seeds = ", ".join(map(str, report["seeds"]))
    lines = [
        f"{report['protocol']}, {report['clips']:,} test clips, seeds {seeds}: "
        "test accuracy in percent, mean ± sample standard deviation.",
        "",
        "| network | depth | accuracy |"
        + (" without silence |" if silence else "")
        + " parameters | bytes | µs a clip |",
        "|---|--:|--:|" + "--:|" * silence + "--:|--:|--:|",
    ]
    for name, network in report["networks"].items():
        if network["seeds"] != report["seeds"]:
            only = ", ".join(map(str, network["seeds"]))
            name += f" (seed{'s' * (len(network['seeds']) > 1)} {only})"
        parameters = f"{network['parameters']:,}"
        for depth, row in network["depths"].items():
            cells = [name, depth, percent(row["accuracy"])]
            if silence:
                cells.append(percent(row["accuracy_without_silence"]))
            size, time = row["bytes"], row["microseconds"]
            cells += [parameters, f"{size:,}" if size else ""]
            cells.append(f"{time:.1f}" if time else "")
            lines.append("| " + " | ".join(cells) + " |")
            name, parameters = "”", ""
    lines += [
        "",
        "Networks with a time are files: 1-bit ones run in C from PCM, fp32 "
        "and int8 ones in ONNX Runtime, and the time is the CPU's for one "
        "clip, features given, one thread. A 1-bit network's first row has "
        "the bytes of all its depths in one file, the others those of that "
        "depth alone. The others run in PyTorch, at 4 bytes a parameter.",
    ]
    if report["differences"]:
        lines += [
            "",
            "Differences in percentage points, with 95 % intervals of a paired "
            "bootstrap over the test speakers, seeds averaged.",
            "",
            "| network | depth | minus | depth | difference | interval |",
            "|---|--:|---|--:|--:|--:|",
        ]
    for row in report["differences"]:
        cells = [
            *(*row["first"], *row["second"]),
            f"{row['difference']:+.2f}",
            f"{row['low']:+.2f} to {row['high']:+.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def percent(figure):
    """Mean and, over several seeds, standard deviation."""
    if figure["std"] is None:
        return f"{figure['mean']:.2f}"
    return f"{figure['mean']:.2f} ± {figure['std']:.2f}"


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
    plt = pyplot()
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
