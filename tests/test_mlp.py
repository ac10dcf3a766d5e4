"""The multi-layer perceptron: what its layers compute, which sizes it takes, and its band on the digits in force."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pixels_to_resnet.batches import Batches
from pixels_to_resnet.data import Digits, DigitSplits, load_digits
from pixels_to_resnet.linear import BasicOptim, LinearModel, binary_targets, fit_linear, seeded, sigmoid_l1_loss, train_epoch, validate
from pixels_to_resnet.mlp import MLP, fit_mlp

# Accuracy on the 2,038 validation digits after 40 shuffled epochs. MNIST: seeds 0 to 9 gave .98135 to .98234 here; the band goes one digit
# of 2,038 below the published one's lower end. The stand-in: .9666 to .9706. Half a digit's share is left for rounding.
BANDS = {"mnist": (0.9811, 0.9836), "standin": (0.9650, 0.9722)}

# The published band is that of a loader that goes through the digits in order; seeds 0 to 9 gave .98184 to .98332 so.
PUBLISHED, HALF_A_DIGIT = (0.9819, 0.9834), 0.5 / 2038


@pytest.fixture(scope="module")
def digits() -> DigitSplits:
    """The 3s and 7s in force."""
    return load_digits("mnist_sample")


@pytest.fixture(scope="module")
def fitted(digits: DigitSplits) -> MLP:
    """The default network, seed 0."""
    return fit_mlp(digits.train)


def accuracy(model: nn.Module, digits: DigitSplits) -> float:
    """Of `model` on the validation digits."""
    return validate(model, Batches(digits.valid.images, binary_targets(digits.valid.labels), 2048))


def some(n: int, seed: int = 0) -> torch.Tensor:
    """`n` pictures of noise."""
    return torch.rand(n, 28, 28, generator=torch.Generator().manual_seed(seed))


def test_the_default_has_23581_parameters_and_one_logit_an_image() -> None:
    model = MLP()
    assert sum(p.numel() for p in model.parameters()) == 23581 == 784 * 30 + 30 + 30 + 1
    assert model(some(5)).shape == (5, 1) and model.classes == (7, 3)
    assert [type(layer).__name__ for layer in model.layers] == ["Flatten", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize("sizes", [(784, 1), (784, 30, 1), (784, 5, 6, 7, 1), [784, 2, 1], (784, 8, 2)])
def test_logits_are_those_written_out_by_hand(sizes: tuple[int, ...]) -> None:
    model, x = MLP(sizes), some(7)
    parameters = list(model.parameters())
    by_hand = x.flatten(1)
    for i, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2])):
        by_hand = (by_hand if i == 0 else by_hand.clamp(min=0)) @ weight.T + bias
    assert torch.allclose(model(x), by_hand, atol=1e-5)
    assert model(x).shape == (7, sizes[-1]) and len(parameters) == 2 * (len(sizes) - 1)


def test_ten_classes_have_ten_logits() -> None:
    model = MLP((784, 20, 10), classes=range(10))
    assert model(some(3)).shape == (3, 10) and model.classes == tuple(range(10))


@pytest.mark.parametrize(
    ("sizes", "classes", "words"),
    [
        ((784,), (7, 3), "make no layer"),
        ((), (7, 3), "make no layer"),
        ((784, 0, 1), (7, 3), "not all whole numbers from 1 on"),
        ((784, -3, 1), (7, 3), "not all whole numbers from 1 on"),
        ((784, 30.0, 1), (7, 3), "not all whole numbers from 1 on"),
        ((784, True, 1), (7, 3), "not all whole numbers from 1 on"),
        ((784, "30", 1), (7, 3), "not all whole numbers from 1 on"),
        ((784, 30, 10), (7, 3), "10 logits do not fit 2 classes"),
        ((784, 30, 1), range(10), "1 logits do not fit 10 classes"),
        ((784, 30, 2), (3,), "2 logits do not fit 1 classes"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_in_a_sentence(sizes: tuple[int, ...], classes: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        MLP(sizes, classes)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_fit_refuses_them_before_it_trains(digits: DigitSplits) -> None:
    with pytest.raises(ValueError, match="make no layer"):
        fit_mlp(digits.train, sizes=(784,))


def test_two_linear_layers_equal_one_and_with_relu_they_do_not() -> None:
    x = some(64) - 0.5
    with seeded(0):
        model = MLP()
    first, second = model.layers[1], model.layers[3]
    one = F.linear(x.flatten(1), second.weight @ first.weight, second.weight @ first.bias + second.bias)
    assert torch.allclose(second(first(x.flatten(1))), one, atol=1e-5)
    assert not torch.allclose(model(x), one, atol=1e-3)


def best_loss_on_abs(with_relu: bool) -> float:
    """The mean squared error on |x|, -1 to 1, that 200 steps reach."""
    x = torch.linspace(-1, 1, 101)[:, None]
    with seeded(0):
        model: nn.Module = MLP((1, 8, 1)) if with_relu else nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(200):
        loss = F.mse_loss(model(x), x.abs())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_without_relu_no_training_fits_the_absolute_value() -> None:
    x = torch.linspace(-1, 1, 101)
    best_line = x.abs().var(unbiased=False).item()
    assert best_loss_on_abs(with_relu=True) < best_line / 20
    assert best_loss_on_abs(with_relu=False) > best_line * 0.999


def test_with_two_sizes_it_is_the_linear_model(digits: DigitSplits) -> None:
    linear, shallow = fit_linear(digits.train, epochs=1), MLP((784, 1))
    shallow.layers[1].load_state_dict(linear.linear.state_dict())
    x = digits.valid.images[::10] / 255
    assert torch.equal(shallow(x), linear(x))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_seed_alone(digits: DigitSplits) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = fit_mlp(digits.train, epochs=1, seed=3)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(99)
    same, other = fit_mlp(digits.train, epochs=1, seed=3), fit_mlp(digits.train, epochs=1, seed=4)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), same.parameters()))
    assert not torch.equal(one.layers[1].weight, other.layers[1].weight)


def test_fit_is_the_loop_of_the_linear_chapter(digits: DigitSplits) -> None:
    with seeded(0):
        model = MLP((784, 6, 1))
    batches = Batches(digits.train.images, binary_targets(digits.train.labels), 100, shuffle=True, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        train_epoch(model, batches, sigmoid_l1_loss, optimizer)
    by_library = fit_mlp(digits.train, epochs=2, learning_rate=0.5, batch_size=100, sizes=(784, 6, 1))
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(model.parameters(), by_library.parameters()))


def test_no_epochs_leave_the_first_weights(digits: DigitSplits) -> None:
    with seeded(7):
        expected = MLP()
    got = fit_mlp(digits.train, epochs=0, seed=7)
    assert all(torch.equal(p, q) for p, q in zip(got.parameters(), expected.parameters()))


def test_weights_at_pixels_without_ink_stay_as_they_were(digits: DigitSplits, fitted: MLP) -> None:
    with seeded(0):
        start = MLP()
    never = (digits.train.images.amax(0) == 0).flatten()
    change = fitted.layers[1].weight - start.layers[1].weight
    assert never.any() and (change[:, never] == 0).all() and (change[:, ~never] != 0).any(0).all()


def test_the_band_of_three_seeds(digits: DigitSplits, fitted: MLP, data_in_force: str) -> None:
    low, high = BANDS[data_in_force]
    scores = [accuracy(fitted, digits), *(accuracy(fit_mlp(digits.train, seed=seed), digits) for seed in (1, 2))]
    assert all(low <= score <= high for score in scores), scores


def fitted_in_order(digits: DigitSplits, seed: int, epochs: int = 40) -> MLP:
    """The default network, trained on batches that are never shuffled, as in the published result."""
    with seeded(seed):
        model = MLP()
    batches, optimizer = Batches(digits.train.images, binary_targets(digits.train.labels), 256), BasicOptim(model.parameters(), 0.1)
    for _ in range(epochs):
        train_epoch(model, batches, sigmoid_l1_loss, optimizer)
    return model


def test_in_order_three_seeds_are_in_the_published_band(digits: DigitSplits, data_in_force: str) -> None:
    if data_in_force != "mnist":
        pytest.skip("the published band is MNIST's")
    low, high = PUBLISHED[0] - HALF_A_DIGIT, PUBLISHED[1] + HALF_A_DIGIT
    scores = [accuracy(fitted_in_order(digits, seed), digits) for seed in range(3)]
    assert all(low <= score <= high for score in scores), scores
    assert not low <= accuracy(fitted_in_order(digits, 0, epochs=10), digits) <= high


def test_what_is_broken_leaves_the_band(digits: DigitSplits, data_in_force: str) -> None:
    low, high = BANDS[data_in_force]
    zero = MLP()
    for parameter in zero.parameters():
        nn.init.zeros_(parameter)
    batches = Batches(digits.train.images, binary_targets(digits.train.labels), 256, shuffle=True)
    optimizer = torch.optim.SGD(zero.parameters(), lr=0.1)
    train_epoch(zero, batches, sigmoid_l1_loss, optimizer)
    assert not zero.layers[1].weight.any() and not zero.layers[3].weight.any()
    assert accuracy(zero, digits) < 0.51 < low
    swapped = Digits(digits.train.images, 10 - digits.train.labels)
    assert accuracy(fit_mlp(swapped, epochs=3), digits) < 0.1
    assert not low <= accuracy(fit_mlp(digits.train, epochs=3), digits) <= high
    assert not low <= accuracy(LinearModel(), digits) <= high


def test_it_trains_on_the_device_of_the_digits(digits: DigitSplits) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    on_gpu = Digits(digits.train.images.cuda(), digits.train.labels.cuda())
    model = fit_mlp(on_gpu, epochs=1)
    assert all(p.is_cuda for p in model.parameters())
