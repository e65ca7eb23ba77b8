#!/usr/bin/env python3
"""The results table: every network, several seeds, one command.

    python results.py --data_folder=speech_commands --jobs 2 --seeds 1 2 3
    python results.py --data_folder=speech_commands --rows teacher best
    python results.py --data_folder=speech_commands --rows mine \\
        --beside predictions/GSC-10.json
    python results.py --data_folder=recordings --rows best --seeds 1 \\
        --words lamp heating _unknown_ _silence_

Trains what is not trained yet, teachers before the students that learn from
them, one process each; runs every network on every test clip at every depth,
1-bit ones as exported files in C, from PCM; and compares them. Rerun to
resume: what is done is kept. Rows are edited at the top of this file.

Writes to <results_folder>/<protocol>:
  results.md    the table, and differences with 95 % intervals
  results.json  the same and more: recall, confusion, every seed
  results.png   accuracy against bytes and against time
  predictions.json   what each network said to each test clip, for --beside
and into each run's folder train.log and measured.json: what that network said
to each test clip, its bytes and times.
"""

import argparse
import hashlib
import json
import signal
import sys
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

# First, so that torchaudio can be imported beside a CPU torch.
import speechbrain_bifsmn  # noqa: F401  isort: skip
import torch
from comparison import BEST, compare, markdown, plot_results
from predictions import on_common_clips, read_predictions, write_predictions
from runs import (
    HPARAMS,
    Run,
    attempt,
    is_trained,
    microseconds,
    stop,
    train_all,
)
from tqdm import tqdm

from speechbrain_bifsmn.data.audio import read_window
from speechbrain_bifsmn.data.features import read_clip
from speechbrain_bifsmn.data.generated import GENERATED
from speechbrain_bifsmn.data.manifest import read_manifest
from speechbrain_bifsmn.data.protocols import PROTOCOLS, get_protocol
from speechbrain_bifsmn.export.check import check_one_bit
from speechbrain_bifsmn.export.folder import (
    export_folder,
    fold_trained,
    training_facts,
)
from speechbrain_bifsmn.files import whole_file
from speechbrain_bifsmn.hyperparameters import settings
from speechbrain_bifsmn.inference import KeywordSpotter
from speechbrain_bifsmn.lobes.single import SingleDepth
from speechbrain_bifsmn.onebit import NotOneBitError
from speechbrain_bifsmn.programs import one_line_errors
from speechbrain_bifsmn.spotting import Spotter

# What --rows calls it: name in the table, YAML in hparams/, options.
ROWS = {
    "teacher": ("teacher, DFSMN fp32", "dfsmn.yaml", {}),
    "fp32": ("DFSMN fp32, teacher of the best", "dfsmn_best.yaml", {}),
    # What the best one is, but in full precision: as long a training, from and
    # by the same teachers.
    "fp32-twin": (
        "DFSMN fp32, taught as the best",
        "dfsmn_best.yaml",
        {
            "start_from_teacher": True,
            "teacher_folder": [f"dfsmn_best/{seed}" for seed in (1, 2, 3)],
            "teacher_conv_channels": [32, 128],
            "teacher_expansion": 128,
        },
    ),
    "bifsmn": ("BiFSMN, 1-bit", "bifsmn_paper.yaml", {}),
    "bifsmnv2": ("BiFSMNv2, 1-bit", "bifsmnv2_paper.yaml", {}),
    "as-released": (
        "as released, real weights, taught as the best",
        "bifsmn_best.yaml",
        {"binarizer": "as-released"},
    ),
    "best": ("best, 1-bit", "bifsmn_best.yaml", {}),
    "bc-resnet": ("BC-ResNet-1", "bcresnet.yaml", {}),
    "ds-cnn": ("DS-CNN", "dscnn.yaml", {}),
}
# Beside results.md, what all networks said.
PREDICTIONS = "predictions.json"
# The rows that teach others, and are trained as long as their YAMLs say.
TEACHERS = "teacher", "fp32"
# Every other row takes these from the best one's YAML: the same data, ...
DATA = (
    "unknown_percentage",
    "silence_percentage",
    *GENERATED,
    "epoch_clips",
)
# ... and, but for those teachers, the same budget.
BUDGET = "number_of_epochs"


