"""What a step and an epoch of the Brain do, without a training."""

from collections import deque
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from speechbrain_bifsmn.brain import (
    BRAIN_KEYS,
    KeywordBrain,
    check_depth_weights,
    sb,
)
from speechbrain_bifsmn.distillation import SubNetworkDistillation
from speechbrain_bifsmn.lobes.features import LogMel
from speechbrain_bifsmn.quantizers import WEIGHTS, make
from tests.tiny import tiny_bifsmn


def test_thin_paths_learn_from_the_next_deeper_one():
    """In the step of the Brain: who teaches whom, and what has a gradient."""
    loss = SubNetworkDistillation(weight=2.0, temperature=1.0)
    brain = KeywordBrain.__new__(KeywordBrain)
    brain.losses = [loss]
    brain.hparams = SimpleNamespace(label_smoothing=0.0)
    brain.depths = [4, 2, 1]
    brain.depth_weights = {4: 1.0, 2: 0.5, 1: 0.25}
    brain.modules = SimpleNamespace(model=torch.nn.Module())
    torch.manual_seed(0)
    logits = [torch.randn(3, 5, requires_grad=True) for _ in range(3)]
    outputs = dict(zip((4, 2, 1), ((x, []) for x in logits), strict=True))
    batch = SimpleNamespace(
        target=SimpleNamespace(data=torch.tensor([[1], [0], [4]]))
    )
    total = brain.compute_objectives((None, outputs), batch, sb.Stage.TRAIN)
    truth = torch.tensor([1, 0, 4])
    expected = torch.nn.functional.cross_entropy(logits[0], truth)
    for weight, ours, deeper in (
        (0.5, logits[1], logits[0]),
        (0.25, logits[2], logits[1]),
    ):
        log_p, log_q = ours.log_softmax(1), deeper.detach().log_softmax(1)
        divergence = (log_q.exp() * (log_q - log_p)).sum(1).mean()
        entropy = torch.nn.functional.cross_entropy(ours, truth)
        expected = expected + weight * (entropy + 2.0 * divergence)
    assert torch.allclose(total, expected)
    gradients = [
        torch.autograd.grad(x, logits, retain_graph=True)
        for x in (total, expected)
    ]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_binarizers_learn_slower_and_are_not_decayed():
    model = tiny_bifsmn(activation_quantizer="bifsmnv2", weight_quantizer="lpb")
    brain = KeywordBrain.__new__(KeywordBrain)
    brain.modules = torch.nn.ModuleDict({"model": model})
    brain.checkpointer = None
    brain.opt_class = partial(torch.optim.AdamW, lr=0.5, weight_decay=0.25)
    for plain in (False, True):
        brain.remove_vector_weight_decay = plain
        brain.init_optimizers()
        groups = {}
        for group in brain.optimizer.param_groups:
            for parameter in group["params"]:
                groups[parameter] = group["lr"], group["weight_decay"]
        assert len(groups) == len(list(model.parameters()))
        for name, parameter in model.named_parameters():
            decay = 0.0 if plain and parameter.dim() == 1 else 0.25
            slow = "_quantizer." in name
            assert groups[parameter] == ((0.05, 0.0) if slow else (0.5, decay))
    # A schedule may leave the rates as they are.
    before = [group["lr"] for group in brain.optimizer.param_groups]
    brain.scale_learning_rates()
    assert [group["lr"] for group in brain.optimizer.param_groups] == before


def test_a_clip_that_is_no_numbers_is_named():
    brain = KeywordBrain.__new__(KeywordBrain)
    brain.device = "cpu"
    brain.hparams = SimpleNamespace(log_mel=LogMel())
    wavs = torch.zeros(2, 16000)
    wavs[1, 5] = torch.nan
    batch = SimpleNamespace(sig=SimpleNamespace(data=wavs), id=["a", "b"])
    with pytest.raises(ValueError, match="no numbers, one of a, b"):
        brain.features(batch, sb.Stage.VALID)


def test_drawn_depths_have_the_loss_of_all_on_average():
    brain = KeywordBrain.__new__(KeywordBrain)
    brain.losses = []
    brain.hparams = SimpleNamespace(label_smoothing=0.0)
    brain.depths = [8, 4, 2, 1]
    brain.depth_weights = {8: 1.0, 4: 0.5, 2: 0.25, 1: 0.125}
    brain.modules = SimpleNamespace(model=torch.nn.Module())
    batch = SimpleNamespace(
        target=SimpleNamespace(data=torch.tensor([[1], [0]]))
    )
    outputs = {n: (torch.randn(2, 5), []) for n in brain.depths}

    def loss(depths):
        drawn = {n: outputs[n] for n in depths}
        return brain.compute_objectives((None, drawn), batch, sb.Stage.TRAIN)

    mean = (loss([8, 4]) + loss([8, 2]) + loss([8, 1])) / 3
    assert torch.allclose(mean, loss(brain.depths))


def test_every_thin_depth_is_drawn():
    brain = KeywordBrain.__new__(KeywordBrain)
    brain.device, brain.depths, brain.thin_depths = "cpu", [8, 4, 2, 1], 1
    brain.features = lambda batch, stage: None
    brain.modules = SimpleNamespace(model=lambda feats, depth: tuple(depth))
    batch = SimpleNamespace(to=lambda device: None)

    def run(stage):
        return brain.compute_forward(batch, stage)[1]

    drawn = {run(sb.Stage.TRAIN) for _ in range(60)}
    assert drawn == {(8, 4), (8, 2), (8, 1)}
    assert run(sb.Stage.VALID) == (8, 4, 2, 1)


