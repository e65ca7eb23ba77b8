"""Every binarizer is 1-bit, and its gradient is the one of its formula."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn.init import normal_, uniform_

from speechbrain_bifsmn.layers import NormPReLU
from speechbrain_bifsmn.quantizers import (
    ACTIVATIONS,
    WEIGHTS,
    auxiliary_loss,
    fused,
    make,
    parameter_groups,
    set_progress,
)
from tests.tiny import tiny_bifsmn

PROGRESS = (0.0, 0.4, 0.95)


def clip(x):
    return x.clamp(-1, 1)


def polynomial(x):
    """Whose derivative is max(0, 2 - 2|x|)."""
    return torch.where(x.abs() < 1, 2 * x - x * x.abs(), x.sign())


def tanh(x, q, progress):
    t = 10 ** (-1 + 2 * progress)
    return max(1 / t, 1) * torch.tanh(t * x)


def series(x, q, progress):
    terms = sum(
        torch.sin((2 * i + 1) * 0.1 * x) / (2 * i + 1)
        for i in range(10 + round(9 * progress))
    )
    noise = q.sign.up(torch.relu(q.sign.down(x))) + 0.1 * torch.sin(x)
    return 4 / math.pi * terms + (1 - progress) * noise


def four_levels(x, q, progress):
    """s is a factor of levels that stay, and u·s is x - θ within 2 s."""
    step = q.log_step.exp()
    u = (x - q.shift) / step
    levels = (u.detach().floor() + 0.5).clamp(-1.5, 1.5)
    return levels * step + step.detach() * u.clamp(-2, 2)


# What has the gradient, of x, of the binarizer, and of the progress.
ACTIVATION_FORMULAS = {
    "bnn": lambda x, q, p: clip(x),
    "xnor": lambda x, q, p: clip(x),
    "dorefa": lambda x, q, p: x.clamp(0, 1),
    "bireal": lambda x, q, p: polynomial(x),
    "irnet": tanh,
    "reactnet": lambda x, q, p: polynomial(x - q.threshold),
    "rad": lambda x, q, p: clip(x),
    "recu": lambda x, q, p: polynomial(x),
    "fda": series,
    "bifsmn": lambda x, q, p: clip(x),
    "lpb": lambda x, q, p: clip(q.sign.alpha * x),
    "lsq": four_levels,
    "as-released": lambda x, q, p: clip(x),
}


def channel_mean(w):
    return w.mean(1, keepdim=True)


def standard(w):
    return (w - channel_mean(w)) / w.std(1, keepdim=True)


def recu_clamp(w, w0, q, p):
    tau = 0.85 + (0.99 - 0.85) * (math.exp(p) - 1) / (math.e - 1)
    limit = -channel_mean(standard(w0).abs()) * math.log(2 - 2 * tau)
    v = standard(w)
    return torch.minimum(torch.maximum(v, -limit), limit) * q.scale[:, None]


# The same of w, where scales are those of w0, and with them no gradient.
WEIGHT_FORMULAS = {
    "bnn": lambda w, w0, q, p: clip(w),
    "xnor": lambda w, w0, q, p: w / 12 + channel_mean(w0.abs()) * clip(w),
    "dorefa": lambda w, w0, q, p: w,
    "bireal": lambda w, w0, q, p: channel_mean(w0.abs()) * clip(w),
    "irnet": lambda w, w0, q, p: (
        2 ** channel_mean(standard(w0).abs()).log2().round()
        * tanh(standard(w), q, p)
    ),
    "reactnet": lambda w, w0, q, p: clip(w),
    "rad": lambda w, w0, q, p: clip(w),
    "recu": recu_clamp,
    "fda": lambda w, w0, q, p: series(w, q, p),
    "bifsmn": lambda w, w0, q, p: clip(w - w.mean()),
    "lpb": lambda w, w0, q, p: clip(q.sign.alpha * w),
    "bifsmnv2": lambda w, w0, q, p: clip(q.sign.alpha * w),
    "lsq": lambda w, w0, q, p: clip(q.sign.alpha * w),
    "as-released": lambda w, w0, q, p: clip(w - w.mean()),
}


def numerical_gradient(formula, x, upstream, step=1e-6):
    """Central differences of Σ upstream · formula(x)."""
    gradient = torch.empty_like(x)
    for i in range(x.numel()):
        shift = torch.zeros_like(x)
        shift.view(-1)[i] = step
        with torch.no_grad():
            rise = formula(x + shift) - formula(x - shift)
        gradient.view(-1)[i] = (upstream * rise).sum() / (2 * step)
    return gradient


def randomized(quantizer, progress):
    """With learned parameters away from where they start."""
    for name, parameter in quantizer.named_parameters():
        uniform_(parameter, *((0.5, 1.5) if "alpha" in name else (-0.4, 0.4)))
    quantizer.set_progress(progress)
    return quantizer.double()


@pytest.mark.parametrize("progress", PROGRESS)
@pytest.mark.parametrize("name", ACTIVATION_FORMULAS)
def test_activation_gradients_are_those_of_the_formula(name, progress):
    torch.manual_seed(1)
    quantizer = randomized(make(ACTIVATIONS, name, 6), progress)
    x = 1.2 * torch.randn(5, 6, dtype=torch.float64)
    upstream = torch.randn_like(x)
    kept = upstream.clone()
    leaf = x.clone().requires_grad_()
    parameters = list(quantizer.parameters())
    quantizer(leaf).backward(upstream)
    assert torch.equal(upstream, kept), "the gradient was edited in place"
    formula = ACTIVATION_FORMULAS[name]
    expected = numerical_gradient(
        lambda v: formula(v, quantizer, progress), x, upstream
    )
    assert torch.allclose(leaf.grad, expected, atol=1e-6)
    # What the method learns gets the formula's gradient too.
    ours = [parameter.grad for parameter in parameters]
    if parameters:
        y = formula(x, quantizer, progress)
        theirs = torch.autograd.grad(y, parameters, upstream)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("progress", PROGRESS)
@pytest.mark.parametrize("name", WEIGHT_FORMULAS)
def test_weight_gradients_are_those_of_the_formula(name, progress, kind):
    torch.manual_seed(2)
    quantizer = randomized(make(WEIGHTS, name, (5, 12), kind), progress)
    w = 0.8 * torch.randn(5, 12, dtype=torch.float64)
    upstream = torch.randn_like(w)
    leaf = w.clone().requires_grad_()
    quantizer(leaf).backward(upstream)
    formula = WEIGHT_FORMULAS[name]
    if kind == "linear" and name in ("bifsmn", "as-released"):
        formula = WEIGHT_FORMULAS["bnn"]  # not centred
    expected = numerical_gradient(
        lambda v: formula(v, w, quantizer, progress), w, upstream
    )
    assert torch.allclose(leaf.grad, expected, atol=1e-6)


MAGNITUDES = {
    "reactnet": lambda w, q: channel_mean(w.abs()),
    "fda": lambda w, q: w.abs().mean(),
    "bifsmn": lambda w, q: channel_mean((w - w.mean()).abs()),
    "irnet": lambda w, q: 2 ** channel_mean(standard(w).abs()).log2().round(),
    "recu": lambda w, q: q.scale.abs()[:, None],
}


@pytest.mark.parametrize("name", MAGNITUDES)
def test_weights_have_the_magnitude_of_the_formula(name):
    torch.manual_seed(2)
    quantizer = randomized(make(WEIGHTS, name, (5, 12)), 0.5)
    w = 0.8 * torch.randn(5, 12, dtype=torch.float64) + 0.3
    expected = MAGNITUDES[name](w, quantizer).expand_as(w)
    assert torch.allclose(quantizer(w).abs(), expected)


@pytest.mark.parametrize("name", sorted(WEIGHTS))
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_channel_of_equal_weights_has_a_finite_gradient(name, value):
    w = torch.full((2, 5), value, requires_grad=True)
    (100 * make(WEIGHTS, name, (2, 5))(w)).sum().backward()
    assert torch.isfinite(w.grad).all()


@pytest.mark.parametrize("kind", ["conv", "pointwise", "linear"])
@pytest.mark.parametrize("name", sorted(set(WEIGHTS) - {"as-released"}))
def test_weights_have_one_magnitude_for_each_channel(name, kind):
    torch.manual_seed(3)
    quantizer = randomized(make(WEIGHTS, name, (4, 3, 5), kind), 0.5)
    w = torch.randn(4, 3, 5, dtype=torch.float64)
    binary = quantizer(w)
    signs, scale = quantizer.fold(w)
    folded = torch.where(signs, 1.0, -1.0) * scale[:, None, None]
    assert torch.equal(folded, binary.detach())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"as-released"}))
def test_activations_are_their_bit_planes(name, training):
    """In training and in use, at zero too; and the padding is one of them."""
    torch.manual_seed(4)
    quantizer = randomized(make(ACTIVATIONS, name, 6), 0.5).train(training)
    for shape in (7, 6), (2, 9, 12), (2, 6, 5, 4):
        x = torch.randn(shape, dtype=torch.float64)
        x.view(-1)[::3] = 0
        y = quantizer(x)
        with torch.no_grad():
            assert torch.allclose(quantizer.eval()(x), y, atol=1e-12)
        quantizer.train(training)
        planes = quantizer.fold()
        assert torch.allclose(planes.values(x), y, atol=1e-12)
        with torch.no_grad():
            padding = quantizer.padding
        assert math.isclose(planes.padding, padding, abs_tol=1e-9)
        assert len(y.unique()) <= 2 ** len(planes.gains)


def test_two_planes_by_hand():
    """θ0 = 0.25, θ1 = 0.5, θ2 = 0.125, σ = 0.5."""
    quantizer = make(ACTIVATIONS, "bifsmnv2").double().eval()
    with torch.no_grad():
        quantizer.shift.copy_(torch.tensor([0.25, 0.5, 0.125]))
        quantizer.scale.fill_(0.5)
    x = torch.tensor([-1.0, -0.5, 0.0, 0.25, 1.25, 1.5], dtype=torch.float64)
    # b1 is +1 from 0.25 on; b2 where x - b1 >= 0.5: from -0.5 to 0.25, and
    # from 1.5 on.
    b1 = torch.tensor([-1, -1, -1, 1, 1, 1])
    b2 = torch.tensor([-1, 1, 1, -1, -1, 1])
    expected = b1 + 0.5 * b2 - 0.125
    assert torch.equal(quantizer(x), expected.double())
    with torch.no_grad():
        assert torch.equal(quantizer(x), expected.double())
    # σ follows mean|x - b1 - θ1| in training, by tenths.
    quantizer.train()(x)
    mean = (x - b1 - 0.5).abs().mean()
    assert math.isclose(quantizer.scale, 0.9 * 0.5 + 0.1 * mean)


@pytest.mark.parametrize("shape", [(3,), (2, 7, 5), (2, 3, 4, 5), (0, 4)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("method", ["bifsmnv2", "lsq"])
def test_two_planes_in_one_pass(shape, training, method, monkeypatch):
    """The loops and plain PyTorch: values, every gradient, σ."""

    def run(x, grad):
        torch.manual_seed(2)
        quantizer = make(ACTIVATIONS, method).double().train(training)
        for name, parameter in quantizer.named_parameters():
            limits = (0.001, 2.0) if "alpha" in name else (-0.5, 0.5)
            uniform_(parameter.data, *limits)
        if method == "bifsmnv2":
            quantizer.second.alpha.data.fill_(0.001)  # below the smallest
        x = x.clone().requires_grad_()
        y = quantizer(x.transpose(0, -1))
        y.backward(grad)
        gradients = [p.grad for p in (x, *quantizer.parameters())]
        return [y, *quantizer.buffers(), *gradients]

    torch.manual_seed(1)
    x = 2 * torch.randn(shape, dtype=torch.float64)
    grad = torch.randn_like(x.transpose(0, -1))
    found = run(x, grad)
    monkeypatch.setattr(fused, "can_fuse", lambda x: False)
    if x.numel():
        for ours, theirs in zip(found, run(x, grad), strict=True):
            assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("shift", [[2.0, 0.0, 0.0], [-2.0, 0.5, 0.1]])
def test_two_planes_whose_thresholds_are_out_of_order(shift):
    quantizer = make(ACTIVATIONS, "bifsmnv2").double()
    with torch.no_grad():
        quantizer.shift.copy_(torch.tensor(shift))
    x = torch.linspace(-4, 4, 161, dtype=torch.float64) + 1e-3
    with torch.enable_grad():
        y = quantizer.eval()(x)
    assert torch.allclose(quantizer.fold().values(x), y, atol=1e-12)


def test_lpb_by_hand():
    """α = 2: the gradient passes where |x| <= 1/2, doubled."""
    quantizer = make(ACTIVATIONS, "lpb")
    with torch.no_grad():
        quantizer.sign.alpha.fill_(2.0)
    x = torch.tensor([-0.6, -0.5, 0.1, 3.0], requires_grad=True)
    y = quantizer(x)
    assert y.tolist() == [-1, -1, 1, 1]
    y.sum().backward()
    assert x.grad.tolist() == [0, 2, 2, 0]
    assert math.isclose(quantizer.sign.alpha.grad, -0.5 + 0.1, rel_tol=1e-6)
    with torch.no_grad():
        quantizer.sign.alpha.fill_(-3.0)  # may not flip the signs
    assert quantizer(x).tolist() == [-1, -1, 1, 1]


def test_the_distribution_loss_by_hand():
    quantizer = make(ACTIVATIONS, "rad", 2).train()
    # μ = 3 and 0, σ = √2 and 0: degenerate, then far from saturated.
    x = torch.tensor([[2.0, 0.0], [4.0, 0.0]], requires_grad=True)
    quantizer(x)
    degenerate = (3 - math.sqrt(2)) ** 2
    loss = quantizer.auxiliary_loss()
    assert math.isclose(loss.item(), 0.1 * (degenerate + 1) / 2, rel_tol=1e-6)
    assert quantizer.auxiliary_loss() == 0.0
    quantizer.eval()(x)
    assert quantizer.auxiliary_loss() == 0.0


def test_the_distribution_loss_of_maps_and_of_several_calls():
    quantizer = make(ACTIVATIONS, "rad", 2).train()
    a = 8 / math.sqrt(2)
    # σ = 8, then 16: saturated by 1 and by 3.
    x = torch.tensor([[a, 0.0], [-a, 4 * a]], requires_grad=True)
    quantizer(x)
    first = quantizer.auxiliary_loss()
    assert math.isclose(first.item(), 0.1 * (1 + 9) / 2, rel_tol=1e-5)
    maps = torch.randn(3, 2, 4, 5) * torch.tensor([1.0, 20.0])[:, None, None]
    quantizer(maps.requires_grad_())
    alone = quantizer.auxiliary_loss()
    quantizer(maps.movedim(1, -1).reshape(-1, 2))
    assert torch.allclose(quantizer.auxiliary_loss(), alone)
    quantizer(x), quantizer(maps)
    assert torch.allclose(quantizer.auxiliary_loss(), (first + alone) / 2)


@pytest.mark.parametrize("slope", [0.25, 2.0])
def test_rprelu_folds_to_what_it_computes(slope):
    torch.manual_seed(5)
    layer = NormPReLU(4, rprelu=True).double().eval()
    for parameter in layer.parameters():
        normal_(parameter)
    uniform_(layer.slope.data, 0.1, slope)
    x = torch.randn(50, 4, dtype=torch.float64)
    scale, bias, slopes, shift = layer.fold()
    z = scale * x + bias
    expected = np.where(z >= 0, z, slopes * z) + shift.numpy()
    assert np.allclose(layer(x).detach().numpy(), expected)


def test_a_loop_of_ones_own_advances_schedules_and_frees_graphs():
    model = tiny_bifsmn(weight_quantizer="irnet", activation_quantizer="rad")
    # Those of the forwards that made it, which never went backward.
    assert auxiliary_loss(model.train()) > 0
    for _ in range(3):
        for _ in range(10):
            model(torch.randn(2, 32, 20)).sum().backward()
        copy.deepcopy(model)
    # Those of the steps before have no graph any more.
    assert auxiliary_loss(model) == 0
    # The second call's losses outlive the first one's graph.
    first = model(torch.randn(2, 32, 20))
    model(torch.randn(2, 32, 20))
    first.sum().backward()
    loss = auxiliary_loss(model)
    loss.backward()
    assert loss > 0 and auxiliary_loss(model) == 0
    before = model.conv2.weight_quantizer.ede.t
    set_progress(model, 0.5)
    assert model.conv2.weight_quantizer.ede.t > before
    with pytest.raises(ValueError, match="from 0 to 1, not 2"):
        set_progress(model, 2)


def test_binarizers_parameters_are_apart():
    model = tiny_bifsmn(weight_quantizer="lpb", activation_quantizer="reactnet")
    groups = parameter_groups(model)
    names = {id(p): name for name, p in model.named_parameters()}
    found = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(found) == sorted(n for n in names.values() if "_quant" in n)
    assert {group["weight_decay"] for group in groups} == {0.0}
    assert {group["lr_factor"] for group in groups} == {0.1, 1.0}


@pytest.mark.parametrize("method", ["irnet", "recu"])
def test_one_weight_has_no_deviation(method):
    with pytest.raises(ValueError, match=f"{method} .* more taps"):
        tiny_bifsmn(weight_quantizer=method, left=0, right=0)
