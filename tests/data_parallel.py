"""Run the recipe under torchrun on CPUs.

SpeechBrain turns batch norms into SyncBatchNorm, which exists on GPUs alone.
With that one step left out everything else of the data-parallel path runs
here: samplers, gradient averaging, the main process's work.
"""

import sys
from pathlib import Path

RECIPE = Path(__file__).resolve().parents[1] / "recipes/SpeechCommands"
sys.path.insert(0, str(RECIPE))

# Before torch, as when it is run itself.
import train  # noqa: E402, isort: skip
import torch  # noqa: E402

torch.nn.SyncBatchNorm.convert_sync_batchnorm = lambda module, *_: module

if __name__ == "__main__":
    train.main(sys.argv[1:])
