#!/usr/bin/env python
"""How long a decision takes: ours at every kernel level, and other runtimes.

    python benchmarks/bench.py [--rounds N] [--only NAME ...] [--json]

benchmarks/README.md says what is measured and how.
"""

import argparse
import gc
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from arm.count import print_table as print_counts
from contenders import (
    ROOT,
    CLibrary,
    LiteRT,
    OnnxRuntime,
    Prepared,
    silence,
    torch_eager,
    torch_frozen,
)
from networks import Negate, deployed, lived_in, stages_of

from speechbrain_bifsmn.export.fold import fold
from speechbrain_bifsmn.export.reference import TorchEngine
from speechbrain_bifsmn.kernels import native
from speechbrain_bifsmn.lobes.bifsmn import BiFSMN
from speechbrain_bifsmn.lobes.features import LogMel
from speechbrain_bifsmn.lobes.fsmn import DFSMN

DEPTHS = (8, 4, 2, 1)
NETWORKS = {n: f"{n} layers" if n > 1 else "1 layer" for n in DEPTHS}
PER_LAYER = "each layer"
STAGES = ("conv1", "conv2", "fc", "memory", "pointwise1", "pointwise2", "head")
FRONT_END, NULL = "front end", "null call"
NEXT = "front end, next window of a stream"
EAGER, TRAINING = "torch eager, fp32", "torch eager, our training graph"
FROM_PYTHON = "ours, from Python"
ARM = "ARM, instructions under qemu-user; no processor is timed"
BURST_US = 3000
CLIPS = 100
# fp32 logits and activations of a few units, summed in other orders.
TOLERANCE = 1e-4


class Bench:
    """Everything that is timed, and the times.

    Arguments
    ---------
    only : list of str
        Parts of the names of those to measure; everyone, if empty.
    """

    def __init__(self, only=()):
        self.only = [part.lower() for part in only]
        self.unknown = set(self.only)
        self.bursts = {}  # (what, who): calls to microseconds of one
        self.times = {}  # (what, who): one number for each round
        self.checks, self.missing, self.versions = [], {}, {}

    def wants(self, who):
        """Whether a contender was asked for."""
        found = {part for part in self.only if part in who.lower()}
        self.unknown -= found
        return bool(found) or not self.only

    def add(self, what, who, burst):
        """Time something."""
        self.bursts[what, who] = burst

    def check(self, what, who, ours, reference, clips, exact=True):
        """Compare outputs and note how close they are.

        Arguments
        ---------
        what, who : str
            For the note.
        ours, reference : callable
            np.ndarray to np.ndarray.
        clips : iterable of np.ndarray
            Inputs.
        exact : bool
            Whether to refuse what is not within ``TOLERANCE``. Else the
            highest of the outputs must mostly be the same.

        Raises
        ------
        ArithmeticError
            If the contender computes something else.
        """
        error = largest = same = 0
        for clip in clips:
            got, want = ours(clip), reference(clip)
            error = max(error, float(np.abs(got - want).max()))
            largest = max(largest, float(np.abs(want).max()))
            same += int(got.argmax() == want.argmax())
        agreement = same / len(clips)
        self.checks.append(
            {
                "what": what,
                "contender": who,
                "largest_error": error,
                "largest_output": largest,
                "argmax_agreement": agreement,
            }
        )
        close = error <= TOLERANCE * max(1, largest)
        if not (close if exact else agreement >= 0.5):
            raise ArithmeticError(
                f"{what} is wrong by {error:.2g} of {largest:.2g}, "
                f"same decision on {agreement:.0%}"
            )

    def prepare(self, who, build, cases, exact=True):
        """Build, check, then add a contender's cases; or say why not.

        Arguments
        ---------
        who : str
            Name.
        build : callable
            (module, input) to ``Prepared``.
        cases : list of (str, nn.Module, torch.Tensor, callable or None)
            What, module, input, and the reference; the module itself, if None.
        exact : bool
            See ``check``.
        """
        if not self.wants(who):
            return
        print(f"preparing {who}", file=sys.stderr)
        rng = np.random.default_rng(2)
        try:
            ready = {}
            for what, module, x, reference in cases:
                with silence():
                    ready[what] = build(module, x)
                reference = reference or _numpy(module)
                clips = rng.standard_normal((CLIPS, *x.shape), np.float32)
                self.check(what, who, ready[what], reference, clips, exact)
            for what, prepared in ready.items():
                self.add(what, who, prepared.burst)
        # Whatever a runtime may raise, the others go on.
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.missing[who] = lines[0]

    def run(self, rounds):
        """Time everything in turns: A B C … A B C …"""
        calls = {}
        for key, burst in self.bursts.items():
            burst(2)
            calls[key] = max(1, round(BURST_US / max(burst(3), 0.01)))
            self.times[key] = []
        whats = dict.fromkeys(what for what, _ in self.bursts)
        keys = [key for what in whats for key in calls if key[0] == what]
        gc.disable()
        for i in range(rounds):
            print(f"\rround {i + 1} of {rounds}", end="", file=sys.stderr)
            for key in keys:
                self.times[key].append(self.bursts[key](calls[key]))
        gc.enable()
        print(file=sys.stderr)

    def derive(self, kernels):
        """Rows that follow from others, round by round.

        Arguments
        ---------
        kernels : str
            The best kernels of the C library.
        """
        deep, shallow = DEPTHS[:2]
        times = self.times
        for what, who in list(times):
            null = times.get((NULL, who))
            if what in STAGES and null:
                times[what, who] = _minus(times[what, who], null)
            if what == NETWORKS[deep]:
                both = times[what, who], times[NETWORKS[shallow], who]
                added = _minus(*both)
                times[PER_LAYER, who] = [t / (deep - shallow) for t in added]
        what = NETWORKS[DEPTHS[-1]]
        both = [times.get((what, w)) for w in (FROM_PYTHON, ours(kernels))]
        if all(both):
            times[NULL, FROM_PYTHON] = _minus(*both)

    def summary(self, base):
        """Rows of the table.

        Arguments
        ---------
        base : str
            The contender that ratios are relative to.

        Returns
        -------
        list of dict
        """
        rows = []
        for (what, who), times in self.times.items():
            row = {"what": what, "contender": who} | _spread("us", times)
            ours = self.times.get((what, base))
            if ours and who != base:
                ratios = [a / b for a, b in zip(times, ours, strict=True)]
                row |= _spread("ratio", ratios)
            rows.append(row)
        return rows


