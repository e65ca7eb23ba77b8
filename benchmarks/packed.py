#!/usr/bin/env python
"""How much faster ``pack`` makes binary layers and networks in PyTorch.

    python benchmarks/packed.py [--rounds N]

One thread; medians over rounds of CPU time, and medians of the ratios within a
round: first the module as it is, in eval mode, then traced and frozen by
TorchScript, which folds the weights' binarizers and the norms into constants.
"""

import argparse
import gc
import time
import warnings
from statistics import median

import torch
from networks import lived_in

from speechbrain_bifsmn.layers import Conv2d, Linear, Memory
from speechbrain_bifsmn.lobes.bifsmn import BiFSMN
from speechbrain_bifsmn.packed import pack

BURST_US = 5000
METHODS = "bifsmn", "bifsmn"


def cases():
    """Name, module and input of everything that is timed."""
    for inputs, outputs in (128, 256), (256, 128), (512, 512):
        layer = Linear(inputs, outputs, *METHODS, kind="pointwise")
        for rows in 8, 64, 4096:
            name = f"Linear {inputs} -> {outputs}, {rows:4} frames"
            yield name, layer, torch.randn(rows, inputs)
    for batch in 1, 64:
        conv = Conv2d(16, 32, 5, 2, *METHODS)
        name = f"Conv2d 16 -> 32, 5 x 5, batch {batch}"
        yield name, conv, torch.randn(batch, 16, 16, 16)
        memory = Memory(128, 2, 2, 1, *METHODS)
        name = f"Memory 128, 5 taps, 8 frames, batch {batch}"
        yield name, memory, torch.randn(batch, 8, 128)
    yield "Memory 128, 5 taps, 4096 frames", memory, torch.randn(1, 4096, 128)
    planes = Linear(256, 128, "bifsmnv2", "bifsmnv2", kind="pointwise")
    yield "Linear 256 -> 128, two planes", planes, torch.randn(64, 256)
    model = lived_in(BiFSMN())
    for batch in 1, 64:
        yield (
            f"BiFSMN, 8 layers, batch {batch}",
            model,
            torch.randn(batch, 32, 32),
        )


def burst(module, x, calls):
    """Microseconds of CPU time of one call."""
    start = time.process_time()
    for _ in range(calls):
        module(x)
    return (time.process_time() - start) * 1e6 / calls


def main():
    """Time, and print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error("--rounds must be positive")
    warnings.simplefilter("ignore")  # what tracing says of fixed shapes
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'µs a call':40}{'eager':>9}{'frozen':>9}{'packed':>9}   ratios")
    gc.disable()
    with torch.no_grad():
        for name, module, x in cases():
            module = module.eval().requires_grad_(False)
            frozen = torch.jit.freeze(torch.jit.trace(module, x))
            runners = [module, frozen, pack(module)]
            for runner in runners:
                torch.testing.assert_close(
                    runner(x), module(x), rtol=1e-4, atol=1e-4
                )
                burst(runner, x, 3)
            calls = [
                max(1, round(BURST_US / max(burst(r, x, 2), 1)))
                for r in runners
            ]
            times = [
                [burst(r, x, n) for r, n in zip(runners, calls, strict=True)]
                for _ in range(rounds)
            ]
            eager, frozen, packed = (
                median(t) for t in zip(*times, strict=True)
            )
            ratios = [median(t[i] / t[2] for t in times) for i in (0, 1)]
            print(
                f"{name:40}{eager:9.1f}{frozen:9.1f}{packed:9.1f}"
                f"{ratios[0]:8.1f}x{ratios[1]:6.1f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
