"""Features computed once: every clip, in several augmented copies, as int8.

A 1-bit network reads int8 features, so nothing is lost by storing them so, and
a cached epoch costs no FFT: two cores are enough to train.
"""

import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from speechbrain_bifsmn.data.audio import DataError, read_audio, read_window
from speechbrain_bifsmn.data.manifest import read_manifest
from speechbrain_bifsmn.files import whole_file

logger = logging.getLogger(__name__)


def read_clip(row, samples, sample_rate=16000):
    """``read_window`` as floats in [-1, 1).

    Returns
    -------
    torch.Tensor, [samples]
    """
    return torch.as_tensor(read_window(row, samples, sample_rate)) / 32768


def read_noise(manifest, sample_rate=16000):
    """All clips of a manifest, end to end.

    Arguments
    ---------
    manifest : str or Path
        ``noise.csv`` of a prepared folder.
    sample_rate : int
        Hz.

    Returns
    -------
    torch.Tensor, [n], or None
        None if the manifest is empty.
    """
    clips = [
        torch.as_tensor(
            read_audio(r["wav"], int(r["start"]), int(r["stop"]), sample_rate)
        )
        for r in read_manifest(manifest)
    ]
    return torch.cat(clips) if clips else None


# Raised by whoever changes what the same settings give: here, in LogMel or in
# ClipAugment.
FORMAT = 2
# Of the features, before it is said.
MOST_CLIPPED = 0.05


