"""The results table's figures: means, deviations, differences, Markdown.

And the file of what networks said to the test clips, from which the figures
can be computed again, beside those of other networks, without their training.
"""

import json
import statistics
from itertools import product

import numpy as np

from speechbrain_bifsmn.data.protocols import SILENCE
from speechbrain_bifsmn.files import whole_file
from speechbrain_bifsmn.metrics import paired_bootstrap, summarize

# The row that is compared with every other, and those rows that it is compared
# with at each of its depths.
BEST = "best"
AT_EACH_DEPTH = "teacher", "fp32", "fp32-twin", "bc-resnet", "ds-cnn"
# What all networks of a comparison share.
SHARED = ("labels", "clips", "truth")
# Of a class index in the file; enough for any protocol.
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def write_predictions(cells, protocol, path):
    """Keep what networks said, one character for each clip and depth.

    Arguments
    ---------
    cells : dict
        See ``summary``.
    protocol : str
    path : Path
        JSON file.
    """

    def text(indices):
        return "".join(DIGITS[i] for i in indices)

    def compact(cell):
        forms = {
            name: form
            | {"predicted": {d: text(p) for d, p in form["predicted"].items()}}
            for name, form in cell["forms"].items()
        }
        return {"parameters": cell["parameters"], "forms": forms}

    one = next(iter(next(iter(cells.values())).values()))
    data = {"protocol": protocol, **{key: one[key] for key in SHARED}}
    data["truth"] = text(data["truth"])
    data["networks"] = {
        row: {seed: compact(cell) for seed, cell in by_seed.items()}
        for row, by_seed in cells.items()
    }
    with whole_file(path) as part:
        part.write_text(json.dumps(data, indent=0))


def read_predictions(path, protocol):
    """What ``write_predictions`` kept.

    Arguments
    ---------
    path : Path
    protocol : str
        That it has to be of.

    Returns
    -------
    dict
        ``cells``, see ``summary``.

    Raises
    ------
    ValueError
        If it is no such file, or of another protocol.
    """
    try:
        data = json.loads(path.read_text())
        theirs = data["protocol"]
        cells = _cells(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not what results.py writes beside results.md, or damaged "
            f"({type(error).__name__}: {error})"
        ) from error
    if theirs != protocol:
        raise ValueError(f"{path}: is of {theirs}, not of {protocol}")
    return cells


def _cells(data):
    """Cells from the file's JSON, refusing what has another shape."""
    labels, clips = data["labels"], data["clips"]
    digits = DIGITS[: len(labels)]

    def need(condition, text):
        if not condition:
            raise ValueError(text)

    def indices(text):
        need(len(text) == len(clips), f"{len(text)} of {len(clips)} clips")
        return [digits.index(x) for x in text]

    def form(kept):
        predicted = {d: indices(x) for d, x in kept["predicted"].items()}
        sizes, times = kept["bytes"], kept["microseconds"]
        need(predicted and predicted.keys() == sizes.keys(), "bytes by depth")
        need(not times or predicted.keys() == times.keys(), "times by depth")
        return {"bytes": sizes, "microseconds": times, "predicted": predicted}

    def cell(kept):
        forms = {name: form(x) for name, x in kept["forms"].items()}
        return shared | {"parameters": int(kept["parameters"]), "forms": forms}

    shared = {"labels": labels, "clips": clips, "truth": indices(data["truth"])}
    cells = {
        row: {int(seed): cell(kept) for seed, kept in by_seed.items()}
        for row, by_seed in data["networks"].items()
    }
    need(clips and cells, "no clips or no networks")
    for row, by_seed in cells.items():
        shapes = [
            {name: list(x["predicted"]) for name, x in c["forms"].items()}
            for c in by_seed.values()
        ]
        need(shapes and shapes[0], f"{row} without seeds or forms")
        need(shapes == shapes[:1] * len(shapes), f"{row}'s seeds differ")
    return cells


def on_common_clips(cells):
    """Networks tested on different clips, on those that all have heard.

    Somebody's archive may have more, or fewer, of a protocol's clips.

    Arguments
    ---------
    cells : dict
        See ``summary``.

    Returns
    -------
    dict
        Likewise.

    Raises
    ------
    ValueError
        If no clip is common to all, or the classes differ.
    """
    every = [cell for by_seed in cells.values() for cell in by_seed.values()]
    if any(cell["labels"] != every[0]["labels"] for cell in every):
        raise ValueError("the networks know different classes")
    common = set.intersection(*(set(cell["clips"]) for cell in every))
    if not common:
        raise ValueError("there is no clip that all networks were tested on")

    def cut(cell):
        kept = sorted(
            (x, i) for i, x in enumerate(cell["clips"]) if x in common
        )

        def pick(values):
            return [values[i] for _, i in kept]

        forms = {
            name: form
            | {"predicted": {d: pick(p) for d, p in form["predicted"].items()}}
            for name, form in cell["forms"].items()
        }
        heard = {"clips": pick(cell["clips"]), "truth": pick(cell["truth"])}
        return cell | heard | {"forms": forms}

    return {
        row: {seed: cut(cell) for seed, cell in by_seed.items()}
        for row, by_seed in cells.items()
    }


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
        "and int8 ones in ONNX Runtime, and the time is that of one clip, "
        "features given, one thread. A 1-bit network's first row has the bytes "
        "of all its depths in one file, the others those of that depth alone. "
        "The others run in PyTorch, at 4 bytes a parameter.",
    ]
    if report["differences"]:
        lines += [
            "",
            "Differences in percentage points, with 95 % intervals of a paired "
            "bootstrap over the test clips, seeds averaged.",
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