def test_labels_are_smoothed_in_training_only():
    brain = KeywordBrain.__new__(KeywordBrain)
    brain.losses, brain.depths, brain.depth_weights = [], [4], {4: 1.0}
    brain.hparams = SimpleNamespace(label_smoothing=0.2)
    brain.modules = SimpleNamespace(model=torch.nn.Module())
    brain.truth, brain.predictions = [], {4: []}
    logits, truth = torch.randn(3, 5), torch.tensor([1, 0, 4])
    batch = SimpleNamespace(target=SimpleNamespace(data=truth[:, None]))
    for stage, smoothing in (sb.Stage.TRAIN, 0.2), (sb.Stage.VALID, 0.0):
        loss = brain.compute_objectives((None, {4: (logits, [])}), batch, stage)
        expected = torch.nn.functional.cross_entropy(
            logits, truth, label_smoothing=smoothing
        )
        assert torch.allclose(loss, expected)
    assert brain.truth == [1, 0, 4]


def test_schedules_advance_with_the_epochs():
    brain, found = KeywordBrain.__new__(KeywordBrain), []
    brain.depths, brain.recent_feats = [1], []
    brain.hparams = SimpleNamespace(seed=1, number_of_epochs=4)
    brain.modules = SimpleNamespace(model=make(WEIGHTS, "irnet", (2, 3)))
    for epoch in (1, 3, 4):
        brain.on_stage_start(sb.Stage.TRAIN, epoch)
        found.append(brain.modules.model.ede.t)
    assert found == pytest.approx([0.1, 1.0, 0.1 * 100**0.75])


def test_norms_are_measured_on_the_latest_batches_at_every_depth():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.asked = torch.nn.BatchNorm1d(3), []

        def forward(self, feats, depth):
            self.asked.append(depth)
            return self.norm(feats)

    brain, network = KeywordBrain.__new__(KeywordBrain), Network()
    brain.depths, brain.modules = [4, 2], SimpleNamespace(model=network)
    brain.recent_feats = deque([torch.randn(8, 3), torch.randn(8, 3) + 1])
    expected = torch.stack([x.mean(0) for x in brain.recent_feats]).mean(0)
    brain.on_stage_start(sb.Stage.VALID, 1)
    assert torch.allclose(network.norm.running_mean, expected, atol=1e-6)
    assert network.asked == 2 * [[4, 2]] and not brain.recent_feats


def test_an_epoch_is_judged_by_weighted_recalls_and_rates_stay_apart():
    kept, brain = [], KeywordBrain.__new__(KeywordBrain)
    brain.labels, brain.depths = ["a", "b"], [4, 2]
    brain.depth_weights, brain.train_loss = {4: 1.0, 2: 0.5}, 1.0
    brain.truth = [0, 0, 0, 1]
    brain.predictions = {4: [0, 0, 0, 0], 2: [0, 0, 0, 1]}
    groups = [{"lr": 0.5}, {"lr": 0.05, "lr_factor": 0.1}]
    brain.optimizer = SimpleNamespace(param_groups=groups)
    brain.hparams = SimpleNamespace(
        lr_annealing=lambda o: [g.update(lr=0.2) for g in o.param_groups],
        train_logger=SimpleNamespace(log_stats=lambda *_, **__: None),
    )
    brain.modules = SimpleNamespace(model=torch.nn.Module())
    brain.record = lambda *_: None
    brain.checkpointer = SimpleNamespace(
        save_and_keep_only=lambda meta, min_keys: kept.append(meta["error"])
    )
    brain.on_stage_end(sb.Stage.VALID, 1.0, epoch=1)
    assert kept == pytest.approx([100 - (50 + 0.5 * 100) / 1.5])
    assert [group["lr"] for group in groups] == pytest.approx([0.2, 0.02])


@pytest.mark.parametrize("weights", [["1", 1], [float("nan"), 1]])
def test_weights_of_depths_are_numbers(weights):
    with pytest.raises(ValueError, match="are numbers"):
        check_depth_weights(weights, [2, 1])


def brain(**changes):
    """A Brain of a small student, and what it was made of."""
    hparams = dict.fromkeys(BRAIN_KEYS - {"thin_depths"}) | {
        "depth_weights": [1.0] * 3,
        "distillation": [],
        "norm_batches": 1,
    }
    model = changes.pop("model", None) or tiny_bifsmn()
    teacher = changes.pop("teacher", None)
    return KeywordBrain(
        ["a", "b"],
        teacher,
        modules={"model": model, **changes.pop("modules", {})},
        hparams=hparams | changes,
    )


def test_what_a_brain_lacks_is_named():
    hparams = dict.fromkeys(BRAIN_KEYS - {"seed"})
    with pytest.raises(ValueError, match="KeywordBrain reads seed from"):
        KeywordBrain(["a"], hparams=hparams)
    with pytest.raises(ValueError, match="needs a valid_set"):
        brain().fit([1], [])
    teacher = tiny_bifsmn()
    with pytest.raises(ValueError, match="teacher is among the modules"):
        brain(teacher=teacher, modules={"teacher": teacher})
    loss = SubNetworkDistillation(1.0)
    loss.projection = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="parameters that nothing trains"):
        brain(distillation=[loss])
    brain(distillation=[loss], modules={"projection": loss.projection})
