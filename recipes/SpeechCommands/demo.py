#!/usr/bin/env python3
"""The whole chain in one command: data, teacher, 1-bit student, file, C.

    python demo.py                         # synthetic speech, minutes
    python demo.py --data speech_commands  # real clips, within 40 minutes

Each step is a command that a user would give, printed before it runs; rerun
to resume. The table at the end is also written to <output>/report.json.
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

# First, so that torchaudio can be imported beside a CPU torch.
import speechbrain_bifsmn  # noqa: F401  isort: skip
import torch
from runs import ENVIRONMENT, HERE, HPARAMS

from speechbrain_bifsmn.data.audio import read_window
from speechbrain_bifsmn.data.manifest import read_manifest
from speechbrain_bifsmn.data.protocols import SILENCE, UNKNOWN
from speechbrain_bifsmn.data.synthesis import synthesize
from speechbrain_bifsmn.evaluation import evaluate_file
from speechbrain_bifsmn.export.folder import export_folder
from speechbrain_bifsmn.inference import KeywordSpotter
from speechbrain_bifsmn.programs import one_line_errors
from speechbrain_bifsmn.spotting import Spotter

KEYWORDS = ["yes", "no", "up", "down", "left", "right", "stop", "go"]
OTHERS = ["bed", "cat", "happy", "house", "seven", "marvin", "tree", "wow"]
LABELS = [*KEYWORDS, UNKNOWN, SILENCE]
# A few minutes on two cores; everything else is the recipe's default.
SYNTHETIC = {
    "teacher": ["--number_of_epochs=7"],
    "student": ["--number_of_epochs=14"],
    "both": [
        "--protocol=words",
        f"--words=[{', '.join(LABELS)}]",
        "--batch_size=32",
        "--feature_copies=4",
        "--feature_augment=[]",
    ],
}
# About half the recipes' epochs, to stay within 40 minutes on two busy cores.
REAL = {
    "teacher": ["--number_of_epochs=24"],
    "student": ["--number_of_epochs=30"],
    "both": [],
}


def train(yaml, options):
    """Run train.py as a user would."""
    command = [
        sys.executable,
        str(HERE / "train.py"),
        str(HPARAMS / yaml),
        *options,
    ]
    shown = [
        os.path.relpath(part) if "/" in part and "=" not in part else part
        for part in command[1:]
    ]
    print("\n$ python " + shlex.join(shown), flush=True)
    environment = {**ENVIRONMENT, **os.environ}
    if subprocess.run(command, env=environment).returncode:
        sys.exit(f"error: training with {yaml} failed; see the lines above")


def time_networks(spotter, exported, features):
    """Median microseconds of one clip, PyTorch and file in turn.

    Features are given, one thread. Returns {depth: {"torch": µs, "c": µs}}.
    """
    torch.set_num_threads(1)
    model = spotter.mods.model
    step = model.conv1.step
    inputs = [torch.from_numpy(f).float()[None] * step for f in features]

    def laps(run, clips, depth):
        """Microseconds of each call."""
        for clip in clips:
            started = time.perf_counter()
            run(clip, depth=depth)
            yield 1e6 * (time.perf_counter() - started)

    table = {}
    with torch.no_grad():
        for depth in exported.model.depths:
            theirs, ours = [], []
            # By turns, since machines do not keep their clock.
            for start in range(0, len(features), 20):
                part = slice(start, start + 20)
                theirs += laps(model, inputs[part], depth)
                ours += laps(exported.engine.scores, features[part], depth)
            table[str(depth)] = {
                "torch": statistics.median(theirs),
                "c": statistics.median(ours),
            }
    return table


def print_table(report):
    """The report as a table."""
    size = report["bytes"]
    print(f"\n{report['protocol']}, {report['clips']} test clips")
    print(f"teacher (fp32, all layers): {report['teacher']:.2f} %")
    print(f"{'':8}{'accuracy, %':^24}{'µs a clip, one thread':^30}")
    print(
        f"{'depth':8}{'PyTorch':>10}{'C':>10}"
        f"{'PyTorch':>16}{'C':>10}{'ratio':>8}"
    )
    for depth, row in report["depths"].items():
        ratio = row["torch_us"] / row["c_us"]
        print(
            f"{depth:8}{row['student']:10.2f}{row['file']:10.2f}"
            f"{row['torch_us']:16.0f}{row['c_us']:10.1f}{ratio:7.0f}x"
        )
    print(f"front end (PCM to log-mel) in C: {report['features_us']:.0f} µs")
    print(
        f"fp32 network, all depths: {size['fp32']:,} bytes; exported file: "
        f"{size['file']:,} bytes, {size['fp32'] / size['file']:.1f}x smaller"
    )
    print(f"engine: {report['engine']}; {report['minutes']:.1f} minutes in all")


def main(arguments):
    """Run the chain and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", help="folder of real Speech Commands clips")
    parser.add_argument("--output", default="results/demo", type=Path)
    args = parser.parse_args(arguments)
    started = time.perf_counter()
    output = args.output / ("real" if args.data else "synthetic")
    if args.data:
        data, settings, protocol = args.data, REAL, "GSC-10"
    else:
        data, settings, protocol = output / "speech", SYNTHETIC, "words"
        if not data.exists():
            print(f"synthesizing speech to {data}", flush=True)
            synthesize(data, KEYWORDS, OTHERS, speakers=300, clips_per_word=400)

    # Quoted, since what follows = is YAML, where " #" begins a comment.
    shared = [
        f"--data_folder={json.dumps(str(data))}",
        f"--results_folder={json.dumps(str(output))}",
    ]
    shared += settings["both"]
    if not sys.stderr.isatty():
        shared.append("--noprogressbar")
    train("dfsmn.yaml", [*shared, *settings["teacher"]])
    train("bifsmn.yaml", [*shared, *settings["student"]])
    prepared = output / protocol
    teacher, student = prepared / "dfsmn/1", prepared / "bifsmn/1"
    print(f"\n$ bifsmn export {student} -o {output / 'exported'}", flush=True)
    exported = export_folder(student, output / "exported")

    spotter = KeywordSpotter.from_hparams(student)
    listener = Spotter(exported["file"])
    config = listener.model.config
    rows = read_manifest(student / "test.csv")
    features, front_end = [], []
    for row in rows[:200]:
        pcm = read_window(row, config.samples, config.sample_rate)
        begin = time.perf_counter()
        features.append(listener.engine.features(pcm))
        front_end.append(time.perf_counter() - begin)
    times = time_networks(spotter, listener, features)
    in_c = evaluate_file(exported["file"], rows)
    graph = json.loads((student / "results.json").read_text())["depths"]
    best = json.loads((teacher / "results.json").read_text())["depths"]
    report = {
        "protocol": "synthetic speech" if protocol == "words" else protocol,
        "clips": in_c["clips"],
        "engine": in_c["engine"],
        "teacher": next(iter(best.values()))["accuracy"],
        "depths": {
            depth: {
                "student": graph[depth]["accuracy"],
                "file": in_c["depths"][depth]["accuracy"],
                "torch_us": times[depth]["torch"],
                "c_us": times[depth]["c"],
            }
            for depth in graph
        },
        "features_us": 1e6 * statistics.median(front_end),
        "bytes": {
            "fp32": 4 * sum(p.numel() for p in spotter.mods.parameters()),
            "file": exported["bytes"],
        },
        "parity": exported["parity"],
        "minutes": (time.perf_counter() - started) / 60,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "report.json").write_text(json.dumps(report, indent=1))
    print_table(report)


if __name__ == "__main__":
    # As when interrupted: a training that runs is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with one_line_errors(resumes=True):
        main(sys.argv[1:])
