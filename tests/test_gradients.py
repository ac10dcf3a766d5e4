"""The engine of chapter 02 against torch and measured slopes, on random computations; what it refuses; a broken one is found out."""
from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from pixels_to_resnet import gradients
from pixels_to_resnet.gradients import Variable, finite_difference_gradient, gradient_descent, slope, unbroadcast

Recipe = tuple[list[tuple[int, ...]], list[tuple[str, int, int]], int]
RTOL = 1e-6


def _matrix(a: Any) -> Any:
    """Rows of the length of the last axis."""
    return a.reshape(-1, a.shape[-1] if len(a.shape) else 1)


def _reduced(method: str, axis: int) -> Callable[[Any, Any], Any]:
    """The reduction of `a` along `axis` (or along all, for an array without axes), once without and once with keepdims."""

    def reduce(a: Any, b: Any) -> Any:
        if not len(a.shape):
            return getattr(a, method)()
        at = axis % len(a.shape)
        kept = getattr(a, method)(axis=at, keepdims=True)
        return kept + getattr(a, method)(axis=at).reshape(*kept.shape)

    return reduce


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / (b * b + 1),
    "negate": lambda a, b: -a,
    "constants on the right": lambda a, b: (a + 2) * 0.5 - 1 / 3,
    "constants on the left": lambda a, b: 2 + 0.5 * (1 - a) + 3 / (a * a + 1),
    "cube": lambda a, b: a**3 / 10,
    "power 0": lambda a, b: a**0 + b,
    "negative power": lambda a, b: (a * a + 1) ** -1.5,
    "root": lambda a, b: (a * a + 1) ** 0.5,
    "exp": lambda a, b: a.tanh().exp(),
    "log": lambda a, b: (a * a + 1).log(),
    "tanh": lambda a, b: a.tanh(),
    "sigmoid": lambda a, b: a.sigmoid(),
    "relu": lambda a, b: _off_the_corner(a).relu(),
    "abs": lambda a, b: _off_the_corner(a).abs(),
    "sum of all": lambda a, b: a.sum(),
    "mean of all": lambda a, b: a.mean(),
    "sum of the first axis": _reduced("sum", 0),
    "sum of the last axis": _reduced("sum", -1),
    "mean of the first axis": _reduced("mean", 0),
    "mean of the last axis": _reduced("mean", -1),
    "sum of two axes": lambda a, b: a.sum(axis=(0, -1), keepdims=True) if len(a.shape) > 1 else a,
    "swap axes": lambda a, b: _matrix(_matrix(a).T).mean(),
    "vector @ vector": lambda a, b: (a + b).reshape(-1) @ (a * b).reshape(-1),
    "matrix @ vector": lambda a, b: (_matrix(a + b) @ _matrix(a * b).sum(0)).mean(),
    "vector @ matrix": lambda a, b: (_matrix(a * b).sum(0) @ _matrix(a + b).T).mean(),
    "matrix @ matrix": lambda a, b: (_matrix(a + b) @ _matrix(a * b).T).tanh().mean(),
    "column @ row": lambda a, b: (a.reshape(-1, 1) @ b.reshape(1, -1)).sigmoid().sum(),
}


