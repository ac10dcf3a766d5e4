"""The linear model, its loss, optimizer and loop, the batches they are fed with, and the breaks that must not pass."""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pixels_to_resnet.batches import Batches
from pixels_to_resnet.data import Digits, DigitSplits, load_digits
from pixels_to_resnet.linear import (
    BasicOptim,
    LinearModel,
    binary_accuracy,
    binary_targets,
    fit_linear,
    seeded,
    sigmoid_l1_loss,
    train_epoch,
    validate,
)
from pixels_to_resnet.pixel_similarity import accuracy_by_class, predict

AFTER_1 = {"mnist": (0.968, 0.9745), "standin": (0.91, 0.955)}
AFTER_20 = {"mnist": (0.980, 0.985), "standin": (0.957, 0.98)}


@pytest.fixture(scope="module")
def digits() -> DigitSplits:
    """The 3s and 7s in force."""
    return load_digits("mnist_sample")


@pytest.fixture
def few() -> Digits:
    """Ninety random pictures with labels 3 and 7."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (90, 28, 28), dtype=torch.uint8, generator=generator)
    return Digits(images, torch.tensor([3, 7, 7])[torch.arange(90) % 3])


def score(model: nn.Module, valid: Digits) -> float:
    """The share of right answers."""
    return (predict(model, valid) == valid.labels).float().mean().item()


def trained(train: Digits, seed: int, epochs: int, shuffle: bool = True, loss: Callable = sigmoid_l1_loss, column: bool = True) -> LinearModel:
    """What `fit_linear` does, from its parts; `column` says whether targets are (n, 1) or (n,)."""
    with seeded(seed):
        model = LinearModel()
    targets = binary_targets(train.labels)
    batches = Batches(train.images, targets if column else targets[:, 0], 256, shuffle=shuffle, seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(epochs):
        train_epoch(model, batches, loss, optimizer)
    return model


def within(value: float, band: tuple[float, float]) -> bool:
    """Whether a result lies in its band."""
    return band[0] <= value <= band[1]


# ---- targets, loss, accuracy


def test_targets_are_a_column_of_floats() -> None:
    targets = binary_targets(torch.tensor([3, 7, 3]))
    assert targets.dtype == torch.float32 and targets.tolist() == [[1.0], [0.0], [1.0]]
    assert binary_targets(torch.tensor([3, 7, 3]), positive=7).tolist() == [[0.0], [1.0], [0.0]]


def test_the_worked_example_of_the_loss() -> None:
    targets, predictions = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.9, 0.4, 0.2])
    assert torch.where(targets == 1, 1 - predictions, predictions).mean().item() == pytest.approx(0.4333, abs=1e-4)
    assert sigmoid_l1_loss(predictions, targets).item() == pytest.approx(0.4460, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_of_the_loss_is_the_one_computed_by_hand(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(32, 784, dtype=torch.float64, generator=generator)
    y = (torch.rand(32, 1, generator=generator) > 0.5).double()
    weights = torch.randn(784, 1, dtype=torch.float64, generator=generator).requires_grad_()
    bias = torch.randn(1, dtype=torch.float64, generator=generator).requires_grad_()
    sigmoid_l1_loss(x @ weights + bias, y).backward()
    s = (x @ weights + bias).detach().sigmoid()
    slopes = (1 - 2 * y) * s * (1 - s)
    assert torch.allclose(weights.grad, x.T @ slopes / 32, rtol=1e-12, atol=1e-15)
    assert torch.allclose(bias.grad, slopes.mean(0), rtol=1e-12, atol=1e-15)


def test_the_border_of_the_logits_is_0() -> None:
    logits, targets = torch.tensor([[0.1], [-0.1], [0.0], [0.4]]), torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    assert binary_accuracy(logits, targets).item() == 1
    assert binary_accuracy(logits, 1 - targets).item() == 0


@pytest.mark.parametrize("function", [sigmoid_l1_loss, binary_accuracy])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 1), (7, 1), (8, 2)])
def test_shapes_that_would_broadcast_are_refused(function: Callable, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give both the same shape"):
        function(torch.zeros(8, 1), torch.zeros(shape))


# ---- seeds


def test_seeded_leaves_the_global_generator_untouched() -> None:
    before = torch.get_rng_state()
    with seeded(0):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(0):
        assert torch.equal(torch.rand(3), first)
    with seeded(1):
        assert not torch.equal(torch.rand(3), first)


def test_seeded_puts_the_generator_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(0):
        torch.rand(3)
        raise KeyError("anything")
    assert torch.equal(torch.get_rng_state(), before)


def test_fitting_neither_reads_nor_moves_the_global_generator(few: Digits) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = fit_linear(few, epochs=2, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(fit_linear(few, epochs=2, seed=3).linear.weight, one.linear.weight)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(few: Digits) -> None:
    one, same, other = (fit_linear(few, epochs=3, seed=seed, batch_size=32) for seed in (0, 0, 1))
    assert torch.equal(one.linear.weight, same.linear.weight) and torch.equal(one.linear.bias, same.linear.bias)
    assert not torch.equal(one.linear.weight, other.linear.weight)


def test_the_seed_also_fixes_the_order_of_the_batches(few: Digits) -> None:
    by_hand = trained(few, seed=4, epochs=3)
    assert torch.equal(fit_linear(few, epochs=3, seed=4).linear.weight, by_hand.linear.weight)


# ---- model, optimizer, loop


def test_the_model_has_785_parameters_and_gives_a_column() -> None:
    with seeded(0):
        model = LinearModel()
    assert sum(p.numel() for p in model.parameters()) == 785 and model.classes == (7, 3)
    assert model(torch.zeros(5, 28, 28)).shape == (5, 1)
    assert torch.equal(model(torch.zeros(1, 28, 28))[0], model.linear.bias)
    x = torch.rand(4, 28, 28)
    assert torch.allclose(model(x), x.view(4, 784) @ model.linear.weight.T + model.linear.bias, atol=1e-6)
    assert model.linear.weight.abs().max() <= 1 / 28


@pytest.mark.parametrize("learning_rate", [1e-3, 0.1, 1.0, 10.0])
def test_basic_optim_is_torchs_sgd_bit_for_bit(learning_rate: float) -> None:
    models = []
    for make in (BasicOptim, lambda p, rate: torch.optim.SGD(p, lr=rate)):
        with seeded(0):
            model = nn.Sequential(nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 1))
            batches = [(torch.randn(16, 20), torch.randint(0, 2, (16, 1)).float()) for _ in range(30)]
        train_epoch(model, batches, sigmoid_l1_loss, make(model.parameters(), learning_rate))
        models.append(model)
    for ours, torchs in zip(*(m.parameters() for m in models)):
        assert torch.equal(ours, torchs)


def test_basic_optim_skips_what_has_no_gradient_and_empties_what_has() -> None:
    used, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = BasicOptim((p for p in (used, unused)), 0.5)
    used.sum().backward()
    optimizer.step()
    assert used.tolist() == [0.5, 0.5] and unused.tolist() == [1, 1]
    assert used.is_leaf and used.requires_grad
    optimizer.zero_grad()
    assert used.grad is None


def test_an_epoch_takes_one_step_for_each_batch_and_leaves_no_gradients() -> None:
    taken = []

    class Counting(BasicOptim):
        def step(self) -> None:
            taken.append([p.grad.clone() for p in self.parameters])
            super().step()

    with seeded(0):
        model = LinearModel()
    batches = [(torch.rand(4, 28, 28), torch.ones(4, 1))] * 3
    train_epoch(model, batches, sigmoid_l1_loss, Counting(model.parameters(), 0.0))
    assert len(taken) == 3 and all(p.grad is None for p in model.parameters())
    assert torch.equal(taken[0][0], taken[2][0]), "with the learning rate 0 every step has the same gradient, unless gradients add up"


def test_validation_weighs_batches_by_their_sizes(digits: DigitSplits) -> None:
    with seeded(0):
        model = LinearModel()
    with torch.no_grad():
        model.linear.weight.zero_()
        model.linear.bias.fill_(1.0)
    batches = Batches(digits.valid.images, binary_targets(digits.valid.labels))
    assert validate(model, batches) == pytest.approx(1010 / 2038, abs=1e-9)
    unweighted = [binary_accuracy(model(x), y).item() for x, y in batches]
    assert sum(unweighted) / len(unweighted) == pytest.approx(0.4932, abs=5e-5)
    loss = sigmoid_l1_loss(torch.ones(2038, 1), binary_targets(digits.valid.labels)).item()
    assert validate(model, batches, sigmoid_l1_loss) == pytest.approx(loss, abs=1e-6)


def test_validation_leaves_no_graph_and_refuses_nothing_to_validate_on(few: Digits) -> None:
    model = LinearModel()
    seen = []

    def metric(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(logits.requires_grad)
        return logits.mean()

    assert isinstance(validate(model, Batches(few.images, binary_targets(few.labels)), metric), float)
    assert seen == [False]
    with pytest.raises(ValueError, match="give at least one"):
        validate(model, [])


# ---- training on the digits in force


@pytest.mark.parametrize("seed", [0, 11, 12])
def test_the_linear_model_ends_within_its_band(digits: DigitSplits, data_in_force: str, seed: int) -> None:
    model = fit_linear(digits.train, seed=seed)
    assert within(score(model, digits.valid), AFTER_20[data_in_force])
    assert min(accuracy_by_class(predict(model, digits.valid), digits.valid.labels).values()) > 0.92


def test_one_epoch_is_within_its_band(digits: DigitSplits, data_in_force: str) -> None:
    assert all(within(score(fit_linear(digits.train, epochs=1, seed=seed), digits.valid), AFTER_1[data_in_force]) for seed in range(5))


def test_training_without_shuffling_fails_the_bands(digits: DigitSplits, data_in_force: str) -> None:
    after_1, after_20 = (score(trained(digits.train, 0, n, shuffle=False), digits.valid) for n in (1, 20))
    assert after_1 == pytest.approx(1010 / 2038), "always 3"
    assert not within(after_1, AFTER_1[data_in_force]) and not within(after_20, AFTER_20[data_in_force])


def test_a_loss_that_broadcasts_fails_the_band(digits: DigitSplits, data_in_force: str) -> None:
    def careless(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (logits.sigmoid() - targets).abs().mean()

    assert within(score(trained(digits.train, 0, 1, loss=careless), digits.valid), AFTER_1[data_in_force])
    assert score(trained(digits.train, 0, 3, loss=careless, column=False), digits.valid) < 0.6


def test_zero_epochs_are_the_first_weights_and_none_is_20(few: Digits) -> None:
    with seeded(9):
        model = LinearModel()
    assert torch.equal(fit_linear(few, epochs=0, seed=9).linear.weight, model.linear.weight)
    assert torch.equal(fit_linear(few, seed=9).linear.weight, fit_linear(few, epochs=20, seed=9).linear.weight)


# ---- predict, with one column of logits


class Told(nn.Module):
    """Logits read off the first pixels of each picture."""

    def __init__(self, classes: tuple[int, ...], columns: int):
        super().__init__()
        self.classes, self.columns = classes, columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The first `columns` pixels, minus one half."""
        return x.flatten(1)[:, : self.columns] - 128 / 255


