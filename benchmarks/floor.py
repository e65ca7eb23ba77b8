"""The fewest vector operations of each stage, beside what was measured.

    python benchmarks/floor.py REPORT [--ghz GHZ] [--write]

REPORT is the JSON that `make bench` writes on an x86 processor. Prints the
table of docs/kernel.md; --write puts it there and draws docs/kernel.svg.

The floor counts arithmetic on vectors alone, as docs/kernel.md derives it:
loads, stores, addresses, loops, gathering and packing weights are free. It is
the floor of this way of computing; another way has another.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from arm.count import run
from bench import processor
from readme import put, reading

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
STAGES = ("conv1", "conv2", "fc", "memory", "pointwise1", "pointwise2", "head")
LAYER = STAGES[3:6]
# Widen, convert, scale, bias, slope, choose, add to the stream, sign.
REAL = 8
# Two full adders (xor, xor, select) and a half adder (xor, and): 5 bits to 3.
COUNT_FIVE = 8


@dataclass(frozen=True)
class Machine:
    """What its vector operations do at once."""

    width: int  # bits of a register
    count: int  # operations that count the differing bits of a block
    block: int  # bits of weights times positions in that block
    byte_lanes: bool  # counts begin as bytes; else as 32 bits
    bits_out: int  # operations from a register of counts to packed bits
    macs: float  # int8 multiply-adds in one operation
    bits_out_conv1: int  # operations from 16 sums of 32 bits to packed bits
    per_cycle: int = 0  # vector operations begun in a cycle, for x86

    def gemm(self, M, N, K):
        """Operations and registers of counts of a binary product."""
        blocks = M * N * K / self.block
        lane = 32 if not self.byte_lanes else 8 if K < 256 else 16
        sums = M * N * lane / self.width
        widen = sums if lane == 16 else 0
        # Adding up `blocks` registers to `sums` is one less for each sum.
        return blocks * self.count + blocks - sums + widen, sums

    def bits(self, M, N, K):
        """With thresholds."""
        count, sums = self.gemm(M, N, K)
        return count + sums * self.bits_out

    def real(self, M, N, K):
        """Onto the residual stream."""
        return self.gemm(M, N, K)[0] + M * N * 32 / self.width * REAL


MACHINES = {
    # EOR, CNT; CMHI, SRI. conv1: SMULL, SMLAL, SADALP for 16; 3 UZP2, SRI.
    "neon": Machine(128, 2, 128, True, 2, 16 / 3, 4),
    # conv1: SDOT.
    "neon_dot": Machine(128, 2, 128, True, 2, 16, 4),
    # VPSHUFB looks up 4 inputs of 32 outputs; VPCMPEQB, VPMOVMSKB. conv1:
    # VPMADDWD, VPADDD for 16; VPCMPGTD, VMOVMSKPS twice.
    "avx2": Machine(256, 1, 128, True, 2, 8, 4, 4),
    # VPXORD, VPOPCNTD; a comparison. conv1: VPDPBUSD.
    "avx512": Machine(512, 2, 512, False, 1, 64, 1, 2),
}


def floors(machine):
    """Operations of every stage of the default network.

    Arguments
    ---------
    machine : Machine

    Returns
    -------
    dict of str to float
    """
    from speechbrain_bifsmn.model_file import Config

    c = Config()
    T1, T2 = (c.after_stride(c.frames, i) for i in (1, 2))
    M1, M2 = (c.after_stride(c.n_mels, i) for i in (1, 2))
    C, E, area = c.channels, c.expansion, c.kernel**2
    taps = c.left + 1 + c.right
    assert taps == 5, "COUNT_FIVE counts five"
    outputs = T1 * M1 * c.conv1_channels
    planes = T2 * C / machine.width  # registers that hold one tap's bits
    return {
        "conv1": outputs * area / machine.macs
        + outputs / 16 * machine.bits_out_conv1,
        "conv2": machine.bits(
            T2 * M2, c.conv2_channels, area * c.conv1_channels
        ),
        "fc": machine.real(T2, C, M2 * c.conv2_channels),
        "memory": planes * (taps + COUNT_FIVE + 32 * REAL),
        "pointwise1": machine.bits(T2, E, C),
        "pointwise2": machine.real(T2, C, E),
        "head": T2 * C * c.classes * 32 / machine.width,
    }


def whole(stages, depth):
    """A network of so many layers."""
    return sum(
        value * (depth if stage in LAYER else 1)
        for stage, value in stages.items()
    )


def counted(arm, kernels):
    """Executed instructions of every stage, and of whole networks.

    Arguments
    ---------
    arm : dict
        What benchmarks/arm/count.py reports.
    kernels : str
        A table.

    Returns
    -------
    dict of str to float
    """
    runs = arm["instructions"][kernels]

    def of(operation, depth):
        """An operation's functions are named after it."""
        return sum(
            n for name, n in runs[depth].items() if name.startswith(operation)
        )

    def layer(operation):
        return (of(operation, "8") - of(operation, "4")) / 4

    one = {
        "memory": layer("b1_memory_real"),
        "pointwise1": layer("b1_gemm_bits"),
        "pointwise2": layer("b1_gemm_real"),
    }
    return {
        "conv1": of("i8_conv_bits", "1"),
        "conv2": of("b1_gemm_bits", "1") - one["pointwise1"],
        "fc": of("b1_gemm_real", "1") - one["pointwise2"],
        **one,
        "head": of("head", "1"),
        "8 layers": sum(runs["8"].values()),
        "1 layer": sum(runs["1"].values()),
    }


