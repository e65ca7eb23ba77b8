"""Run the recipe under torchrun on CPUs.

SpeechBrain turns batch norms into SyncBatchNorm, which exists on GPUs alone.
With that one step left out everything else of the data-parallel path runs
here: samplers, gradient averaging, the main process's work.
"""

import sys
from pathlib import Path

import speechbrain_bifsmn  # noqa: F401  isort: skip
import torch

RECIPE = Path(__file__).resolve().parents[1] / "recipes/SpeechCommands"
sys.path.insert(0, str(RECIPE))

torch.nn.SyncBatchNorm.convert_sync_batchnorm = lambda module, *_: module

if __name__ == "__main__":
    import train

    train.main(sys.argv[1:])
