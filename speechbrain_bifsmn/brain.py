"""Training a keyword network, teacher or student, with SpeechBrain."""

import json
import math
from collections import deque
from pathlib import Path

import speechbrain as sb
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import update_bn

from speechbrain_bifsmn.files import whole_file
from speechbrain_bifsmn.metrics import summarize
from speechbrain_bifsmn.quantizers import (
    auxiliary_loss,
    parameter_groups,
    set_progress,
)

# Keys of a training YAML that KeywordBrain reads.
BRAIN_KEYS = {
    "depth_weights",
    "distillation",
    "epoch_counter",
    "feature_augment",
    "label_smoothing",
    "log_mel",
    "lr_annealing",
    "norm_batches",
    "number_of_epochs",
    "output_folder",
    "seed",
    "thin_depths",
    "train_logger",
    "wav_augment",
}


def needs_teacher(losses):
    """Whether any of these distillation losses learns from a teacher.

    Arguments
    ---------
    losses : list of Distillation

    Returns
    -------
    bool
    """
    return any(loss.weight and loss.source == "teacher" for loss in losses)


def check_depth_weights(weights, depths):
    """Refuse any but one weight for each depth.

    Raises
    ------
    ValueError
    """
    if not all(
        isinstance(weight, int | float) and math.isfinite(weight)
        for weight in weights
    ):
        raise ValueError(f"depth_weights are numbers, not {weights}")
    if min(weights, default=0) < 0 or not sum(weights):
        raise ValueError(
            f"depth_weights must not be negative, nor all 0: {weights}"
        )
    if len(weights) != len(depths):
        raise ValueError(
            f"depth_weights has {len(weights)} numbers for the {len(depths)} "
            f"depths {list(depths)}"
        )


def check_hparams(hparams):
    """Refuse hyperparameters without a key that the Brain reads.

    Raises
    ------
    ValueError
    """
    missing = BRAIN_KEYS - {"thin_depths"} - set(hparams or {})
    if missing:
        raise ValueError(
            f"KeywordBrain reads {', '.join(sorted(missing))} from its "
            "hparams, too: hparams/bifsmn.yaml has them all"
        )


class _AllDepths(torch.nn.Module):
    """A model that runs at all its depths, as ``update_bn`` calls it."""

    def __init__(self, model, depths):
        super().__init__()
        self.model = model
        self.depths = depths

    def forward(self, feats):
        """Run; only the norms' statistics matter."""
        self.model(feats, depth=self.depths)