def test_predict_takes_the_second_class_where_a_single_logit_is_above_0() -> None:
    images = torch.zeros(4, 28, 28, dtype=torch.uint8)
    images[:, 0, 0] = torch.tensor([255, 0, 128, 129])
    digits = Digits(images, torch.tensor([3, 7, 7, 3]))
    assert predict(Told((7, 3), 1), digits).tolist() == [3, 7, 7, 3]
    assert predict(Told((3, 7), 1), digits, batch_size=1).tolist() == [7, 3, 3, 7]


def test_predict_takes_the_largest_of_several_logits_even_if_all_are_below_0() -> None:
    images = torch.zeros(3, 28, 28, dtype=torch.uint8)
    images[torch.arange(3), 0, torch.arange(3)] = 9
    assert predict(Told((4, 5, 6), 3), Digits(images, torch.tensor([4, 5, 6]))).tolist() == [4, 5, 6]
    assert predict(Told((7, 3), 2), Digits(images[:2], torch.tensor([7, 3]))).tolist() == [7, 3]


# ---- batches


@pytest.fixture
def numbered() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures that hold their own number, 0 to 99, and that number as target."""
    numbers = torch.arange(100)
    return numbers.to(torch.uint8)[:, None, None].expand(100, 28, 28).contiguous(), numbers


@pytest.mark.parametrize("batch_size", [1, 7, 32, 100, 1000])
@pytest.mark.parametrize("shuffle", [False, True])
def test_each_pass_holds_each_image_once_with_its_own_target(numbered: tuple[torch.Tensor, torch.Tensor], batch_size: int, shuffle: bool) -> None:
    batches = Batches(*numbered, batch_size, shuffle=shuffle, seed=1)
    for _ in range(2):
        pairs = list(batches)
        assert len(pairs) == len(batches)
        assert [len(y) for _, y in pairs[:-1]] == [min(batch_size, 100)] * (len(pairs) - 1)
        x, y = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
        assert sorted(y.tolist()) == list(range(100)) and (y.tolist() == list(range(100))) is not shuffle
        assert x.dtype == torch.float32 and torch.equal(x, numbered[0][y].float() / 255)


def test_orders_follow_from_the_seed_and_differ_from_pass_to_pass(numbered: tuple[torch.Tensor, torch.Tensor]) -> None:
    def passes(seed: int) -> list[list[int]]:
        batches = Batches(*numbered, 9, shuffle=True, seed=seed)
        return [torch.cat([y for _, y in batches]).tolist() for _ in range(3)]

    before = torch.get_rng_state()
    assert passes(0) == passes(0) and passes(0) != passes(1)
    assert len(set(map(tuple, passes(0)))) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_shuffling_leaves_the_digits_as_they_were(numbered: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, targets = (t.clone() for t in numbered)
    list(Batches(*numbered, 10, shuffle=True))
    assert torch.equal(numbered[0], images) and torch.equal(numbered[1], targets)


def test_requests_that_do_not_fit_are_refused(numbered: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, targets = numbered
    wrong = {"must be uint8": (images.float(), targets), "one target for each": (images, targets[1:]), "at least 1": (images, targets, 0)}
    for remedy, arguments in wrong.items():
        with pytest.raises(ValueError, match=remedy):
            Batches(*arguments)
