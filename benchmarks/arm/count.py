"""What the ARM kernels cost: instructions counted, cycles modelled.

    python benchmarks/arm/count.py [--json] [--model FILE]

Builds the runtime for aarch64, with NEON kernels and scalar ones, and for
32-bit ARM (Thumb, as a microcontroller has it), runs it under qemu-user with
the plugin count.c and prints the instructions of one run of the network
(features to scores), of each of its kernels, of the front end, and of all that
the next window of a stream takes. They are the same on every host with the
same compiler. No ARM processor is involved: cycles are what llvm-mca models for
the instructions that the pointwise-1 kernel executed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "benchmarks/arm"
AARCH64, ARM32 = "aarch64-linux-gnu", "arm-linux-gnueabihf"
TOOLS = {
    "gcc": "gcc",
    f"{AARCH64}-gcc": f"gcc-{AARCH64}",
    f"{AARCH64}-objdump": f"binutils-{AARCH64}",
    f"{ARM32}-gcc": f"gcc-{ARM32}",
    "qemu-aarch64": "qemu-user",
    "qemu-arm": "qemu-user",
}
# Which kernels, on which processor, by which name.
RUNS = {
    "neon_dot": (AARCH64, "neon_dot"),
    "neon": (AARCH64, "neon"),
    "scalar": (AARCH64, "scalar"),
    "scalar, 32-bit": (ARM32, "scalar"),
}
FLAGS = {AARCH64: ["-O3"], ARM32: ["-O2", "-mthumb"]}
CORES = ("cortex-a53", "cortex-a72", "neoverse-n1")
GEMM = "b1_gemm_bits__neon_8x16"
MODEL = "model.bifsmn"


def run(*command, **options):
    """Standard output of a command that must succeed, or its complaint."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, **options
        )
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")
    if done.returncode != 0:
        lines = done.stderr.splitlines()
        causes = [line for line in lines if "rror" in line] or lines[-1:]
        cause = causes[0] if causes else f"exit status {done.returncode}"
        sys.exit(f"{command[0]} failed: {cause}")
    return done.stdout


def build(folder):
    """The plugin, and the driver for each processor."""
    plugin = folder / "count.so"
    run(
        *("gcc", "-O2", "-fPIC", "-shared", "-fvisibility=hidden"),
        *(HERE / "count.c", "-o", plugin),
    )
    for target, flags in FLAGS.items():
        run(
            *(f"{target}-gcc", "-std=c99", *flags, "-static"),
            *("-ffp-contract=off", f"-I{ROOT / 'csrc/include'}"),
            *sorted((ROOT / "csrc/src").glob("*.c")),
            *(HERE / "bench.c", "-lm", "-o", folder / target),
        )
    return plugin


def execute(plugin, target, what, runs, kernels, trace=None):
    """Instructions by function, and addresses in order if traced."""
    out = plugin.with_suffix(".txt")
    options = f"{plugin},out={out}" + (f",trace={trace}" if trace else "")
    # Names and environment lie on the stack, and move what is above them: libc
    # fills memory in other steps then.
    run(
        shutil.which(f"qemu-{target.split('-')[0]}"),
        *("-plugin", options, "-d", "plugin"),
        *(f"./{target}", MODEL, str(what), str(runs), kernels),
        cwd=plugin.parent,
        env={},
    )
    counts, addresses = {}, []
    for line in out.read_text().splitlines():
        if line.startswith("@"):
            addresses.append(int(line[1:], 16))
        else:
            name, count = line.split()
            counts[name] = int(count)
    return counts, addresses


def count(plugin, target, what, kernels):
    """Instructions of one run, by function: of two runs less those of one."""
    one, _ = execute(plugin, target, what, 1, kernels)
    two, _ = execute(plugin, target, what, 2, kernels)
    counts = {name: two[name] - one.get(name, 0) for name in two}
    return {name: n for name, n in counts.items() if n}


