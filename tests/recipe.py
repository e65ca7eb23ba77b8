"""The recipe's train.py, at the size of tests."""

import importlib.util
import sys
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parents[1]
TRAIN = REPO / "recipes/SpeechCommands/train.py"
SMALL = [
    "--protocol=words",
    "--words=[low, middle, high, _silence_]",
    "--classes=4",
    "--channels=24",
    "--expansion=32",
    "--layers=2",
    "--conv_channels=[4, 6]",
    "--n_mels=20",
    "--n_fft=1024",
    "--win_length=800",
    "--batch_size=16",
    "--feature_copies=2",
    "--noprogressbar",
]
STUDENT = ["--depths=[2, 1]", "--depth_weights=[1.0, 0.5]"]


def load_train():
    spec = importlib.util.spec_from_file_location("train", TRAIN)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


def train(yaml, archive, results, *options):
    """The recipe's main, in this process."""
    load_train().main(
        [
            str(REPO / "hparams" / yaml),
            f"--data_folder={archive}",
            f"--results_folder={results}",
            *SMALL,
            *options,
        ]
    )


def state(folder):
    return torch.load(folder / "model/model.ckpt", weights_only=True)