class CachedFeatures:
    """Features of one manifest, computed on first use and kept in a file.

    The file's name is a hash of all that the features depend on, so nothing
    stale is ever read, and runs that agree share it. It appears when whole.

    Arguments
    ---------
    manifest : str or Path
        CSV with ID, wav, start, stop, label.
    folder : str or Path
        Where feature files are kept.
    log_mel : LogMel
        Front end.
    samples : int
        Samples of a clip.
    step : float
        One int8 step.
    copies : int
        Augmented copies of each clip.
    augment : ClipAugment, optional
        None for one plain copy.
    noise : torch.Tensor, [n], optional
        Background noise for ``augment``.
    seed : int
        Of the augmentation.
    device : str
        What computes them; another one rounds and draws otherwise.
    """

    # The one is small enough for the working set to stay in a processor's
    # cache, the other large enough to fill a GPU.
    cpu_batch, gpu_batch = 32, 512

    def __init__(
        self,
        manifest,
        folder,
        log_mel,
        samples=16000,
        step=0.03125,
        copies=1,
        augment=None,
        noise=None,
        seed=0,
        device="cpu",
    ):
        self.rows = read_manifest(manifest)
        self.index = {row["ID"]: i for i, row in enumerate(self.rows)}
        self.log_mel = log_mel
        self.samples = samples
        self.step = step
        self.copies = copies if augment else 1
        self.augment = augment
        self.noise = noise
        self.seed = seed
        self.device = torch.device(device)
        self.path = Path(folder) / f"{Path(manifest).stem}-{self._name()}.npy"
        if not self.path.exists():
            self._compute(self.path)
        self.features = _load(self.path, mmap_mode="r")

    def place(self, clip_id, epoch):
        """Where a clip is in ``features``: its copy in this epoch, its row."""
        i = self.index[clip_id]
        return (epoch + i) % self.copies, i

    def get(self, clip_id, epoch=0):
        """One clip's features.

        Arguments
        ---------
        clip_id : str
            ID in the manifest.
        epoch : int
            Each clip passes through its copies, one an epoch, starting at
            different ones.

        Returns
        -------
        torch.Tensor, [frames, n_mels]
        """
        steps = self.features[self.place(clip_id, epoch)]
        return torch.from_numpy(steps.astype(np.float32)) * self.step

    def _name(self):
        front_end = {
            name: value
            for name, value in vars(self.log_mel).items()
            if isinstance(value, int | float) and not name.startswith("_")
        }
        del front_end["training"]
        # What settings do not tell, such as a window.
        seeded = torch.Generator().manual_seed(0)
        probe = torch.randn(1, self.samples, generator=seeded) / 10
        heard = self._steps(self.log_mel.cpu()(probe))
        digest = hashlib.sha256(heard.numpy().tobytes()).hexdigest()
        files = sorted({row["wav"] for row in self.rows})
        facts = {
            "format": FORMAT,
            "rows": self.rows,
            "files": [
                (status.st_size, status.st_mtime_ns)
                for status in map(os.stat, files)
            ],
            "front_end": (str(type(self.log_mel)), front_end, digest),
            "samples": self.samples,
            "step": self.step,
            "copies": self.copies,
            "augment": self.augment
            and [
                str(type(self.augment)),
                self.augment.describe(),
                self.noise is not None
                and hashlib.sha256(self.noise.numpy().tobytes()).hexdigest(),
            ],
            "seed": self.seed if self.augment else 0,
            "device": self.device.type,
        }
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _compute(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = -(-self.samples // self.log_mel.hop_length)
        shape = (self.copies, len(self.rows), frames, self.log_mel.n_mels)
        with whole_file(path) as part:
            out = np.lib.format.open_memmap(part, "w+", np.int8, shape)
            if hasattr(os, "posix_fallocate"):
                # Else a full disk would kill the process at some write.
                with open(part, "r+b") as file:
                    size = os.fstat(file.fileno()).st_size
                    os.posix_fallocate(file.fileno(), 0, size)
            # A private random stream: the run's own is not disturbed.
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices), torch.no_grad():
                torch.manual_seed(self.seed)
                self._fill(out, path.stem)
            out.flush()
            # Windows renames no file that is still mapped.
            del out

    def _fill(self, out, name):
        log_mel = self.log_mel.to(self.device)
        rate = log_mel.sample_rate
        noise = None if self.noise is None else self.noise.to(self.device)
        on_cpu = self.device.type == "cpu"
        batch = self.cpu_batch if on_cpu else self.gpu_batch
        starts = range(0, len(self.rows), batch)
        clipped = 0
        for start in tqdm(starts, desc=f"features {name}", leave=False):
            rows = self.rows[start : start + batch]
            clips = [read_clip(row, self.samples, rate) for row in rows]
            wavs = torch.stack(clips).to(self.device)
            for copy in range(self.copies):
                heard = wavs
                if self.augment is not None:
                    heard = self.augment(wavs, noise)
                steps = self._steps(log_mel(heard)).cpu().numpy()
                out[copy, start : start + len(rows)] = steps
                clipped += np.isin(steps, (-128, 127)).sum()
        if clipped > MOST_CLIPPED * out.size:
            logger.warning(
                "%.0f %% of the features are outside of what int8 holds, "
                "±%.2f: scale them with --level_offset and --level_scale",
                100 * clipped / out.size,
                127 * self.step,
            )

    def _steps(self, features):
        """Features as int8."""
        steps = torch.round(features / self.step).clamp(-128, 127)
        return steps.to(torch.int8)


def _load(path, **options):
    try:
        return np.load(path, **options)
    except (EOFError, ValueError) as error:
        raise DataError(
            f"{path} is damaged ({error}): delete it, and it is computed again"
        ) from None


class CachedLogits:
    """What a frozen network says to cached features, likewise in a file.

    Arguments
    ---------
    features : CachedFeatures
    network : nn.Module
        In eval mode, on whichever device; its deepest depth is asked.
    """

    batch = 256

    def __init__(self, features, network):
        self.features = features
        digest = hashlib.sha256(features.path.name.encode())
        for name, value in network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().numpy().tobytes())
        # What weights do not tell, such as a dilation.
        digest.update(self._ask(network, slice(0, 1)).numpy().tobytes())
        path = features.path.with_name(f"logits-{digest.hexdigest()[:12]}.npy")
        if not path.exists():
            with whole_file(path) as part, open(part, "wb") as out:
                np.save(out, self._compute(network, path.stem))
        self.logits = _load(path)

    def get(self, clip_id, epoch=0):
        """Logits of what ``CachedFeatures.get`` gives, [classes]."""
        place = self.features.place(clip_id, epoch)
        return torch.from_numpy(self.logits[place])

    def _compute(self, network, name):
        copies, clips = self.features.features.shape[:2]
        starts = range(0, copies * clips, self.batch)
        logits = [
            self._ask(network, slice(start, start + self.batch))
            for start in tqdm(starts, desc=f"teacher's {name}", leave=False)
        ]
        return torch.cat(logits).view(copies, clips, -1).numpy()

    @torch.no_grad()
    def _ask(self, network, part):
        """Logits of a part of all copies of all clips."""
        steps = self.features.features
        rows = steps.reshape(-1, *steps.shape[2:])[part].astype(np.float32)
        device = next(network.parameters()).device
        batch = torch.from_numpy(rows).to(device) * self.features.step
        depth = network.depths[0]
        return network(batch, depth=[depth])[depth][0].cpu()