def ours(kernels):
    """Name of the C library with these kernels."""
    return f"ours, C, {kernels}"


def _minus(a, b):
    return [x - y for x, y in zip(a, b, strict=True)]


def _spread(name, values):
    return {
        name: statistics.median(values),
        f"{name}_least": min(values),
        f"{name}_most": max(values),
    }


def _numpy(module):
    """A torch function as one of numpy arrays."""
    return lambda x: module(torch.from_numpy(x)).numpy()


def add_ours(bench, folder):
    """The C library at every kernel level, from Python, and as it trains.

    Arguments
    ---------
    bench : Bench
        Gets the measurements.
    folder : Path
        For files.

    Returns
    -------
    CLibrary
    """
    model = lived_in(BiFSMN(depths=DEPTHS))
    log_mel = LogMel()
    labels = [f"word{i}" for i in range(model.head.out_features)]
    data, exact = (
        fold(model, log_mel, 16000, labels, real=real).to_bytes()
        for real in (np.float16, np.float32)
    )
    # What the C library runs; what the training graph computes, unrounded.
    engine, unrounded = TorchEngine(data), TorchEngine(exact)
    rng = np.random.default_rng(3)
    step = model.conv1.step
    steps = rng.standard_normal((CLIPS, model.frames, model.n_mels)) / step
    steps = np.rint(steps).clip(-128, 127).astype(np.int8)
    pcm = rng.normal(0, 3000, 16000).astype(np.int16)

    def reference(depth):
        return lambda clip: engine.scores(clip, depth)

    def scores(kernels, depth):
        """The driver has the clips: it takes their numbers."""
        numbers = count()

        def run(_):
            answer = library.ask(kernels, "scores", depth, next(numbers))
            return np.array(answer["scores"])

        return run

    def burst(kernels, what, depth=DEPTHS[0]):
        return lambda calls: library.ask(kernels, what, depth, calls)["us"]

    library = CLibrary(folder, data, pcm, steps)
    for kernels in library.kernels:
        who = ours(kernels)
        if not bench.wants(who) and kernels != library.kernels[0]:
            continue
        for n, what in NETWORKS.items():
            bench.check(what, who, scores(kernels, n), reference(n), steps)
            bench.add(what, who, burst(kernels, "network", n))
        for what in STAGES:
            bench.add(what, who, burst(kernels, what))
        bench.add(FRONT_END, who, burst(kernels, "features"))
        bench.add(NEXT, who, burst(kernels, "next"))

    def from_python(depth):
        return lambda clip: binding.scores(clip, depth)

    if bench.wants(FROM_PYTHON) and not native.available():
        bench.missing[FROM_PYTHON] = native.MISSING
    elif bench.wants(FROM_PYTHON):
        binding = native.NativeEngine(data)
        for n, what in NETWORKS.items():
            run = from_python(n)
            bench.check(what, FROM_PYTHON, run, reference(n), steps)
            run = Prepared(partial(run, steps[0]), None, None)
            bench.add(what, FROM_PYTHON, run.burst)

    def training(depth):
        return lambda x: model(x, depth=depth)

    def exported(depth):
        def run(x):
            clip = np.rint(x[0] / step).clip(-128, 127).astype(np.int8)
            return unrounded.scores(clip, depth)

        return run

    x = torch.from_numpy(steps[:1] * np.float32(step))
    cases = [
        (what, training(n), x, exported(n)) for n, what in NETWORKS.items()
    ]
    bench.prepare(TRAINING, torch_eager, cases)
    wave = torch.from_numpy(pcm[None] / np.float32(32768))
    bench.prepare(EAGER, torch_eager, [(FRONT_END, log_mel.eval(), wave, None)])
    return library


