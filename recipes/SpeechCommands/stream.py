#!/usr/bin/env python3
"""How a model file does in a stream: false alarms an hour, keywords missed.

    python stream.py --data_folder=/path/to/speech_commands
    python stream.py --data_folder=... --split valid   # to choose a threshold

The clips of a protocol's split are put end to end, in random order, and heard
with the windows and posteriors of `bifsmn listen`: a window every few frames,
averaged over four. A keyword counts as found if its posterior reaches the
threshold while its clip passes; where one does that is neither in this clip nor
beside it, that is a false alarm. `bifsmn listen` has fewer of these, as it does
not report a keyword again for a second. One word a second without a pause is
harder than most rooms. Draws det.png.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np

from speechbrain_bifsmn.data.audio import read_window
from speechbrain_bifsmn.evaluation import protocol_clips
from speechbrain_bifsmn.files import whole_file
from speechbrain_bifsmn.plots import plot_det
from speechbrain_bifsmn.pretrained import FILE, THRESHOLD
from speechbrain_bifsmn.programs import one_line_errors
from speechbrain_bifsmn.spotting import (
    SMOOTHED,
    Spotter,
    is_keyword,
    window_step,
)

# Of the curves, and of the table.
THRESHOLDS = [k / 200 for k in range(60, 200)]
PRINTED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def measure(path, rows):
    """False alarms and misses of a model file at all its depths.

    Arguments
    ---------
    path : str or Path
        Model file.
    rows : list of dict
        Manifest rows.

    Returns
    -------
    dict of int to list of dict
        By depth what ``rates`` gives, at each of ``THRESHOLDS``.
    """
    curves = {}
    for depth in Spotter(path).model.depths:
        spotter = Spotter(path, depth)
        heard = hear(spotter, rows)
        labels = spotter.model.labels
        curves[depth] = [rates(labels, *heard, t) for t in THRESHOLDS]
    return curves


def hear(spotter, rows, seed=0):
    """Let a spotter hear clips end to end.

    Arguments
    ---------
    spotter : Spotter
    rows : list of dict
        Manifest rows.
    seed : int
        Of their order.

    Returns
    -------
    list of int
        For each clip, in the order heard, the index of its label.
    np.ndarray, [clips, classes]
        The highest posterior of each class in windows whose middle lies in the
        clip.
    float
        Hours heard.
    """
    config = spotter.model.config
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    window = config.samples, config.sample_rate
    pcm = np.concatenate([read_window(row, *window) for row in rows])
    starts, posteriors = spotter.posteriors(pcm)
    # The middle of all windows that were averaged, the first of silence.
    lag = (SMOOTHED - 1) * window_step(config) // 2
    middles = np.array(starts) - lag + config.samples // 2
    clip = np.maximum(middles, 0) // config.samples
    highest = np.zeros((len(rows), posteriors.shape[1]))
    np.maximum.at(highest, clip, posteriors)
    labels = [spotter.model.labels.index(row["label"]) for row in rows]
    return labels, highest, len(pcm) / config.sample_rate / 3600


def rates(labels, truth, highest, hours, threshold):
    """Percent of keywords missed, and false alarms an hour.

    Arguments
    ---------
    labels : list of str
        Class names, by index.
    truth, highest, hours
        What ``hear`` gives.
    threshold : float

    Returns
    -------
    dict
        ``threshold``, ``missed``, ``false_alarms``.
    """
    keyword = is_keyword(labels)
    found = (highest >= threshold) & keyword
    own = np.eye(len(labels), dtype=bool)[truth]
    near = own.copy()
    near[1:] |= own[:-1]
    near[:-1] |= own[1:]
    spoken = keyword[truth]
    hits = (found & own).any(1)[spoken]
    return {
        "threshold": threshold,
        "missed": 100 * (1 - hits.mean()),
        "false_alarms": int((found & ~near).sum()) / hours,
    }


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_folder", required=True)
    parser.add_argument(
        "--model", default=str(FILE), help="default: the one in the package"
    )
    parser.add_argument(
        "--split", default="test", choices=["valid", "test"], help="(test)"
    )
    parser.add_argument(
        "-o", "--output", default=".", help="folder for det.png (.)"
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main():
    """Measure every depth; print a table, draw the curves."""
    args = parse_arguments()
    model = Spotter(args.model).model
    _, _, rows = protocol_clips(args.data_folder, model, split=args.split)
    report = measure(args.model, rows)
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        config = model.config
        minutes = len(rows) * config.samples / config.sample_rate / 60
        print(f"{len(rows)} {args.split} clips, {minutes:.0f} minutes")
        print_table(report)
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(output / "det.png") as part:
            plot_det(report, THRESHOLD, part)
    except ImportError:
        message = "no picture: pip install matplotlib draws it"
        print(message, file=sys.stderr)


def print_table(report):
    """The report at some thresholds."""
    print("| depth | threshold | missed, % | false alarms an hour |")
    print("|--:|--:|--:|--:|")
    for depth, curve in report.items():
        for row in curve:
            if row["threshold"] in PRINTED:
                print(
                    f"| {depth} | {row['threshold']:.2f} "
                    f"| {row['missed']:.1f} | {row['false_alarms']:.0f} |"
                )


if __name__ == "__main__":
    with one_line_errors():
        main()
