"""Gradient descent on the noisy quadratic: against torch.optim.SGD and closed forms, on bad input, on the same and on other seeds."""
from __future__ import annotations

import math

import pytest
import torch
from torch.autograd.functional import hessian

from pixels_to_resnet.sgd import (
    condition_number,
    descend,
    loss_and_gradient,
    mean_squared_error,
    quadratic,
    root_mean_squared_error,
    speed_data,
    standardise,
)

RAW_CONDITION, SCALED_CONDITION = 218_450.6, 7.702


def data(seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Times, speeds and first parameters."""
    generator = torch.Generator().manual_seed(seed)
    time, speed = speed_data(generator)
    return time.to(dtype), speed.to(dtype), torch.randn(3, generator=generator).to(dtype)


def best_parameters(time: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
    columns = torch.stack([time**2, time, torch.ones_like(time)], dim=1).double()
    return torch.linalg.lstsq(columns, speed.double()[:, None]).solution[:, 0]


def mse_of(time: torch.Tensor, speed: torch.Tensor):
    return lambda parameters: mean_squared_error(quadratic(time, parameters), speed)


def rmse_of(time: torch.Tensor, speed: torch.Tensor):
    return lambda parameters: root_mean_squared_error(quadratic(time, parameters), speed)


def bowl(parameters: torch.Tensor) -> torch.Tensor:
    """Curvatures 2 and 8, minimum 0 at (0, 0)."""
    return parameters[0] ** 2 + 4 * parameters[1] ** 2


def with_torch(loss, parameters: torch.Tensor, learning_rate: float, n_steps: int, momentum: float) -> torch.Tensor:
    moving = parameters.clone().requires_grad_()
    optimizer = torch.optim.SGD([moving], lr=learning_rate, momentum=momentum)
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss(moving).backward()
        optimizer.step()
    return moving.detach()


def test_same_seed_same_data_other_seed_other_data():
    assert torch.equal(data(3)[1], data(3)[1]) and not torch.equal(data(3)[1], data(4)[1])


def test_data_leave_the_global_chance_alone():
    torch.manual_seed(5)
    expected = torch.randn(4)
    torch.manual_seed(5)
    data(0)
    assert torch.equal(torch.randn(4), expected)


def test_noise_has_the_stated_size_around_the_stated_parabola():
    time, speed = speed_data(torch.Generator().manual_seed(0), n=20_000)
    noise = speed.double() - (0.75 * (time.double() - 9.5) ** 2 + 1)
    small = noise[:1000]
    assert abs(small.mean()) < 0.3 and 2.8 < small.std() < 3.2
    assert time.dtype == speed.dtype == torch.float32 and time.shape == speed.shape == (20_000,)


def test_quadratic_of_one_model_and_of_many():
    time = torch.tensor([0.0, 1.0, 2.0])
    assert quadratic(time, torch.tensor([1.0, 10.0, 100.0])).tolist() == [100, 111, 124]
    many = torch.randn(3, 5, 1, generator=torch.Generator().manual_seed(0))
    together = quadratic(time, many)
    assert together.shape == (5, 3)
    for i in range(5):
        torch.testing.assert_close(together[i], quadratic(time, many[:, i, 0]))


def test_errors_have_true_names():
    predictions, targets = torch.tensor([1.0, 1.0]), torch.tensor([4.0, 5.0])
    assert mean_squared_error(predictions, targets) == torch.nn.functional.mse_loss(predictions, targets) == 12.5
    assert root_mean_squared_error(predictions, targets).item() == pytest.approx(math.sqrt(12.5))


@pytest.mark.parametrize("shapes", [((20, 1), (20,)), ((20,), (20, 1)), ((3,), (4,)), ((), (4,))])
def test_shapes_that_would_broadcast_in_silence_are_refused(shapes):
    with pytest.raises(ValueError, match="last axis"):
        mean_squared_error(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_standardised_values_and_new_values_on_the_same_scale():
    time = torch.arange(20.0)
    scaled = standardise(time)
    assert scaled.mean().abs() < 1e-6 and scaled.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(standardise(time[-1:], time), scaled[-1:])
    assert time.tolist() == list(range(20))


@pytest.mark.parametrize("same", [torch.ones(5), torch.tensor([3.0])])
def test_equal_values_cannot_be_standardised(same):
    with pytest.raises(ValueError, match="All values are equal"):
        standardise(same)


def test_gradient_of_the_mean_squared_error_is_its_closed_form():
    time, speed, first = data(1, torch.float64)
    value, gradient = loss_and_gradient(mse_of(time, speed), first)
    columns = torch.stack([time**2, time, torch.ones_like(time)])
    torch.testing.assert_close(gradient, 2 * (columns * (quadratic(time, first) - speed)).mean(1))
    assert not value.requires_grad and not gradient.requires_grad and first.grad is None


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-11)])
def test_descend_is_torch_optim_sgd(momentum, dtype, tolerance):
    time, speed, first = data(2, dtype)
    for loss, learning_rate in ((mse_of(standardise(time), speed), 0.02), (rmse_of(time, speed), 1e-4)):
        expected = with_torch(loss, first, learning_rate, 60, momentum)
        ours = descend(loss, first, learning_rate, 60, momentum).parameters
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


def test_each_direction_of_a_bowl_shrinks_by_one_minus_rate_times_curvature():
    start = torch.tensor([3.0, 1.0], dtype=torch.float64)
    run = descend(bowl, start, 0.2, 5)
    factors = 1 - 0.2 * torch.tensor([2.0, 8.0], dtype=torch.float64)
    torch.testing.assert_close(run.path, torch.stack([start * factors**k for k in range(6)]))
    torch.testing.assert_close(run.losses, torch.stack([bowl(start * factors**k) for k in range(6)]))


def test_losses_are_those_before_each_step_and_the_last_one_after_all():
    time, speed, first = data(0)
    loss = rmse_of(time, speed)
    run = descend(loss, first, 1e-4, 7)
    assert run.losses.shape == (8,) and run.path.shape == (8, 3)
    assert run.losses[0] == loss(first) and run.losses[-1] == loss(run.parameters)
    assert torch.equal(run.path[0], first) and torch.equal(run.path[-1], run.parameters)


def test_no_step_gives_the_first_loss():
    start = torch.tensor([1.0, 1.0])
    run = descend(bowl, start, 0.1, 0)
    assert run.losses.tolist() == [5] and run.parameters.tolist() == [1, 1]
    run.parameters.zero_()
    assert start.tolist() == [1, 1]


def test_input_is_not_changed_and_results_need_no_gradient():
    start = torch.tensor([3.0, 1.0], requires_grad=True)
    run = descend(bowl, start, 0.1, 3, momentum=0.9)
    assert start.tolist() == [3, 1] and start.grad is None
    assert not any(part.requires_grad for part in run)
    run.path.zero_()
    assert run.parameters.abs().sum() > 0


def test_it_works_inside_no_grad():
    with torch.no_grad():
        assert descend(bowl, torch.tensor([3.0, 1.0]), 0.1, 3).losses[-1] < 13


def test_own_rates_reach_the_minimum_of_a_bowl_in_one_step():
    run = descend(bowl, torch.tensor([3.0, 1.0]), 1 / torch.tensor([2.0, 8.0]), 1)
    torch.testing.assert_close(run.parameters, torch.zeros(2))


def test_a_rate_for_each_column_is_as_good_as_separate_runs():
    time, speed, first = data(0)
    rates = torch.tensor([0.01, 0.1, 0.2])
    loss = mse_of(standardise(time), speed)
    together = descend(lambda p: loss(p).sum(), first[:, None, None].expand(3, 3, 1), rates[:, None], 30)
    for i, rate in enumerate(rates.tolist()):
        torch.testing.assert_close(together.parameters[:, i, 0], descend(loss, first, rate, 30).parameters, rtol=1e-4, atol=1e-4)


def test_result_does_not_depend_on_earlier_calls():
    time, speed, first = data(0)
    loss = rmse_of(time, speed)
    one, other = (descend(loss, first, 1e-4, 50, momentum=0.9) for _ in range(2))
    assert torch.equal(one.path, other.path)


@pytest.mark.parametrize("seed", range(10))
def test_first_drop_is_the_rate_times_the_squared_norm_of_the_gradient(seed):
    time, speed, first = data(seed)
    loss = rmse_of(time, speed)
    losses = descend(loss, first, 1e-4, 1).losses
    foretold = 1e-4 * loss_and_gradient(loss, first)[1].square().sum()
    assert ((losses[0] - losses[1]) / foretold).item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_raw_times_stall_and_scaled_times_arrive(seed):
    time, speed, first = data(seed)
    least = rmse_of(time.double(), speed.double())(best_parameters(time, speed)).item()
    assert 1.5 < least < 4
    assert 22 < descend(rmse_of(time, speed), first, 1e-4, 1000).losses[-1] < 28
    assert descend(mse_of(standardise(time), speed), first, 0.25, 40).losses[-1].sqrt().item() == pytest.approx(least, rel=0.01)


def test_mean_squared_error_explodes_at_the_rate_that_suits_its_root():
    time, speed, first = data(0)
    assert descend(mse_of(time, speed), first, 1e-4, 4).losses[-1] > 1e8
    assert (descend(mse_of(time, speed), first, 1e-5, 10).losses.diff() < 0).all()


def test_condition_numbers_of_the_toy():
    time, speed, first = data(0, torch.float64)
    assert condition_number(hessian(mse_of(time, speed), first)) == pytest.approx(RAW_CONDITION, abs=1)
    assert condition_number(hessian(mse_of(standardise(time), speed), first)) == pytest.approx(SCALED_CONDITION, abs=0.001)
    assert condition_number(torch.diag(torch.tensor([2.0, 8.0]))) == pytest.approx(4)


@pytest.mark.parametrize("curvatures", [torch.zeros(2, 2), torch.diag(torch.tensor([1.0, -1.0])), torch.full((2, 2), math.nan)])
def test_no_condition_number_without_a_lowest_point(curvatures):
    with pytest.raises((ValueError, torch.linalg.LinAlgError)):
        condition_number(curvatures)


def test_condition_number_of_something_not_square():
    with pytest.raises(ValueError, match="square"):
        condition_number(torch.zeros(2, 3))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"learning_rate": 0.0}, "above 0"),
        ({"learning_rate": -0.1}, "above 0"),
        ({"learning_rate": math.nan}, "above 0"),
        ({"learning_rate": math.inf}, "finite"),
        ({"learning_rate": torch.tensor([0.1, 0.0])}, "above 0"),
        ({"learning_rate": torch.full((3,), 0.1)}, "does not fit"),
        ({"learning_rate": torch.full((2, 2), 0.1)}, "does not fit"),
        ({"n_steps": -1}, "0 or more"),
        ({"momentum": 1.0}, "below 1"),
        ({"momentum": -0.1}, "below 1"),
        ({"parameters": torch.tensor([3, 1])}, r"\.float\(\)"),
        ({"loss": lambda p: p}, "one number"),
        ({"loss": lambda p: torch.tensor(1.0)}, "does not depend"),
    ],
)
def test_options_with_which_nothing_is_learned_are_refused(change, words):
    options = {"loss": bowl, "parameters": torch.tensor([3.0, 1.0]), "learning_rate": 0.1, "n_steps": 2}
    with pytest.raises(ValueError, match=words):
        descend(**(options | change))


def test_too_few_measurements_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        speed_data(torch.Generator(), n=2)