def _off_the_corner(a: Any) -> Any:
    """`a`; the example is left out if an entry is so close to 0 that rounding decides on which side it lies (0 itself is fine)."""
    size = np.abs(a.data if isinstance(a, Variable) else a.detach().numpy())
    assume(not ((size > 0) & (size < 1e-9)).any())
    return a


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Shapes of leaves that broadcast against each other, operations on leaves and earlier results, and a seed for the numbers."""
    full = draw(st.lists(st.integers(1, 4), max_size=3))
    shapes = []
    for _ in range(draw(st.integers(1, 4))):
        axes = full[draw(st.integers(0, len(full))) :]
        shapes.append(tuple(length if draw(st.booleans()) else 1 for length in axes))
    steps = [
        (draw(st.sampled_from(sorted(OPERATIONS))), draw(st.integers(0, len(shapes) + i - 1)), draw(st.integers(0, len(shapes) + i - 1)))
        for i in range(draw(st.integers(1, 8)))
    ]
    return shapes, steps, draw(st.integers(0, 2**32 - 1))


def numbers_for(recipe: Recipe) -> list[np.ndarray]:
    """The numbers of the leaves."""
    rng = np.random.default_rng(recipe[2])
    return [rng.normal(size=shape) for shape in recipe[0]]


def follow(recipe: Recipe, leaves: list[Any]) -> Any:
    """The number that the recipe computes; every leaf has a part in it."""
    values = list(leaves)
    for name, i, j in recipe[1]:
        values.append(OPERATIONS[name](values[i], values[j]))
    total = values[0].mean()
    for value in values[1:]:
        total = total + value.mean()
    return total


def assert_same(got: np.ndarray | None, expected: np.ndarray) -> None:
    """Equal shapes, and every entry within 1e-6 of itself, apart from rounding in the largest entry."""
    assert got is not None and np.shape(got) == expected.shape
    np.testing.assert_allclose(got, expected, rtol=RTOL, atol=1e-11 * max(1.0, np.abs(expected).max(initial=0)))


def agrees_with_torch(recipe: Recipe) -> None:
    """Value and gradients of a recipe, by the engine and by torch in float64."""
    arrays = numbers_for(recipe)
    theirs = [torch.tensor(array, requires_grad=True) for array in arrays]
    expected = follow(recipe, theirs)
    assume(torch.isfinite(expected).item())
    expected.backward()
    ours = [Variable(array) for array in arrays]
    result = follow(recipe, ours)
    result.backward()
    assert_same(result.data, expected.detach().numpy())
    for variable, tensor in zip(ours, theirs):
        assert_same(variable.grad, tensor.grad.numpy())


def run_property(check: Callable[[Recipe], None], n_examples: int, phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink)) -> None:
    """`check` on that many recipes, the same ones every time."""
    given_one = settings(
        max_examples=n_examples, deadline=None, derandomize=True, database=None, phases=phases, suppress_health_check=list(HealthCheck)
    )
    given_one(given(recipes())(check))()


def test_values_and_gradients_agree_with_torch_on_more_than_a_thousand_random_computations() -> None:
    seen: list[tuple[int, int]] = []

    def check(recipe: Recipe) -> None:
        agrees_with_torch(recipe)
        seen.append((len(recipe[0]), len(recipe[1])))

    run_property(check, 1500)
    assert len(seen) >= 1000
    assert np.mean([n_steps for _, n_steps in seen]) > 2 and max(n_leaves for n_leaves, _ in seen) == 4


def test_gradients_agree_with_measured_slopes() -> None:
    smooth = set(OPERATIONS) - {"relu", "abs"}

    def check(recipe: Recipe) -> None:
        assume(all(name in smooth for name, _, _ in recipe[1]) and len(recipe[1]) <= 4)
        arrays = numbers_for(recipe)
        ours = [Variable(array) for array in arrays]
        follow(recipe, ours).backward()
        measured = finite_difference_gradient(lambda *a: follow(recipe, [Variable(x) for x in a]).data, *arrays)
        largest = max(1.0, *(np.abs(m).max(initial=0) for m in measured))
        for variable, expected in zip(ours, measured):
            np.testing.assert_allclose(variable.grad, expected, rtol=1e-5, atol=1e-6 * largest)

    run_property(check, 60)


def _overwriting_backward(self: Variable) -> None:
    """Keeps the last gradient that arrives where it should add them."""
    arrived = {self: np.ones(self.shape)}
    for variable in gradients._everything_behind(self):
        gradient = arrived.pop(variable)
        if not variable.parents:
            variable.grad = np.array(gradient)
        for parent, hand_back in variable.parents:
            arrived[parent] = unbroadcast(hand_back(gradient), parent.shape)


def _as_found(result: Variable) -> list[Variable]:
    """The variables without an order that waits for all ways."""
    found, waiting = {result: None}, [result]
    while waiting:
        for parent, _ in waiting.pop(0).parents:
            if parent not in found:
                found[parent] = waiting.append(parent)
    return list(found)


def _divide_with_a_wrong_sign(self: Variable, other: object) -> Variable:
    a, b = self.data, gradients._values(other)
    return Variable(a / b, (self, lambda g: g / b), (other, lambda g: g * a / b / b))


BREAKS: dict[str, tuple[object, str, object]] = {
    "no unbroadcast": (gradients, "unbroadcast", lambda gradient, shape: gradient),
    "unbroadcast takes the mean": (gradients, "unbroadcast", lambda g, shape: unbroadcast(g, shape) * math.prod(shape) / max(1, np.size(g))),
    "overwrites where it should add": (Variable, "backward", _overwriting_backward),
    "does not wait for all ways": (gradients, "_everything_behind", _as_found),
    "a slip in tanh": (Variable, "tanh", lambda self: self.each(np.tanh, lambda x, y: 1 - y)),
    "a sign in the quotient": (Variable, "__truediv__", _divide_with_a_wrong_sign),
    "a mean that divides by the wrong number": (
        Variable, "mean", lambda self, axis=None, keepdims=False: self.sum(axis, keepdims) * (1 / max(1, self.shape[0] if self.shape else 1))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_the_same_comparison_finds_a_broken_engine_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BREAKS[name])
    with pytest.raises((AssertionError, KeyError, ValueError)):
        run_property(agrees_with_torch, 300, phases=(Phase.generate,))


def test_reference_numbers() -> None:
    x, v = Variable(3), Variable([3, 4, 10])
    (x**2).backward()
    (v**2).sum().backward()
    assert x.grad == 6 and v.grad is not None and v.grad.tolist() == [6, 8, 20]
    assert slope(lambda t: t**2, 3.0, 1) == 6 and slope(lambda t: t**2, 3.0) == pytest.approx(6, abs=1e-9)
    assert slope(lambda t: t * 2, 3.0) == pytest.approx(2, abs=1e-9)


def test_gradients_accumulate_over_uses_and_over_calls_like_those_of_torch() -> None:
    ours, theirs = Variable([1.0, -2.0]), torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    for leaf in (ours, theirs):
        shared = leaf * leaf
        results = (shared * leaf + shared).sum(), (shared.exp() * shared).mean()
        for i in (0, 1):
            results[i].backward(**({"retain_graph": True} if leaf is theirs else {}))
    assert_same(ours.grad, theirs.grad.numpy())
    again = (ours * 3).sum()
    ours.grad = None
    again.backward()
    again.backward()
    assert ours.grad is not None and ours.grad.tolist() == [6, 6]


def test_only_leaves_keep_a_gradient_and_no_two_share_one() -> None:
    a, b = Variable([1, 2]), Variable([3, 4])
    total = a + b
    total.sum().backward()
    assert total.grad is None and a.grad is not None and b.grad is not None
    a.grad *= 0
    assert a.grad.tolist() == [0, 0] and b.grad.tolist() == [1, 1]
    alone = Variable(3)
    alone.backward()
    assert alone.grad == 1


def test_constants_get_no_gradient_and_are_copied() -> None:
    factor = np.array([2.0, 3.0])
    w = Variable([1, 1])
    result = (factor * w).sum()
    factor[:] = 100
    result.backward()
    assert w.grad is not None and w.grad.tolist() == [2, 3]
    assert [parent for parent, _ in (w * 2).parents] == [w]


def test_ten_thousand_operations_in_a_row_need_no_recursion() -> None:
    result = leaf = Variable(1)
    for _ in range(10_000):
        result = result * 0.9999 + 0.0001
    result.backward()
    assert result.depth == 20_000 and leaf.grad == pytest.approx(0.9999**10_000)
    del result


def test_a_million_million_ways_are_no_more_work_than_forty_steps() -> None:
    result = leaf = Variable(1)
    for _ in range(40):
        result = result + result
    result.backward()
    assert leaf.grad == 2.0**40


@pytest.mark.parametrize("method, x", [("relu", 0.0), ("abs", 0.0), ("sigmoid", 800.0), ("sigmoid", -800.0), ("sigmoid", -30.0), ("tanh", 400.0)])
@pytest.mark.filterwarnings("error")
def test_corners_and_far_ends_are_those_of_torch(method: str, x: float) -> None:
    ours, theirs = Variable(x), torch.tensor(x, dtype=torch.float64, requires_grad=True)
    results = getattr(ours, method)(), getattr(theirs, method)()
    results[0].backward()
    results[1].backward()
    assert results[0].data == pytest.approx(results[1].item(), rel=RTOL, abs=1e-300)
    assert ours.grad == pytest.approx(theirs.grad.item(), rel=RTOL, abs=1e-300)


@pytest.mark.parametrize("exponent", [0, 1, 2, np.int64(2), np.float32(3), True])
@pytest.mark.filterwarnings("error")
def test_whole_powers_at_zero(exponent: float) -> None:
    ours, theirs = Variable([0, 2]), torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    (ours**exponent).sum().backward()
    (theirs ** float(exponent)).sum().backward()
    assert_same(ours.grad, theirs.grad.numpy())


@pytest.mark.parametrize(
    "left, right", [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((1, 1), (1,)), ((0, 3), (3, 2)), ((2, 0), (0, 3))]
)
def test_matrix_products_of_every_allowed_shape(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=left), rng.normal(size=right)
    ours, theirs = [Variable(a) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    (ours[0] @ ours[1]).sum().backward()
    (theirs[0] @ theirs[1]).sum().backward()
    for variable, tensor in zip(ours, theirs):
        assert_same(variable.grad, tensor.grad.numpy())
    assert_same((arrays[0] @ ours[1]).data, arrays[0] @ arrays[1])
    assert_same((ours[0] @ arrays[1]).data, arrays[0] @ arrays[1])


def test_twenty_steps_of_descent_are_those_of_torch_to_twelve_decimals() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 1))
    start = [rng.normal(size=(3, 5)), np.zeros(5), rng.normal(size=(5, 1)), np.zeros(1)]
    ours, theirs = [Variable(a) for a in start], [torch.tensor(a, requires_grad=True) for a in start]

    def loss(x: Any, y: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        return (((x @ w1 + b1).tanh() @ w2 + b2 - y) ** 2).mean()

    losses = []
    for _ in range(20):
        result, expected = loss(x, y, *ours), loss(torch.tensor(x), torch.tensor(y), *theirs)
        result.backward()
        expected.backward()
        losses.append((result.data.item(), expected.item()))
        ours = [Variable(p.data - 0.1 * p.grad) for p in ours]
        with torch.no_grad():
            for p in theirs:
                p -= 0.1 * p.grad
                p.grad = None
    np.testing.assert_allclose(*np.transpose(losses), rtol=0, atol=1e-12)
    for variable, tensor in zip(ours, theirs):
        np.testing.assert_allclose(variable.data, tensor.detach().numpy(), rtol=0, atol=1e-12)
    assert losses[-1][0] < losses[0][0]


@pytest.mark.parametrize("data", ["three", ["3", 4], 1j, [1j], None, object(), [[1], [1, 2]], [Variable(1)], Variable(1), {"a": 1}])
def test_what_is_not_numbers_is_refused_in_one_sentence(data: object) -> None:
    with pytest.raises(TypeError, match="A Variable holds real numbers; pass some, not ") as refused:
        Variable(data)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 120 and "\n" not in str(refused.value)


def test_operands_that_are_not_numbers_are_refused() -> None:
    v = Variable([1, 2])
    for compute in (lambda: v + "a", lambda: None * v, lambda: [1, "b"] @ v, lambda: v / {}):
        with pytest.raises(TypeError, match="holds real numbers"):
            compute()
    with pytest.raises(TypeError, match="The exponent must be a number"):
        v**v
    with pytest.raises(TypeError):
        np.exp(v)
    with pytest.raises(ValueError, match=r"@ takes one or two axes, not \(2,\) @ \(\); reshape first"):
        v @ 3
    with pytest.raises(ValueError, match="reshape first"):
        Variable(np.ones((2, 2, 2))) @ v


@pytest.mark.parametrize("shape", [(2,), (1, 2), (0,)])
def test_backward_wants_a_single_number(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="backward starts from a single number, not .*; sum it first"):
        Variable(np.ones(shape)).backward()


def test_data_cannot_be_changed_in_place_behind_the_back_of_the_slopes() -> None:
    mine = np.ones(2)
    v = Variable(mine)
    mine[0] = 5
    assert v.data.tolist() == [1, 1]
    with pytest.raises(ValueError, match="read-only"):
        v.data -= 1
    assert v.data.tolist() == [1, 1]


@pytest.mark.parametrize("h", [0.0, -1.0, 1e-30, float("nan")])
def test_a_nudge_that_moves_nothing_is_refused(h: float) -> None:
    with pytest.raises(ValueError, match="choose a larger h"):
        slope(math.sin, 3.0, h)


def test_measured_gradients_have_the_shapes_of_the_arrays_and_leave_them_alone() -> None:
    a, b = np.arange(6).reshape(2, 3), 2.0
    got = finite_difference_gradient(lambda a, b: (a**2).sum() * b, a, b)
    assert [g.shape for g in got] == [(2, 3), ()] and all(g.dtype == np.float64 for g in got)
    np.testing.assert_allclose(got[0], 4 * a, atol=1e-6)
    np.testing.assert_allclose(got[1], 55, atol=1e-6)
    assert a.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert finite_difference_gradient(lambda a: a.sum(), np.ones((0, 2)))[0].shape == (0, 2)


@pytest.mark.parametrize("rate, factor", [(0.02, 0.96), (0.3, 0.4), (0.9, -0.8), (1.0, -1.0), (1.05, -1.1)])
def test_descent_on_the_parabola_multiplies_by_one_minus_twice_the_rate(rate: float, factor: float) -> None:
    path = gradient_descent(lambda w: 2 * w, 3.0, rate, 10)
    np.testing.assert_allclose(path, [3 * factor**i for i in range(11)], rtol=1e-12)
    assert gradient_descent(lambda w: 2 * w, 3.0, rate, 0) == [3.0]


def test_the_engine_has_fewer_than_a_hundred_lines() -> None:
    source = inspect.getsource(gradients)
    engine = source[source.index("def unbroadcast") :]
    lines = [line for line in engine.splitlines() if line.strip() and not line.startswith("# %%")]
    assert 50 < len(lines) < 100
