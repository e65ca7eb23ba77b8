"""Distillation losses against libraries and hand-made cases."""

import pytest
import pywt
import torch

from speechbrain_bifsmn.distillation import (
    HED,
    LogitDistillation,
    high_frequency,
)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("shape", [(8, 16), (7, 13), (1, 5), (6, 128)])
def test_high_frequency_is_a_haar_transform_without_its_low_band(shape, levels):
    torch.manual_seed(0)
    x = torch.randn(2, *shape, dtype=torch.float64)
    side = 2**levels
    padding = [0, -shape[1] % side, 0, -shape[0] % side]
    padded = torch.nn.functional.pad(x, padding).numpy()
    bands = pywt.wavedec2(padded, "haar", level=levels, axes=(1, 2))
    bands[0] = bands[0] * 0
    expected = pywt.waverec2(bands, "haar", axes=(1, 2))
    expected = torch.from_numpy(expected[:, : shape[0], : shape[1]])
    assert torch.allclose(high_frequency(x, levels), expected)


def by_hand(student, teacher, clips_apart):
    """HED of one layer, spelled out."""
    groups = [(student, teacher, high_frequency(teacher, 1))]
    if clips_apart:
        groups = zip(*groups[0], strict=True)
    losses = []
    for s, t, high in groups:
        t = high / high.std() + t / t.std()
        s, t = s.square() / s.square().norm(), t.square() / t.square().norm()
        losses.append((s - t).norm())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("norm", ["utterance", "batch"])
def test_hed_is_its_formula_and_picks_the_teacher_layers(norm):
    torch.manual_seed(0)
    # Clips of different loudness, so that it matters whose std divides them.
    levels = torch.tensor([0.1, 1.0, 10.0]).reshape(3, 1, 1)
    teacher = [levels * torch.randn(3, 8, 6) for _ in range(8)]
    student = [torch.randn(3, 8, 6, requires_grad=True) for _ in range(2)]
    hed = HED(weight=0.5, levels=1, norm=norm)
    loss = hed(None, student, hed.targets(None, teacher))
    expected = sum(
        by_hand(s, teacher[j], norm == "utterance")
        for s, j in zip(student, [3, 7], strict=True)
    )
    assert torch.allclose(loss, 0.5 * expected)


def test_hed_survives_silence():
    features = [torch.zeros(2, 8, 6, requires_grad=True)]
    hed = HED()
    loss = hed(None, features, hed.targets(None, [torch.zeros(2, 8, 6)]))
    loss.backward()
    assert loss == 0 and torch.isfinite(features[0].grad).all()


@pytest.mark.parametrize("norm", ["utterance", "batch"])
def test_only_batch_norms_couple_clips(norm):
    torch.manual_seed(0)
    hed = HED(norm=norm)
    teacher = torch.randn(2, 8, 6) * torch.tensor([1.0, 5.0])[:, None, None]
    student = torch.randn(2, 8, 6)

    def first_clip(clips):
        """Its target and twice the gradient of its share, among these."""
        features = student[:clips].clone().requires_grad_()
        targets = hed.targets(None, [teacher[:clips]])
        hed(None, [features], targets).backward()
        target = targets[0].reshape(clips, -1)[0]
        return torch.stack([target, clips * features.grad[0].ravel()])

    apart = torch.allclose(first_clip(1), first_clip(2), atol=1e-7)
    assert apart == (norm == "utterance")
    target_apart = torch.allclose(first_clip(1)[0], first_clip(2)[0])
    assert target_apart == (norm == "utterance")


def test_logit_distillation_is_kl_times_squared_temperature():
    torch.manual_seed(0)
    ours, theirs = torch.randn(5, 4), torch.randn(5, 4)
    loss = LogitDistillation(weight=0.5, temperature=3.0)
    p = (theirs / 3).softmax(-1)
    kl = (p * (p.log() - (ours / 3).log_softmax(-1))).sum(-1).mean()
    value = loss(ours, [], loss.targets(theirs, []))
    assert torch.allclose(value, 0.5 * 9 * kl)
    assert loss(theirs, [], loss.targets(theirs, [])).abs() < 1e-6
