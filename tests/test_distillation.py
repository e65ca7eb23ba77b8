"""Distillation losses against libraries and hand-made cases."""

import pytest
import pywt
import torch

from speechbrain_bifsmn.distillation import (
    FID,
    HED,
    AttentionTransfer,
    LogitDistillation,
    _EnergyDistance,
    energy,
    energy_distance,
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


@pytest.mark.parametrize("norm", ["batch", "utterance"])
def test_the_gradient_of_energies_is_autograds(norm):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    rows = 1 if norm == "batch" else 3
    target = torch.nn.functional.normalize(
        torch.rand(rows, 60 // rows).double()
    )

    def ours(x):
        return _EnergyDistance.apply(x, target.view(x.shape), norm)

    assert torch.autograd.gradcheck(ours, x)
    squares = x.square().reshape(rows, -1)
    unit = squares / squares.norm(dim=1, keepdim=True)
    expected = (unit - target).norm(dim=1).mean()
    assert torch.allclose(ours(x), expected)


def test_equal_energies_survive_a_scaled_loss():
    x = torch.randn(2, 3, 4, requires_grad=True)
    distance = energy_distance(x, energy(x.detach(), "utterance"), "utterance")
    assert distance == 0
    (65536 * distance).backward()
    assert torch.isfinite(x.grad).all()


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


def random_features(layers):
    return [torch.randn(3, 8, 6, requires_grad=True) for _ in range(layers)]


@pytest.mark.parametrize("norm", ["utterance", "batch"])
def test_fid_is_its_formula(norm):
    torch.manual_seed(0)
    teacher, student = random_features(4), random_features(2)
    ours, theirs = torch.randn(3, 5), torch.randn(3, 5)
    fid = FID(weight=0.5, levels=2, norm=norm)
    loss = fid(ours, student, fid.targets(theirs, teacher))
    expected = (ours - theirs).square().mean()
    for s, t in zip(student, (teacher[1], teacher[3]), strict=True):
        highs = high_frequency(s, 2), high_frequency(t, 2)
        lows = s - highs[0], t - highs[1]
        for a, b in (highs, lows):
            a, b = a.square(), b.square()
            pairs = [(a, b)] if norm == "batch" else zip(a, b, strict=True)
            distances = [(x / x.norm() - y / y.norm()).norm() for x, y in pairs]
            expected = expected + torch.stack(distances).mean()
    assert torch.allclose(loss, 0.5 * expected)


def test_fid_by_hand():
    """Two frames, two channels: the band means of 2 x 2 blocks."""
    student = torch.tensor([[[3.0, 1.0], [1.0, 3.0]]])
    teacher = torch.tensor([[[1.0, 1.0], [1.0, 5.0]]])
    logits = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 2.0]])
    # Low bands: 2 and 2 everywhere, alike. High bands: ±1, and -1, -1, -1, 3;
    # their squares by the norm: 1/2 each, and 1, 1, 1, 9 by √84.
    high = (3 * (0.5 - 1 / 84**0.5) ** 2 + (0.5 - 9 / 84**0.5) ** 2) ** 0.5
    fid = FID(weight=2.0)
    loss = fid(logits[0], [student], fid.targets(logits[1], [teacher]))
    assert torch.allclose(loss, torch.tensor(2 * (high + 0.5)))


def test_attention_by_hand():
    student = torch.tensor([[[3.0, 0.0], [0.0, 2.0]]])
    teacher = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    # Energies over time 9, 4 and 2, 0.
    a = torch.tensor([9.0, 4.0]) / 97**0.5
    expected = 0.5 * (a - torch.tensor([1.0, 0.0])).norm()
    loss = AttentionTransfer(0.5)
    targets = loss.targets(None, [teacher])
    assert torch.allclose(loss(None, [student], targets), expected)


def test_hed_takes_its_levels():
    x = torch.randn(1, 8, 8)
    high = high_frequency(x, 2)
    (target,) = HED(levels=2).targets(None, [x])
    expected = (high / high.std() + x / x.std()).square()
    assert torch.allclose(target, expected / expected.norm(), atol=1e-6)


def test_attention_averages_clips_and_picks_the_teacher_layers():
    student, teacher = random_features(2), random_features(8)
    loss = AttentionTransfer(0.5)
    expected = 0
    for s, t in zip(student, (teacher[3], teacher[7]), strict=True):
        a, b = (x.square().sum(2) for x in (s, t))
        a, b = (v / v.norm(dim=1, keepdim=True) for v in (a, b))
        expected = expected + (a - b).norm(dim=1).mean()
    found = loss(None, student, loss.targets(None, teacher))
    assert torch.allclose(found, 0.5 * expected)


@pytest.mark.parametrize("loss", [HED, FID, AttentionTransfer])
def test_layers_that_nobody_teaches_are_refused(loss):
    loss, logits = loss(), torch.zeros(3, 4)
    for ours, theirs in (4, 2), (0, 2):
        targets = loss.targets(logits, random_features(theirs))
        with pytest.raises(ValueError, match=f"{ours} layers .* from {theirs}"):
            loss(logits, random_features(ours), targets)


@pytest.mark.parametrize("loss", [HED, FID, AttentionTransfer])
def test_layers_of_other_shapes_are_refused(loss):
    loss, logits = loss(), torch.zeros(2, 4)
    targets = loss.targets(logits, [torch.randn(2, 8, 4)])
    with pytest.raises(ValueError, match="as many frames"):
        loss(logits, [torch.randn(2, 4, 8)], targets)


@pytest.mark.parametrize("loss", [FID, LogitDistillation])
def test_logits_of_other_classes_are_refused(loss):
    loss, features = loss(), random_features(2)
    targets = loss.targets(torch.zeros(1, 12), features)
    with pytest.raises(ValueError, match=r"\[3, 12\] cannot .* \[1, 12\]"):
        loss(torch.zeros(3, 12), features, targets)


@pytest.mark.parametrize("loss", [HED, FID])
def test_levels_are_checked(loss):
    for levels in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"from 1 on, not {levels}"):
            loss(levels=levels)


def test_weights_and_temperatures_are_finite():
    with pytest.raises(ValueError, match="weight of HED is .*, not nan"):
        HED(float("nan"))
    with pytest.raises(ValueError, match="temperature must be .*, not inf"):
        LogitDistillation(temperature=float("inf"))


@pytest.mark.parametrize(
    "loss", [HED, FID, AttentionTransfer, LogitDistillation]
)
def test_who_teaches_learns_nothing(loss):
    loss, learners = loss(), []
    for _ in range(2):
        logits = torch.randn(3, 4, requires_grad=True)
        learners.append((logits, random_features(2)))
        learners[-1][1][0].requires_grad_()
    loss(*learners[0], loss.targets(*learners[1])).backward()
    gradients = [(x.grad, f[0].grad) for x, f in learners]
    assert gradients[0] != (None, None) and gradients[1] == (None, None)


@pytest.mark.parametrize("loss", [HED, FID, AttentionTransfer])
def test_maps_that_are_no_frames_are_refused(loss):
    with pytest.raises(ValueError, match=r"channels\], not \[2, 3, 4, 5\]"):
        loss().targets(torch.zeros(2, 4), [torch.randn(2, 3, 4, 5)])