def timed(report, kernels):
    """Microseconds of every stage, and of whole networks: the least."""
    return {
        row["what"]: row["us_least"]
        for row in report["times"]
        if row["contender"] == f"ours, C, {kernels}"
    }


def clock():
    """GHz of this processor: additions that wait for each other, one a cycle.

    Returns
    -------
    float
    """
    source = """
    #include <stdio.h>
    #include <time.h>
    int main(void) {
        long i, x = 0, best = 1L << 60, t;
        int round;
        for (round = 0; round < 20; round++) {
            t = clock();
            for (i = 0; i < 20000; i++)
                __asm__ volatile(".rept 1000\\n add $1, %0\\n .endr" : "+r"(x));
            t = clock() - t;
            best = t < best ? t : best;
        }
        printf("%f", 2e7 / ((double)best / CLOCKS_PER_SEC) / 1e9);
        return 0;
    }"""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "clock"
        run("gcc", "-O2", "-x", "c", "-", "-o", program, input=source)
        return float(run(program))


def compare(report, ghz):
    """Floor and measurement of every stage in every table of kernels.

    Arguments
    ---------
    report : dict
        What benchmarks/bench.py wrote.
    ghz : float
        Clock of its processor.

    Returns
    -------
    dict of str to dict of str to (float, float)
        By kernels, by stage.
    """
    found = {}
    for name, machine in MACHINES.items():
        if name == "avx512" and "family 26" in report["cpu"]:
            machine = replace(machine, per_cycle=4)  # Zen 5, on servers
        floor = floors(machine)
        floor |= {"8 layers": whole(floor, 8), "1 layer": whole(floor, 1)}
        if machine.per_cycle:
            each = machine.per_cycle * ghz * 1e3  # in a microsecond
            floor = {what: n / each for what, n in floor.items()}
            measured = timed(report, name)
        else:
            measured = counted(report["arm"], name) if report["arm"] else {}
        if measured:
            found[name] = {w: (n, measured[w]) for w, n in floor.items()}
    return found


def table(report, found, ghz):
    """Markdown."""
    lines = [
        f"{report['cpu']}, {ghz:.2f} GHz, {report['date']}, "
        f"{report['compiler']}. NEON: instructions; AVX: µs, "
        f"the least of {report['rounds']} rounds.",
        "",
        "| | " + " | ".join([*STAGES, "8 layers", "1 layer"]) + " |",
        "|---|" + "--:|" * (len(STAGES) + 2),
    ]
    for name, stages in found.items():
        number = "{:.2f}" if MACHINES[name].per_cycle else "{:,.0f}"
        rows = {f"{name}, floor": [], f"{name}, measured": [], "ratio": []}
        for pair in stages.values():
            cells = [*map(number.format, pair), f"**{pair[1] / pair[0]:.2f}**"]
            for row, cell in zip(rows.values(), cells, strict=True):
                row.append(cell)
        for title, cells in rows.items():
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(found):
    """SVG: how many times its floor each stage takes, a bar for each table."""
    colours = {
        "neon": "#2a6f97",
        "neon_dot": "#61a5c2",
        "avx2": "#bc6c25",
        "avx512": "#dda15e",
    }
    left, length, bar = 100, 480, 11
    stages = list(next(iter(found.values())))
    step = bar * len(found) + 12
    height = 50 + step * len(stages)
    most = max(b / a for rows in found.values() for a, b in rows.values())
    scale, width = length / most, left + length + 40

    def text(x, y, words, anchor="start", colour="#333"):
        return (
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" '
            f'fill="{colour}">{words}</text>'
        )

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for i, name in enumerate(found):
        x = left + i * 90
        lines.append(
            f'<rect x="{x}" y="8" width="10" height="10" '
            f'fill="{colours[name]}"/>'
        )
        lines.append(text(x + 14, 17, name))
    lines.append(text(width - 8, 17, "times its floor", "end"))
    for i, stage in enumerate(stages):
        y = 34 + i * step
        lines.append(text(left - 8, y + step / 2, stage, "end"))
        for j, (name, values) in enumerate(found.items()):
            ratio = values[stage][1] / values[stage][0]
            end, top = left + ratio * scale, y + j * bar
            lines.append(
                f'<rect x="{left}" y="{top}" width="{ratio * scale:.1f}" '
                f'height="{bar - 2}" fill="{colours[name]}"/>'
            )
            lines.append(text(round(end + 4), top + 8, f"{ratio:.2f}"))
    x = round(left + scale, 1)
    lines.append(
        f'<line x1="{x}" y1="28" x2="{x}" y2="{height - 10}" '
        'stroke="#333" stroke-dasharray="3 3"/>'
    )
    return "\n".join([*lines, "</svg>", ""])


def main():
    """Print; write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--ghz", type=float, help="else measured, here and now")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with reading(arguments.report) as report:
        if not arguments.ghz and processor() != report["cpu"]:
            sys.exit(
                f"the report is of another processor, {report['cpu']}: give "
                "its clock, --ghz"
            )
        ghz = arguments.ghz or clock()
        found = compare(report, ghz)
        written = table(report, found, ghz)
    print(written)
    if arguments.write:
        marks = "<!-- floor.py -->\n", "\n<!-- end -->"
        put(written, marks, DOCS / "kernel.md")
        (DOCS / "kernel.svg").write_text(picture(found))


if __name__ == "__main__":
    main()