def plan(args):
    """The runs to be measured and the teachers they need.

    Arguments
    ---------
    args : argparse.Namespace
        The command line.

    Returns
    -------
    list of Run
        First those without a teacher, then those that they teach, and so on:
        with several jobs hardly any waits.
    """
    prepared = args.results_folder / args.protocol
    labels = get_protocol(args.protocol, args.words).labels
    best = settings(HPARAMS / ROWS[BEST][1], "data_folder: x")
    data = {key: best[key] for key in DATA}
    # Who teaches: the first row of a YAML.
    rows = {yaml: row for row, (_, yaml, _) in reversed(ROWS.items())}

    @cache
    def run(row, seed):
        _, yaml, options = ROWS[row]
        shared = {
            "data_folder": str(args.data_folder),
            "results_folder": str(args.results_folder),
            "protocol": args.protocol,
            "classes": len(labels),
            "seed": seed,
            **data,
            **({"words": labels} if args.words else {}),
        }
        if row not in TEACHERS:
            shared[BUDGET] = best[BUDGET]
        shared |= options
        named = settings(HPARAMS / yaml, json.dumps(shared))
        folders = named.get("teacher_folder", [])
        # A single one is of the student's own seed.
        single = isinstance(folders, str)
        if single:
            folders = [Path(folders).with_name(str(seed))]
        # A folder is called by its YAML and its seed.
        names = [Path(str(folder)).parts[-2:] for folder in folders]
        teachers = [run(rows[f"{yml}.yaml"], int(end)) for yml, end in names]
        if named.get("start_from_teacher"):
            # From the first; so each student starts from another one.
            teachers.sort(key=lambda teacher: teacher.seed != seed)
        if teachers:
            folders = [str(teacher.folder) for teacher in teachers]
            shared["teacher_folder"] = folders[0] if single else folders
        name = yaml.removesuffix(".yaml") + (f"-{row}" if options else "")
        folder = prepared / name / str(seed)
        return Run(row, seed, yaml, shared, folder, teachers)

    def with_teachers(run):
        before = [x for teacher in run.teachers for x in with_teachers(teacher)]
        return [*before, run]

    def generation(run):
        return 1 + max(map(generation, run.teachers), default=0)

    runs = [run(row, seed) for row in args.rows for seed in args.seeds]
    once = dict.fromkeys(x for r in runs for x in with_teachers(r))
    return sorted(once, key=generation)


def one_bit(folder, trained):
    """A 1-bit network as it is deployed: the exported file, in C.

    Arguments
    ---------
    folder : Path
        The run's.
    trained : KeywordSpotter
        Its trained folder.

    Returns
    -------
    list of tuple
        As ``real`` gives it.
    """
    # The tests compare every method's stages; a few clips will do here.
    exported = export_folder(folder, folder / "exported", parity_clips=4)
    spotter = Spotter(exported["file"])
    engine, config = spotter.engine, spotter.model.config
    deepest, *thinner = spotter.model.depths
    sizes = {str(deepest): exported["bytes"]}
    facts = training_facts(folder)
    for depth in thinner:
        # What `bifsmn export --depths` writes.
        thin = fold_trained(trained.mods.model.thinned([depth]), trained, facts)
        sizes[str(depth)] = len(thin.to_bytes())

    def features(row):
        pcm = read_window(row, config.samples, config.sample_rate)
        return engine.features(pcm)

    return [("", sizes, True, features, engine.scores)]


def real(spotter):
    """A network with real weights: as PyTorch runs it.

    Arguments
    ---------
    spotter : KeywordSpotter
        The trained folder.

    Returns
    -------
    list of tuple
        For each form that it is deployed in: what to add to its name; bytes
        by depth; whether it is a file, to be timed; features of a manifest
        row; logits of features at a depth.
    """
    model = spotter.mods.model

    def logits(features, depth):
        return model(features, depth=depth)[0]

    sizes = dict.fromkeys(map(str, model.depths))
    parameters = sum(p.numel() for p in model.parameters())
    sizes[str(model.depths[0])] = 4 * parameters
    return [("", sizes, False, partial(front_end, spotter), logits)]


