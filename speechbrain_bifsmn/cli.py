"""The ``bifsmn`` command: export, spot, listen, eval, info."""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from speechbrain_bifsmn import __version__
from speechbrain_bifsmn.pretrained import FILE, FOLDER, THRESHOLD


def export(args):
    """Trained folder to model file."""
    from speechbrain_bifsmn.export.folder import export_folder

    report = export_folder(
        args.folder,
        args.package or args.output,
        args.manifest,
        package=bool(args.package),
        depths=args.depths,
    )
    if args.json:
        return print(json.dumps(report, indent=1))
    parity = report["parity"]
    print(f"{report['file']}: {report['bytes']:,} bytes")
    print(f"  of {report['folder']}")
    print(f"  {report['binary_layers']} layers proved 1-bit")
    print(
        f"  {report['engine']} = PyTorch with the exported constants: "
        f"{parity['stages']:,} stages of {parity['clips']} clips equal, "
        f"scores within {parity['largest_score_difference']:.1e}"
    )
    if "accuracy" not in report:
        print("  no test clips found: give --manifest test.csv to measure")
    for depth, row in report.get("accuracy", {}).items():
        print(
            f"  depth {depth}: training graph {row['graph']:.2f} %, file "
            f"{row['file']:.2f} %, same answer on {row['agreement']:.2f} %"
        )


def spot(args):
    """Keyword of each sound file."""
    from speechbrain_bifsmn.data.audio import DataError
    from speechbrain_bifsmn.spotting import Spotter

    spotter = Spotter(args.model, args.depth, threshold=args.threshold)
    rows = []
    for wav in args.wav:
        try:
            found = spotter.spot_file(wav)
        except DataError as error:
            # The others are heard all the same.
            rows.append({"file": wav, "error": str(error)})
            print(f"bifsmn: {error}", file=sys.stderr)
            continue
        rows.append({"file": wav, "depth": spotter.depth, **vars(found)})
        if not args.json:
            print(f"{wav}: {heard(found, args.threshold)}")
    if args.json:
        print(json.dumps(rows, indent=1))
    if any("error" in row for row in rows):
        sys.exit(1)


def heard(found, threshold):
    """What was heard in a clip, and which keyword was not sure enough."""
    text = f"{found.label} ({100 * found.probability:.0f} %)"
    text += f" at {found.start:.2f} s"
    surest, most = max(found.posteriors.items(), key=lambda row: row[1])
    below = f"below the threshold of {100 * threshold:g} %"
    if most >= threshold:
        return text
    if surest != found.label:
        return f"{text}; {surest} ({100 * most:.0f} %) is {below}"
    # A model without classes named _..._ names the likeliest word regardless.
    return text if surest.startswith("_") else f"{text}; {below}"


def listen(args):
    """Keywords in a stream of samples, as they are heard."""
    import numpy as np

    from speechbrain_bifsmn.spotting import Listener, Spotter, window_step

    if sys.stdin is None:
        raise ValueError("standard input is closed: pipe samples into it")
    spotter = Spotter(args.model, args.depth, threshold=args.threshold)
    listener = Listener(spotter)
    chunk = 2 * window_step(spotter.model.config)
    if sys.stdin.buffer.peek(4).startswith((b"RIFF", b"fLaC", b"OggS", b"ID3")):
        raise ValueError(
            "this is a sound file, not bare samples: give it to bifsmn spot"
        )
    while data := sys.stdin.buffer.read(chunk):
        pcm = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
        for found in listener.feed(pcm):
            line = f"{found.label} {found.probability:.3f}"
            line += f" at {found.start:.2f} s"
            print(json.dumps(vars(found)) if args.json else line, flush=True)


def evaluate(args):
    """Accuracy at each depth on a protocol's test clips, or on yours."""
    from speechbrain_bifsmn.evaluation import (
        evaluate_file,
        labelled_clips,
        protocol_clips,
    )
    from speechbrain_bifsmn.spotting import Spotter

    model = Spotter(args.model).model
    if args.all:
        protocol, test = "all recordings", args.data
        rows = labelled_clips(args.data, model)
    else:
        protocol, test, rows = protocol_clips(
            args.data, model, args.protocol, args.words
        )
    report = {
        "model": args.model,
        "protocol": protocol,
        "test": test,
        **evaluate_file(args.model, rows),
    }
    if args.json:
        return print(json.dumps(report, indent=1))
    print(
        f"{protocol}, {report['clips']} clips ({report['test']}), "
        f"{report['engine']}"
    )
    for depth, row in report["depths"].items():
        print(f"  depth {depth}: {row['accuracy']:.2f} %", end="")
        spoken = row["accuracy_without_silence"]
        print("" if spoken is None else f" ({spoken:.2f} % without silence)")
    first = next(iter(report["depths"]))
    print(f"  recall at depth {first}, %:")
    for label, value in report["depths"][first]["recall"].items():
        if value is not None:
            print(f"    {label:12} {value:6.2f}")


