#!/usr/bin/env python3
"""What a training step costs, with and without each distillation loss.

    python benchmarks/training.py

Steps of the default student at three depths on random features, batch 96, one
thread. Every variant makes one step in turn, so that a machine whose clock
drifts is fair to all; medians over the rounds.
"""

import argparse
import json
import statistics
import sys
import time

import torch
from torch.nn import functional as F
from tqdm import tqdm

from speechbrain_bifsmn.distillation import FID, HED, LogitDistillation
from speechbrain_bifsmn.lobes.bifsmn import BiFSMN
from speechbrain_bifsmn.lobes.fsmn import DFSMN
from speechbrain_bifsmn.quantizers import WEIGHTS

DEPTHS = {8: 1.0, 4: 0.5, 2: 0.25}
CLIPS = 12_000
LOSSES = {
    "none": None,  # nor a teacher
    "teacher alone": [],
    "logits": [LogitDistillation()],
    "HED": [HED()],
    "HED by batch": [HED(norm="batch")],
    "FID": [FID()],
}


def step(model, teacher, optimizer, feats, truth, losses):
    """One step, as KeywordBrain makes it."""
    targets = []
    if losses is not None:
        with torch.no_grad():
            depth = teacher.depths[0]
            logits, features = teacher(feats, depth=[depth])[depth]
            targets = [loss.targets(logits, features) for loss in losses]
    total = 0.0
    for n, (logits, features) in model(feats, depth=list(DEPTHS)).items():
        loss = F.cross_entropy(logits, truth)
        for distil, target in zip(losses or [], targets, strict=True):
            loss = loss + distil(logits, features, target)
        total = total + DEPTHS[n] * loss
    optimizer.zero_grad()
    total.backward()
    optimizer.step()


def main(arguments):
    """Time the steps and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch_size", type=int, default=96)
    parser.add_argument("--binarizer", default="bifsmn", choices=WEIGHTS)
    parser.add_argument("--json", action="store_true", help="for scripts")
    args = parser.parse_args(arguments)
    for name in "rounds", "batch_size":
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be positive")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = BiFSMN(
        classes=10,
        depths=list(DEPTHS),
        private=["memory", "pointwise2"],
        weight_quantizer=args.binarizer,
        activation_quantizer=args.binarizer,
    )
    teacher = DFSMN(classes=10).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    feats = torch.randn(args.batch_size, 32, 32)
    truth = torch.randint(10, (args.batch_size,))
    times = {name: [] for name in LOSSES}
    for round_ in tqdm(range(args.rounds + 2), disable=args.json):
        for name, losses in LOSSES.items():
            started = time.perf_counter()
            step(model, teacher, optimizer, feats, truth, losses)
            if round_ > 1:  # after warming up
                times[name].append(time.perf_counter() - started)
    median = {name: statistics.median(laps) for name, laps in times.items()}
    base = median["none"]
    rows = {
        name: {
            "step_ms": 1e3 * value,
            "over_none": value / base - 1,
            "epoch_s": value * CLIPS / args.batch_size,
        }
        for name, value in median.items()
    }
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'':14}{'ms a step':>10}{'added':>8}{'s for 12,000 clips':>20}")
    for name, row in rows.items():
        print(
            f"{name:14}{row['step_ms']:10.0f}{100 * row['over_none']:7.0f}%"
            f"{row['epoch_s']:20.1f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