def add_others(bench, folder):
    """Other runtimes, on an fp32 DFSMN of the same shape.

    Arguments
    ---------
    bench : Bench
        Gets the measurements.
    folder : Path
        For files.
    """
    model = lived_in(DFSMN(depths=DEPTHS))
    x = torch.randn(1, model.frames, model.n_mels)

    def cases(layout):
        """Whole networks, a call that does nothing, single stages."""
        whole = {n: deployed(model, n, layout) for n in DEPTHS}
        found = [
            (what, whole[n], x, _numpy(lambda x, n=n: model(x, depth=n)))
            for n, what in NETWORKS.items()
        ]
        found.append((NULL, Negate().eval(), torch.ones(1, 1), None))
        for what, stage in stages_of(whole[DEPTHS[0]], x).items():
            found.append((what, *stage, None))
        return found

    frames, maps = cases("frames"), cases("maps")
    bench.prepare(EAGER, torch_eager, frames)
    bench.prepare("torch frozen, fp32", torch_frozen, frames)
    for runtime, name in (
        (OnnxRuntime, "ONNX Runtime"),
        (LiteRT, "LiteRT + XNNPACK"),
    ):
        kinds = ["fp32", "int8"] if hasattr(runtime, "int8") else ["fp32"]
        kinds = [kind for kind in kinds if bench.wants(f"{name}, {kind}")]
        try:
            with silence():
                opened = runtime(folder) if kinds else None
        except ImportError as error:
            for kind in kinds:
                bench.missing[f"{name}, {kind}"] = f"not installed: {error}"
            continue
        for kind in kinds:
            # Alone, an int8 stage would convert from fp32 and back again.
            chosen = maps if kind == "fp32" else maps[: len(DEPTHS)]
            build, exact = getattr(opened, kind), kind == "fp32"
            bench.prepare(f"{name}, {kind}", build, chosen, exact)
            bench.versions[name] = opened.version