def front_end(spotter, row):
    """Features of a manifest row, [1, frames, n_mels], by PyTorch."""
    hparams = spotter.hparams
    clip = read_clip(row, hparams.samples, hparams.sample_rate)
    return spotter.mods.log_mel(clip[None])


def onnx(folder, spotter, row):
    """What others would deploy: ONNX Runtime, fp32 and int8.

    Arguments
    ---------
    folder : Path
        The run's.
    spotter : KeywordSpotter
        Its trained folder.
    row : dict
        Of the manifest: a clip to measure time with.

    Returns
    -------
    dict
        ``forms``, see ``measure``.
    """
    # Only these rows need the extra that it needs.
    from speechbrain_bifsmn.export.onnx import OnnxNetwork, evaluate_onnx

    depth = str(spotter.mods.model.depths[0])
    features = front_end(spotter, row).numpy()
    forms = {}
    for name, form in evaluate_onnx(folder, folder, folder / "onnx").items():
        network = OnnxNetwork(folder / f"onnx/{name}.onnx")
        network.feed(features)
        forms[name] = {
            "bytes": {depth: form["bytes"]},
            "microseconds": {depth: microseconds(network.run)},
            "predicted": {depth: form["predictions"]},
        }
    return forms


@torch.no_grad()
def measure(run):
    """What a trained network says to each test clip, its size and its time.

    Kept in the run's measured.json, and read from there unless the weights or
    the test clips have changed.

    Arguments
    ---------
    run : Run
        Trained.

    Returns
    -------
    dict
        ``labels``, ``clips`` and ``truth`` (class indices), ``parameters``,
        and ``forms``: by what is added to the row's name and by depth
        ``bytes`` (all depths in one file at the deepest, a thinner depth alone;
        None where nothing is thinned), ``microseconds`` (None without a file)
        and ``predicted``, class indices.
    """
    test = run.folder / "test.csv"
    weights = run.folder / "model/model.ckpt"
    source = hashlib.sha256(weights.read_bytes() + test.read_bytes())
    kept = run.folder / "measured.json"
    # What is not there, or damaged, is measured.
    with suppress(OSError, ValueError, KeyError, TypeError):
        cell = json.loads(kept.read_text())
        if cell["source"] == source.hexdigest():
            return cell
    spotter = KeywordSpotter.from_hparams(run.folder)
    model = spotter.mods.model
    parameters = sum(p.numel() for p in model.parameters())
    rows = read_manifest(test)
    cell = {
        "source": source.hexdigest(),
        "labels": spotter.labels,
        "clips": [row["ID"] for row in rows],
        "truth": [spotter.labels.index(row["label"]) for row in rows],
        "parameters": parameters,
        "forms": {},
    }
    if isinstance(model, SingleDepth):
        cell["forms"] = onnx(run.folder, spotter, rows[0])
        forms = []
    else:
        try:
            check_one_bit(model)
            forms = one_bit(run.folder, spotter)
        except NotOneBitError as error:
            tqdm.write(
                f"{run}: measured in PyTorch, since {error}", file=sys.stderr
            )
            forms = real(spotter)
    for name, sizes, timed, features, logits in forms:
        clips = [features(row) for row in tqdm(rows, "features", leave=False)]
        predicted = {
            str(depth): [int(logits(clip, depth).argmax()) for clip in clips]
            for depth in tqdm(model.depths, f"{run}", leave=False)
        }
        times = timed and {
            str(depth): microseconds(partial(logits, clips[0], depth))
            for depth in model.depths
        }
        cell["forms"][name] = {
            "bytes": sizes,
            "microseconds": times or None,
            "predicted": predicted,
        }
    with whole_file(kept) as part:
        part.write_text(json.dumps(cell))
    return cell