def model_cycles(plugin, folder):
    """Modelled cycles of one pointwise-1 GEMM on each core, or None."""
    mca = next(
        (
            name
            for name in [f"llvm-mca-{v}" for v in range(25, 15, -1)]
            if shutil.which(name)
        ),
        None,
    )
    if mca is None:
        print(
            "llvm-mca 16 or newer is missing (apt-get install llvm-22): "
            "NO CYCLES ARE MODELLED",
            file=sys.stderr,
        )
        return None
    _, addresses = execute(plugin, AARCH64, 1, 1, "neon", GEMM)
    if not addresses:
        print(f"{GEMM} is not part of this network", file=sys.stderr)
        return None
    text = {}
    listing = run(
        *(f"{AARCH64}-objdump", "-d", "--no-show-raw-insn"),
        *(f"--disassemble={GEMM}", folder / AARCH64),
    )
    for line in listing.splitlines():
        address, colon, instruction = line.partition(":\t")
        if colon:
            instruction = instruction.split("//")[0].split("<")[0].strip()
            text[int(address, 16)] = instruction
    # Where a branch leads does not matter: what ran is written out.
    lines = [
        " ".join([*text[a].split()[:-1], "."])
        if text[a].startswith(("b", "cbz", "cbnz", "tb"))
        and not text[a].startswith(("bi", "bf", "bs"))
        else text[a]
        for a in addresses
    ]
    source = folder / "executed.s"
    source.write_text(".arch armv8-a+dotprod\n" + "\n".join(lines) + "\n")
    cycles = {}
    for core in CORES:
        report = run(
            *(mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={core}"),
            *("-iterations=1", "-instruction-info=0", "-resource-pressure=0"),
            source,
        )
        line = next(x for x in report.splitlines() if "Total Cycles" in x)
        cycles[core] = int(line.split()[-1])
    return {"instructions": len(addresses), "cycles": cycles, "by": mca}


def measure(folder):
    """Everything, as a dictionary, of the model in a folder."""
    plugin = build(folder)
    depths = (8, 4, 2, 1)
    result = {"instructions": {}, "front_end": {}, "stream": {}}
    for name, (target, kernels) in RUNS.items():
        result["instructions"][name] = {
            depth: count(plugin, target, depth, kernels) for depth in depths
        }
        result["stream"][name] = {
            depth: sum(count(plugin, target, f"next{depth}", kernels).values())
            for depth in depths
        }
    # It has no kernels of its own.
    for target in FLAGS:
        result["front_end"][target] = {
            what: sum(count(plugin, target, what, "scalar").values())
            for what in ("features", "next")
        }
    sizes = run(f"{AARCH64}-objdump", "-t", folder / AARCH64)
    result["neon_code_bytes"] = sum(
        int(line.split()[4], 16)
        for line in sizes.splitlines()
        if " F .text" in line and "__neon" in line
    )
    result["modelled"] = model_cycles(plugin, folder)
    return result


def print_table(result):
    """For people."""
    for kernels, depths in result["instructions"].items():
        names = sorted(
            {name for counts in depths.values() for name in counts},
            key=lambda name: -max(c.get(name, 0) for c in depths.values()),
        )
        print(f"\n{kernels}: instructions of one run, features to scores")
        print(f"{'depth':32}" + "".join(f"{d:>11}" for d in depths))
        for name in names:
            cells = [counts.get(name, 0) for counts in depths.values()]
            if max(cells) >= 100:
                print(f"{name:32}" + "".join(f"{n:>11,}" for n in cells))
        totals = [sum(counts.values()) for counts in depths.values()]
        print(f"{'all':32}" + "".join(f"{n:>11,}" for n in totals))
        stream = result["stream"][kernels].values()
        print(
            f"{'next window, front end and all':32}"
            + "".join(f"{n:>11,}" for n in stream)
        )
    for target, counts in result["front_end"].items():
        print(
            f"\nfront end, PCM to features, {target}: {counts['features']:,} "
            f"instructions, the next window of a stream {counts['next']:,}"
        )
    print(f"\nNEON code: {result['neon_code_bytes']:,} bytes")
    modelled = result["modelled"]
    if modelled:
        print(
            f"\npointwise-1 GEMM, 8 x 256 x 128 with thresholds and packing: "
            f"{modelled['instructions']:,} instructions"
        )
        for core, cycles in modelled["cycles"].items():
            print(f"{core:32}{cycles:>11,} cycles MODELLED by {modelled['by']}")


def main():
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--model", help="a model file instead of a random one")
    arguments = parser.parse_args()
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing: apt-get install {package}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / MODEL
        if arguments.model:
            shutil.copy(arguments.model, model)
        else:
            sys.path.insert(0, str(ROOT))
            try:
                from tests.random_model import random_model
            except ImportError as error:
                sys.exit(f"no random model, give one with --model: {error}")
            model.write_bytes(random_model().to_bytes())
        result = measure(folder)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
