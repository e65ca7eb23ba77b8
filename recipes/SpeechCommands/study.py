#!/usr/bin/env python3
"""Every binarizer with every distillation, on one network and one budget.

    python study.py --data_folder=speech_commands --epochs 6 --jobs 2

Trains the teacher if there is none, then each pair from it, one process each;
exports the result and measures the file in C. Rerun to resume: what is done is
kept. Writes study.md (a table), study.json and study.png (accuracy against
bytes and against time) to <results_folder>/<protocol>/study/<epochs>/<seed>.
Its data are the YAMLs' own, not those of results.py: give it a folder of its
own.
"""

import argparse
import json
import signal
import sys
from functools import partial
from pathlib import Path

# First, so that torchaudio can be imported beside a CPU torch.
import speechbrain_bifsmn  # noqa: F401  isort: skip
import numpy as np
from runs import Run, microseconds, stop, train_all
from tqdm import tqdm

from speechbrain_bifsmn.data.manifest import read_manifest
from speechbrain_bifsmn.data.protocols import PROTOCOLS
from speechbrain_bifsmn.evaluation import evaluate_file
from speechbrain_bifsmn.export.fold import ExportError
from speechbrain_bifsmn.export.folder import export_folder
from speechbrain_bifsmn.files import whole_file
from speechbrain_bifsmn.onebit import NotOneBitError
from speechbrain_bifsmn.plots import pyplot
from speechbrain_bifsmn.programs import one_line_errors
from speechbrain_bifsmn.quantizers import ACTIVATIONS
from speechbrain_bifsmn.spotting import Spotter, clip_features

OFF = {"hed_weight": 0, "fid_weight": 0, "logit_weight": 0}
DISTILLATIONS = {
    "none": {},
    "hed": {"hed_weight": 0.01},
    "fid": {"fid_weight": 0.01},
    "logits": {"logit_weight": 1.0},
}


def measure(folder):
    """The exported file: bytes, accuracy and microseconds in C by depth.

    One that cannot be exported has no file: the reason stands in its place.
    """
    graph = json.loads((folder / "results.json").read_text())["depths"]
    row = {"pytorch": {d: r["accuracy"] for d, r in graph.items()}}
    try:
        # The tests compare every method's stages; a few clips will do here.
        exported = export_folder(folder, folder / "exported", parity_clips=4)
    except (NotOneBitError, ExportError) as error:
        return row | {"refused": str(error)}
    rows = read_manifest(folder / "test.csv")
    accuracy = evaluate_file(exported["file"], rows)["depths"]
    spotter = Spotter(exported["file"])
    engine, model = spotter.engine, spotter.model
    (features,) = clip_features(engine, model, rows[:1])
    times = {
        str(depth): microseconds(partial(engine.scores, features, depth))
        for depth in model.depths
    }
    return row | {
        "bytes": exported["bytes"],
        "c": {d: r["accuracy"] for d, r in accuracy.items()},
        "microseconds": times,
    }


def table(rows, args):
    """study.md: one line a binarizer at the full depth; study.json has all."""
    depth = next(iter(rows[next(iter(rows))]["pytorch"]))
    kinds = args.distillations

    def cell(row):
        """Accuracy of the file; in brackets of PyTorch, if refused."""
        if "refused" in row:
            return f"({row['pytorch'][depth]:.2f})"
        return f"{row['c'][depth]:.2f}"

    lines = [
        f"{args.protocol}, {args.epochs} epochs, seed {args.seed}: test "
        f"accuracy in percent of the exported file in C, depth {depth}.",
        "",
        f"| binarizer | {' | '.join(kinds)} | bytes | µs a clip |",
        "|---|" + "---|" * (len(kinds) + 2),
    ]
    for method in args.methods:
        ours = [rows[f"{method}-{kind}"] for kind in kinds]
        size, us = "not 1-bit", ""
        files = [row for row in ours if "bytes" in row]
        if files:
            size = f"{files[0]['bytes']:,}"
            us = f"{min(row['microseconds'][depth] for row in files):.1f}"
        cells = [method, *map(cell, ours), size, us]
        lines.append("| " + " | ".join(cells) + " |")
    means = [
        np.mean([rows[f"{m}-{kind}"]["pytorch"][depth] for m in args.methods])
        for kind in kinds
    ]
    cells = ["mean, in PyTorch", *(f"{mean:.2f}" for mean in means), "", ""]
    lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plan(args):
    """The folder of the tables, and the runs: the teacher, then every pair."""
    prepared = args.results_folder / args.protocol
    study = prepared / "study" / str(args.epochs) / str(args.seed)
    shared = {
        "data_folder": args.data_folder,
        "results_folder": str(args.results_folder),
        "protocol": args.protocol,
        "classes": len(PROTOCOLS[args.protocol].labels),
        "seed": args.seed,
    }
    folder = prepared / "dfsmn" / str(args.seed)
    teacher = Run("teacher", args.seed, "dfsmn.yaml", shared, folder, [])
    runs = [teacher]
    for method in args.methods:
        for kind in args.distillations:
            name = f"{method}-{kind}"
            changed = {
                **shared,
                **OFF,
                **DISTILLATIONS[kind],
                "binarizer": method,
                "number_of_epochs": args.epochs,
            }
            teachers = [] if kind == "none" else [teacher]
            output = study / name
            runs.append(
                Run(name, args.seed, "bifsmn.yaml", changed, output, teachers)
            )
    return study, runs


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
    plt = pyplot()
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


def parse_arguments(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--results_folder", default="results/study", type=Path)
    parser.add_argument("--protocol", default="GSC-10", choices=PROTOCOLS)
    parser.add_argument("--epochs", default=20, type=int, help="of each run")
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--jobs", default=1, type=int, help="runs at once")
    parser.add_argument(
        "--methods", nargs="+", default=list(ACTIVATIONS), choices=ACTIVATIONS
    )
    parser.add_argument(
        "--distillations",
        nargs="+",
        default=list(DISTILLATIONS),
        choices=DISTILLATIONS,
    )
    args = parser.parse_args(arguments)
    for name in "epochs", "jobs":
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be positive")
    return args


def main(arguments):
    """Train, export and measure every pair."""
    args = parse_arguments(arguments)
    study, runs = plan(args)
    trained = train_all(runs, args.jobs)
    if len(trained) < len(runs):
        raise ValueError(
            f"{len(runs) - len(trained)} of {len(runs)} runs failed, see "
            "above; the same command tries them again"
        )
    # One after another, and nothing beside: time is measured.
    rows = {
        run.row: measure(run.folder)
        for run in tqdm(trained[1:], "measured", unit="run")
    }
    with whole_file(study / "study.json") as part:
        part.write_text(json.dumps(rows, indent=1))
    text = table(rows, args)
    with whole_file(study / "study.md") as part:
        part.write_text(text)
    print(text)
    try:
        plot_study(rows, study / "study.png")
    except ImportError:
        message = "no picture: pip install matplotlib draws it"
        print(message, file=sys.stderr)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    with one_line_errors(resumes=True):
        main(sys.argv[1:])