def info(args):
    """What a model file holds."""
    from speechbrain_bifsmn.model_file import read_sections
    from speechbrain_bifsmn.spotting import Spotter

    data = Path(args.model).read_bytes() if Path(args.model).is_file() else b""
    spotter = Spotter(args.model)
    model = spotter.model
    report = {
        "file": args.model,
        "bytes": len(data),
        "labels": model.labels,
        "depths": model.depths,
        "config": vars(model.config),
        "meta": model.meta,
        "engine": type(spotter.engine).__name__,
        "kernels": spotter.engine.kernels,
        "workspace_bytes": spotter.engine.workspace_bytes,
        "sections": {
            tag: len(raw) for tag, (_, raw) in read_sections(data).items()
        },
    }
    if args.json:
        return print(json.dumps(report, indent=1))
    print(
        f"{args.model}: {len(data):,} bytes, run by {report['engine']} "
        f"with {report['kernels']} kernels"
    )
    print(f"  labels  {' '.join(model.labels)}")
    print(f"  depths  {' '.join(map(str, model.depths))}")
    if report["workspace_bytes"]:
        print(
            f"  memory  {report['workspace_bytes']:,} bytes of workspace here, "
            f"{2 * model.config.samples:,} of PCM; a microcontroller needs "
            "less: make check in a package"
        )
    for title in ("config", "meta", "sections"):
        print(f"  {title}" + ", of training in PyTorch" * (title == "meta"))
        for key, value in report[title].items():
            print(f"    {key:16} {value}")


def parser():
    """The command line."""
    top = argparse.ArgumentParser(
        prog="bifsmn",
        description="Keyword spotting with 1-bit networks: export a trained "
        "folder to one small file, run the file on recordings, measure it.",
        epilog="Training is recipes/SpeechCommands/train.py.",
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, text, **options):
        sub = commands.add_parser(
            name, help=function.__doc__, description=text, **options
        )
        sub.set_defaults(run=function)
        sub.add_argument(
            "--json", action="store_true", help="print JSON, for scripts"
        )
        return sub

    sub = command(
        "export",
        export,
        "Fold a trained network to a model file. Every binary layer is proved "
        "1-bit first; golden vectors of every stage are written beside it.",
        epilog="example: bifsmn export results/SpeechCommands/GSC-10/bifsmn/1 "
        "-o exported --depths 2",
    )
    sub.add_argument(
        "folder",
        nargs="?",
        default=str(FOLDER),
        help="trained folder, or its parent (default: the network in the "
        "package)",
    )
    where = sub.add_mutually_exclusive_group(required=True)
    where.add_argument(
        *("-o", "--output"), type=named, help="folder for the model file"
    )
    where.add_argument(
        "--package",
        type=named,
        metavar="DIR",
        help="folder for the model file with the C library, an example and a "
        "Makefile, for another project to drop in",
    )
    sub.add_argument(
        "--depths",
        type=depth_list,
        metavar="N,...",
        help="the depths that the file can run (default: all); fewer make it "
        "smaller: layers that only the others run are left out",
    )
    sub.add_argument(
        "--manifest",
        help="CSV of clips to compare accuracy on (default: the test clips "
        "that training used)",
    )

    sub = command(
        "spot",
        spot,
        "Recognise the keyword of each recording. Longer recordings than the "
        "model's window are scanned; posteriors are averaged over four windows "
        "and the surest keyword is reported. A model that only knows keywords "
        "always reports one, and says if it is below the threshold.",
        epilog="example: bifsmn spot yes.wav --depth 2",
    )
    add_model(sub)
    add_listening(sub)
    sub.add_argument("wav", nargs="+", help="mono, at the model's rate")

    sub = command(
        "listen",
        listen,
        "Print keywords as they are heard in 16-bit little-endian mono PCM on "
        "standard input, at the model's rate. A keyword is not printed again "
        "for the length of a window and the three steps that are averaged. "
        "What is shorter than a window is not heard.",
        epilog="example: arecord -q -t raw -f S16_LE -r 16000 | bifsmn listen",
    )
    add_model(sub)
    add_listening(sub)

    sub = command(
        "eval",
        evaluate,
        "Accuracy of a model file at each of its depths, from PCM, on the "
        "test clips of a protocol, or on all recordings of a folder.",
        epilog="example: bifsmn eval speech_commands -m exported/model.bifsmn",
    )
    add_model(sub)
    sub.add_argument(
        "data", help="Speech Commands folder, or one that is laid out like it"
    )
    clips = sub.add_mutually_exclusive_group()
    clips.add_argument(
        "--protocol", help="default: the one that the model was trained on"
    )
    clips.add_argument(
        "--words", nargs="+", help="labels of an own word list, instead"
    )
    clips.add_argument(
        "--all",
        action="store_true",
        help="every recording in folders that are called as labels are, "
        "instead of test clips; some labels may be missing",
    )

    sub = command("info", info, "Sizes, labels and training facts of a file.")
    sub.add_argument(
        "model",
        nargs="?",
        default=str(FILE),
        help="exported .bifsmn file (default: the one in the package)",
    )
    return top


def add_listening(sub):
    """The options of whoever hears keywords."""
    sub.add_argument(
        "--depth", type=int, help="layers to run (default: the deepest)"
    )
    sub.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        metavar="P",
        help="posterior from which a keyword is believed (default: "
        "%(default)s); more of it misses more, and has fewer false alarms",
    )


def named(folder):
    """A folder, as a shell gives it: not that of a variable without value."""
    if not folder:
        raise argparse.ArgumentTypeError("is empty: name a folder")
    return folder


def depth_list(text):
    """Depths, as in 4,2,1."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} are no depths: give numbers of layers, as in 2 or 4,2,1"
        ) from None


def add_model(sub):
    """The option that names a model file."""
    sub.add_argument(
        "-m",
        "--model",
        default=str(FILE),
        metavar="FILE",
        help="exported .bifsmn file (default: the one in the package, which "
        "knows yes, no, up, down, left, right, stop, go)",
    )


def main(arguments=None):
    """Run a command; every mistake of the user's is one line."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if sys.stdout is None:
        sys.exit("bifsmn: standard output is closed: nobody could read it")
    args = parser().parse_args(arguments)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough, as in `bifsmn info | head`; what is
        # still to be written at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"bifsmn: {error}")


if __name__ == "__main__":
    main()