def parse_arguments(arguments):
    """Read the command line."""
    rows = [
        f"  {key:12}{name} ({yaml})" for key, (name, yaml, _) in ROWS.items()
    ]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["rows:", *rows]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_folder", help="needed unless --rows is empty")
    parser.add_argument("--results_folder", default="results", type=Path)
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--protocol", default="GSC-10", choices=PROTOCOLS)
    task.add_argument(
        "--words",
        nargs="+",
        metavar="WORD",
        help="the labels of an own task instead, with _unknown_ and _silence_ "
        "for classes of all else",
    )
    parser.add_argument(
        "--rows",
        nargs="*",
        default=list(ROWS),
        metavar="ROW",
        help="see below (default: all; none: those of --beside alone)",
    )
    parser.add_argument("--seeds", nargs="+", default=[1, 2, 3], type=int)
    parser.add_argument(
        "--jobs", default=1, type=int, help="trainings at once (default: 1)"
    )
    parser.add_argument(
        "--trained",
        action="store_true",
        help="train nothing: the table of what is trained so far",
    )
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="FILE",
        help="a predictions.json: into the table go its other rows too, with "
        "the times of where it was made; predictions/ has some",
    )
    parser.add_argument(
        "--json", action="store_true", help="print results.json, not the table"
    )
    args = parser.parse_args(arguments)
    if args.words:
        args.protocol = "words"
    if args.jobs < 1:
        parser.error("--jobs must be positive")
    unknown = [row for row in args.rows if row not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]}: there are {', '.join(ROWS)}")
    if args.rows and not args.data_folder:
        parser.error("--data_folder is needed, to train and to test")
    if not args.rows and not args.beside:
        parser.error("--rows is empty: name some, or a file with --beside")
    written = args.results_folder / args.protocol / PREDICTIONS
    if args.beside and args.beside.resolve() == written.resolve():
        parser.error(
            f"--beside {args.beside} would be written over: copy it, or choose "
            "another --results_folder"
        )
    args.seeds = sorted(set(args.seeds))
    return args


def main(arguments):
    """Train, measure, compare; exit status 1 if anything failed."""
    args = parse_arguments(arguments)
    torch.set_num_threads(1)
    cells = {}
    if args.beside:
        known = read_predictions(args.beside, args.protocol)
        cells = {row: known[row] for row in known if row not in args.rows}
    runs = plan(args)
    # Of the others, which only teach, no results are asked for.
    asked = [r for r in runs if r.row in args.rows and r.seed in args.seeds]
    if args.trained:
        runs = asked
        found = {run: attempt(is_trained, run) for run in runs}
        trained = [run for run in runs if found[run]]
        failed = list(found.values()).count(None)
        if runs and not trained and not failed:
            raise ValueError("nothing is trained yet: leave --trained out")
    else:
        trained = train_all(runs, args.jobs)
        failed = len(runs) - len(trained)
    # One after another, and nothing beside: time is measured.
    measured = [run for run in asked if run in trained]
    for run in tqdm(measured, "measured", unit="run"):
        cell = attempt(measure, run)
        if cell is None:
            failed += 1
        else:
            cells.setdefault(run.row, {})[run.seed] = cell
    if cells:
        write(cells, args)
    if failed:
        raise ValueError(
            f"{failed} of {len(runs)} runs failed, see above; the same "
            "command tries them again"
        )


def write(cells, args):
    """Write the predictions, results.md, .json and .png; print one of them."""
    # In the order of the table, what it does not know last.
    order = [*ROWS, *(row for row in cells if row not in ROWS)]
    every = [cell for by_seed in cells.values() for cell in by_seed.values()]
    most = max(len(cell["clips"]) for cell in every)
    cells = on_common_clips({row: cells[row] for row in order if row in cells})
    names = {row: ROWS[row][0] if row in ROWS else row for row in cells}
    seeds = args.seeds
    if not args.rows:
        seeds = sorted({s for by_seed in cells.values() for s in by_seed})
    report = compare(cells, names, args.protocol, seeds)
    if report["clips"] < most:
        message = f"compared on {report['clips']} clips that all were tested on"
        print(message, file=sys.stderr)
    folder = args.results_folder / args.protocol
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(cells, args.protocol, folder / PREDICTIONS)
    table, data = markdown(report), json.dumps(report, indent=1)
    for name, text in {"results.md": table, "results.json": data}.items():
        with whole_file(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    try:
        plot_results(report["networks"], folder / "results.png")
    except ImportError:
        message = "no picture: pip install matplotlib draws it"
        print(message, file=sys.stderr)
    print(data if args.json else table)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    with one_line_errors(resumes=True):
        main(sys.argv[1:])