class KeywordBrain(sb.Brain):
    """Cross-entropy and distillation, at several depths in one step.

    loss = Σ_depth w_depth · (CE + Σ distillation), w = ``depth_weights``, over
    the losses of ``distillation`` whose weight is not 0. A step takes the
    deepest depth and all others or, with ``thin_depths``, so many drawn from
    them, whose weights then make up for the rest: the sandwich rule of Yu and
    Huang, "Universally Slimmable Networks", ICCV 2019, less its thinnest path.

    A batch has ``id``, ``target`` and either ``feats`` (cached features) or
    ``sig`` (waveforms, augmented and transformed here). It may have the
    teacher's ``logits``. ``modules`` holds ``model``; a teacher is passed
    apart, so that it is neither trained nor switched to train mode.

    ``hparams`` has ``BRAIN_KEYS``, as in hparams/bifsmn.yaml. Of those
    ``lr_annealing(optimizer)`` is called after each epoch's validation, and
    ``wav_augment(wavs, noise)``, if not None, on waveforms in training.
    Checkpoints are kept by ``error``: ``evaluate(test, min_key="error")``.

    Arguments
    ---------
    labels : list of str
        Class names.
    teacher : nn.Module, optional
        Network for ``hparams.distillation``, called as ``DFSMN`` is; it gets
        frozen and put into eval mode.
    noise : torch.Tensor, [n], optional
        Background noise for ``hparams.wav_augment`` when features are
        computed on the fly.
    **kwargs
        For ``speechbrain.Brain``.

    Raises
    ------
    ValueError
        If a hyperparameter is missing or impossible, the teacher is missing or
        among the modules, or a loss has parameters that are not.
    """

    def __init__(self, labels, teacher=None, noise=None, **kwargs):
        check_hparams(kwargs.get("hparams"))
        super().__init__(**kwargs)
        if teacher in self.modules.modules():
            raise ValueError(
                "the teacher is among the modules, and would be trained: pass "
                "it apart"
            )
        if teacher is not None:
            teacher.to(self.device).eval().requires_grad_(False)
        self.teacher = teacher
        self.labels = list(labels)
        self.noise = noise.to(self.device) if noise is not None else None
        # The module itself: self.modules.model may get wrapped, by DDP say.
        self.depths = self.modules.model.depths
        weights = self.hparams.depth_weights
        check_depth_weights(weights, self.depths)
        self.depth_weights = dict(zip(self.depths, weights, strict=True))
        thin = len(self.depths) - 1
        self.thin_depths = getattr(self.hparams, "thin_depths", thin)
        if self.thin_depths < thin:
            # Depths that are not drawn leave norms without a gradient.
            self.find_unused_parameters = True
        self.recent_feats = deque(maxlen=self.hparams.norm_batches)
        self.losses = [
            loss for loss in self.hparams.distillation if loss.weight
        ]
        if self.teacher is None and needs_teacher(self.losses):
            raise ValueError("distillation needs a teacher")
        theirs = {p for loss in self.losses for p in loss.parameters()}
        if theirs - set(self.modules.parameters()):
            raise ValueError(
                "a loss has parameters that nothing trains: put what it "
                "projects with into modules, too"
            )

    def fit(self, epoch_counter, train_set, valid_set=None, *args, **kwargs):
        """As the base class, but that what ends an epoch needs validation.

        Raises
        ------
        ValueError
            Without a validation set.
        """
        if valid_set is None:
            raise ValueError(
                "KeywordBrain needs a valid_set: rates are annealed and "
                "checkpoints kept after validation"
            )
        super().fit(epoch_counter, train_set, valid_set, *args, **kwargs)

    def compute_forward(self, batch, stage):
        """Features, and the model's logits and features at every depth."""
        batch = batch.to(self.device)
        feats = self.features(batch, stage)
        depths = self.depths
        if stage == sb.Stage.TRAIN:
            drawn = torch.randperm(len(depths) - 1)[: self.thin_depths]
            depths = [depths[i] for i in [0, *sorted((1 + drawn).tolist())]]
        return feats, self.modules.model(feats, depth=depths)

    def features(self, batch, stage):
        """[batch, frames, n_mels], augmented in training."""
        train = stage == sb.Stage.TRAIN
        if hasattr(batch, "feats"):
            feats = batch.feats.data
        else:
            wavs = batch.sig.data
            if train and self.hparams.wav_augment is not None:
                wavs = self.hparams.wav_augment(wavs, self.noise)
            feats = self.hparams.log_mel.to(self.device)(wavs)
            if not feats.isfinite().all():
                # Signs would hide it from the loss.
                raise ValueError(
                    "a clip has samples that are no numbers, one of "
                    + ", ".join(batch.id)
                )
        if train:
            for augment in self.hparams.feature_augment:
                # In-place masks must not reach the cache.
                feats = augment(feats.clone())
            self.recent_feats.append(feats)
        return feats

    def compute_objectives(self, predictions, batch, stage):
        """The loss, a scalar; counts what the metrics need."""
        feats, outputs = predictions
        truth = batch.target.data.squeeze(-1)
        train = stage == sb.Stage.TRAIN
        smoothing = self.hparams.label_smoothing if train else 0.0
        losses = self.losses if train else []
        targets = self.teacher_targets(feats, batch, losses)
        # Of all thin depths to those of this step.
        share = (len(self.depths) - 1) / max(len(outputs) - 1, 1)
        total = 0.0
        for depth, (logits, features) in outputs.items():
            loss = F.cross_entropy(
                logits.float(), truth, label_smoothing=smoothing
            )
            for distil in losses:
                if distil in targets:
                    loss = loss + distil(logits, features, targets[distil])
                if distil.source == "deeper":
                    with torch.no_grad():
                        targets[distil] = distil.targets(logits, features)
            weight = self.depth_weights[depth]
            if depth != self.depths[0]:
                weight *= share
            total = total + weight * loss
            if not train:
                self.predictions[depth] += logits.argmax(-1).tolist()
        if train:
            total = total + auxiliary_loss(self.modules.model)
        else:
            self.truth += truth.tolist()
        return total

    @torch.no_grad()
    def teacher_targets(self, feats, batch, losses):
        """What each loss that learns from the teacher needs of it, run once."""
        losses = [loss for loss in losses if loss.source == "teacher"]
        if not losses:
            return {}
        if hasattr(batch, "logits"):
            logits, features = batch.logits.data, None
        else:
            depth = self.teacher.depths[0]
            logits, features = self.teacher(feats, depth=[depth])[depth]
        return {loss: loss.targets(logits, features) for loss in losses}

    def init_optimizers(self):
        """As the base class, with the binarizers' parameters apart.

        Of a ``max_grad_norm`` SpeechBrain takes the first group alone: theirs
        are not clipped.
        """
        groups = parameter_groups(self.modules.model)
        apart = {p for group in groups for p in group["params"]}
        rest = [p for p in self.modules.parameters() if p not in apart]
        if self.remove_vector_weight_decay:
            vectors = [p for p in rest if p.dim() == 1]
            rest = [p for p in rest if p.dim() != 1]
            groups.append({"params": vectors, "weight_decay": 0.0})
        self.optimizer = self.opt_class([{"params": rest}, *groups])
        self.scale_learning_rates()
        self.optimizers_dict = {"opt_class": self.optimizer}
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("optimizer", self.optimizer)

    def scale_learning_rates(self):
        """Rates of the groups that learn slower, from that of the first."""
        first, *others = self.optimizer.param_groups
        for group in others:
            group["lr"] = first["lr"] * group.get("lr_factor", 1.0)

    def on_stage_start(self, stage, epoch=None):
        """Reset the counts; seed the epoch, so that a resumed run repeats."""
        self.truth = []
        self.predictions = {depth: [] for depth in self.depths}
        if stage == sb.Stage.TRAIN:
            torch.manual_seed(self.hparams.seed + epoch)
            set_progress(
                self.modules.model, (epoch - 1) / self.hparams.number_of_epochs
            )
        if stage == sb.Stage.VALID and self.recent_feats:
            self.measure_norms()

    def measure_norms(self):
        """Batch norms' statistics anew, from the latest training batches.

        One step flips many 1-bit weights, so an average over past steps
        describes networks that are no more.
        """
        update_bn(
            self.recent_feats, _AllDepths(self.modules.model, self.depths)
        )
        self.recent_feats.clear()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log accuracy at every depth, anneal, keep the best checkpoint."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        if stage == sb.Stage.VALID:
            self.check_finite(epoch)
        results = self.results()
        accuracy = {depth: row["accuracy"] for depth, row in results.items()}
        stats = {f"acc{depth}": value for depth, value in accuracy.items()}
        if stage == sb.Stage.TEST:
            self.hparams.train_logger.log_stats(
                {"epoch": self.hparams.epoch_counter.current},
                test_stats={"loss": stage_loss, **stats},
            )
            return
        # Balanced, since a validation set may have many more unknown words
        # than a test set, which then would choose the checkpoint alone.
        weight = sum(self.depth_weights.values())
        error = 100 - sum(
            results[str(depth)]["balanced_accuracy"] * w / weight
            for depth, w in self.depth_weights.items()
        )
        stats["balanced error"] = error
        lr = self.optimizer.param_groups[0]["lr"]
        self.hparams.lr_annealing(self.optimizer)
        self.scale_learning_rates()
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "lr": lr},
            train_stats={"loss": self.train_loss},
            valid_stats={"loss": stage_loss, **stats},
        )
        self.record(epoch, stage_loss, accuracy)
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                meta={"error": error, "epoch": epoch}, min_keys=["error"]
            )

    def check_finite(self, epoch):
        """Stop a training that has diverged, before it is kept.

        SpeechBrain skips a step whose loss is no number, and gives up after
        some; an epoch may have fewer.

        Raises
        ------
        ValueError
        """
        for name, values in self.modules.model.state_dict().items():
            if not values.isfinite().all():
                raise ValueError(
                    f"training has diverged in epoch {epoch}: {name} has "
                    "values that are no numbers; choose a lower --lr"
                )

    def record(self, epoch, valid_loss, accuracy):
        """Append an epoch to ``history.json``, for the training curves."""
        path = Path(self.hparams.output_folder) / "history.json"
        rows = json.loads(path.read_text()) if path.exists() else []
        rows = [row for row in rows if row["epoch"] < epoch]
        rows.append(
            {
                "epoch": epoch,
                "train_loss": self.train_loss,
                "valid_loss": valid_loss,
                "valid_accuracy": accuracy,
            }
        )
        if sb.utils.distributed.if_main_process():
            with whole_file(path) as part:
                part.write_text(json.dumps(rows, indent=1))

    def results(self):
        """What the last evaluation found.

        Returns
        -------
        dict of str to dict
            For each depth what ``metrics.summarize`` gives.
        """
        return {
            str(depth): summarize(self.labels, self.truth, predictions)
            for depth, predictions in self.predictions.items()
        }