def arm(*options):
    """Run benchmarks/arm/count.py, which counts the ARM kernels' instructions.

    Arguments
    ---------
    *options : str
        Its command line.

    Returns
    -------
    output : str
        What it prints; empty if it cannot run.
    problem : str
        Why it cannot; empty if it ran.
    """
    script = ROOT / "benchmarks/arm/count.py"
    if not script.exists():
        return "", "there is no benchmarks/arm/count.py"
    command = [sys.executable, script, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return "", (done.stderr.strip().splitlines() or ["it failed"])[-1]
    return done.stdout, ""


def processor():
    """Name of the processor; family and model, as a name may be of many."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        facts = dict(re.findall(r"^(.+?)\s*: (.+)$", text, re.MULTILINE))
        name = facts["model name"]
    except (OSError, KeyError):
        return platform.processor() or platform.machine()
    if "cpu family" not in facts:
        return name
    return f"{name} (family {facts['cpu family']}, model {facts['model']})"


def table(title, columns, lines):
    """Print lines of cells, the first of each line its name."""
    print(f"\n{title}\n")
    lines = [["", *columns], *lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        cells = [c.rjust(w) for c, w in zip(cells, widths[1:], strict=True)]
        print(f"  {name.ljust(widths[0])}  " + "  ".join(cells))


def print_tables(report):
    """Everything, for people."""
    rows = {(r["what"], r["contender"]): r for r in report["times"]}
    names = list(dict.fromkeys(who for _, who in rows))

    def spread(row, name):
        least, most = row[f"{name}_least"], row[f"{name}_most"]
        return f"{_number(row[name])} ({_number(least)}..{_number(most)})"

    def show(title, columns, cell):
        """A line for each contender that has a cell."""
        lines = []
        for who in names:
            found = [rows.get((what, who)) for what in columns]
            cells = [cell(row) if row else "-" for row in found]
            if set(cells) != {"-"}:
                lines.append([who, *cells])
        table(title, columns, lines)

    print(f"{report['cpu']}, one thread, batch 1, {report['rounds']} rounds")
    networks = [*NETWORKS.values(), PER_LAYER]
    show(
        "Features to scores, µs: median (least..most). "
        f"'{PER_LAYER}' is (8 layers - 4 layers) / 4.",
        networks,
        lambda row: spread(row, "us"),
    )
    show(
        f"The same, times as long as '{report['base']}'.",
        networks,
        lambda row: spread(row, "ratio") if "ratio" in row else "-",
    )
    show(
        "One stage, µs, less a null call or what reading the clock takes.",
        [*STAGES, NULL],
        lambda row: _number(row["us"]),
    )
    show(
        "Front end, PCM to features, µs.",
        [FRONT_END, NEXT],
        lambda row: spread(row, "us"),
    )
    checks = {(c["what"], c["contender"]): c for c in report["checks"]}
    table(
        f"Same decision as the reference, of {CLIPS} random clips; "
        "largest difference of a score.",
        list(NETWORKS.values()),
        [
            [who]
            + [
                f"{checks[what, who]['argmax_agreement']:.0%} "
                f"{checks[what, who]['largest_error']:.0e}"
                for what in NETWORKS.values()
            ]
            for who in names
            if all((what, who) in checks for what in NETWORKS.values())
        ],
    )
    for who, why in report["not_measured"].items():
        print(f"\nnot measured: {who}: {why}")


def _number(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="parts of the names of those to measure, such as ours",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the JSON (default: benchmarks/results, and none with "
        "--only, which would replace a whole report by a part)",
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be positive")

    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    bench = Bench(arguments.only)
    wants_arm = bench.wants(ARM)
    with tempfile.TemporaryDirectory() as folder:
        library = add_ours(bench, Path(folder))
        add_others(bench, Path(folder))
        if not bench.unknown:
            with torch.inference_mode():
                bench.run(arguments.rounds)
        library.close()
    if bench.unknown:
        parser.error(f"--only {min(bench.unknown)}: nobody is called so")
    base = ours(library.kernels[0])
    bench.derive(library.kernels[0])
    compiler = subprocess.run(
        [*library.compiler, "--version"], capture_output=True, text=True
    )
    report = {
        "cpu": processor(),
        "system": platform.platform(),
        "date": date.today().isoformat(),
        "rounds": arguments.rounds,
        "base": base,
        "compiler": compiler.stdout.splitlines()[0],
        "flags": " ".join(library.flags),
        "clock_us": library.clock_us,
        "versions": {"torch": torch.__version__} | bench.versions,
        "times": bench.summary(base),
        "checks": bench.checks,
        "not_measured": bench.missing,
        "arm": None,
    }
    if wants_arm:
        counted, problem = arm("--json")
        report["arm"] = json.loads(counted) if counted else None
        if problem:
            bench.missing[ARM] = problem
    text = json.dumps(report, indent=1, ensure_ascii=False)
    output = arguments.output
    if output is None and not arguments.only:
        output = ROOT / "benchmarks/results"
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", report["cpu"].lower()).strip("-")
        path = output / f"{name}.json"
        path.write_text(text + "\n")
        print(f"\n{path}", file=sys.stderr)
    if arguments.json:
        print(text)
    else:
        print_tables(report)
        if report["arm"]:
            print(f"\n{ARM}")
            print_counts(report["arm"])


if __name__ == "__main__":
    main()
