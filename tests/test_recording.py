"""tests/recording.py: what it must refuse, and that a recording repeats what a graph would, with all that was frozen."""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from recording import CannotBeRecorded, Recording, recorded
from torch import nn

X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
ASKS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu"),
    "to another device": lambda x: x.to("meta"),
    "copied from another device": lambda x: x.new_empty(8, 5).copy_(torch.empty(8, 5, device="meta")),
    "if": lambda x: x.neg_() if x.sum() > 0 else x,
    "mask": lambda x: x[x > 0],
    "mask put": lambda x: x.index_put_((x > 0,), x.sum()),
    "masked_select": lambda x: x.masked_select(x > 0),
    "nonzero": lambda x: x.nonzero(),
    "where of one": lambda x: torch.where(x > 0),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().abs().flatten().bincount(),
    "repeats": lambda x: x.repeat_interleave((x[:, 0] > 0).long(), 0),
    "equal": lambda x: torch.equal(x, x + 0),
    "allclose": lambda x: torch.allclose(x, x),
    "numbers of Python": lambda x: x + torch.tensor([1.0, 2, 3, 4, 5]),
    "a list of rows": lambda x: x[[0, 2]],
    "alpha from a tensor": lambda x: x.add_(x, alpha=x.sum()),
    "chance": lambda x: x.bernoulli(),
    "order": lambda x: torch.randperm(len(x)),
    "print": lambda x: str(x),
}


@pytest.mark.parametrize("what", ASKS)
def test_what_asks_the_host_is_refused(what: str) -> None:
    with pytest.raises(CannotBeRecorded):
        recorded(lambda: ASKS[what](X.clone()))
    with torch.no_grad():
        X.clone().add_(1).tolist()  # outside of a recording all of it works again


def test_what_asks_nothing_is_recorded() -> None:
    rows = torch.tensor([1, 3])
    recorded(lambda: torch.where(X > 0, X, -X)[rows].index_select(1, rows).masked_fill(X[rows][:, rows] > 0, 2.0).softmax(1).to(torch.bfloat16).sum())


def a_training(frozen: str = "") -> tuple[nn.Module, Callable[[], None]]:
    """A network and a step with AdamW, which may have something that a graph freezes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 1))
    rate, made = torch.tensor(0.05), [0]
    momenta = [torch.zeros_like(p) for p in model.parameters()]

    def step() -> None:
        made[0] += 1
        model(X).square().mean().backward()
        with torch.no_grad():
            for p, m in zip(model.parameters(), momenta):
                m.mul_(0.9).add_(p.grad)
                p.sub_(m * (0.05 / made[0] if frozen == "a rate of Python" else rate))
                p.grad = None
            rate.mul_(1.0 if frozen == "a rate of Python" else 0.9)
        if frozen == "a choice of Python" and made[0] % 2:
            with torch.no_grad():
                model[0].weight.mul_(0.5)

    return model, step


def after(frozen: str, n_steps: int, record: bool) -> list[torch.Tensor]:
    """Weights and running means after some steps, all but the first of them repeated or done."""
    model, step = a_training(frozen)
    again = recorded(step).replay if record else step
    for _ in range(n_steps - 1 if record else n_steps):
        again()
    return [t.detach().clone() for t in model.state_dict().values() if t.is_floating_point()]


def test_a_repeated_recording_is_the_work_itself() -> None:
    for n_steps in (1, 2, 5):
        for a, b in zip(after("", n_steps, True), after("", n_steps, False)):
            assert torch.equal(a, b)


@pytest.mark.parametrize("frozen", ["a rate of Python", "a choice of Python"])
def test_what_python_says_is_frozen_and_gives_other_weights(frozen: str) -> None:
    assert all(torch.equal(a, b) for a, b in zip(after(frozen, 1, True), after(frozen, 1, False)))
    assert not all(torch.equal(a, b) for a, b in zip(after(frozen, 5, True), after(frozen, 5, False)))


def test_new_memory_in_the_place_of_the_old_is_not_what_was_recorded() -> None:
    box = [torch.zeros(3)]
    recording = recorded(lambda: box[0].add_(1))
    box[0] = torch.zeros(3)
    recording.replay()
    assert box[0].eq(0).all()


def test_an_error_in_the_work_leaves_no_mode_behind() -> None:
    with pytest.raises(CannotBeRecorded, match="tells the host"), Recording():
        X.sum().item()
    assert isinstance(X.sum().item(), float) and len(X.tolist()) == 8
    with pytest.raises(ZeroDivisionError), Recording() as recording:
        (X + 1).div(1 // 0)
    assert len(recording.operations) == 1 and X.nonzero().shape == (40, 2)


def test_operations_can_be_looked_at() -> None:
    found = [(str(op), [tuple(t.shape) for t in outputs]) for op, _, _, outputs in recorded(lambda: (X @ X.t()).sum()).operations]
    assert found == [("aten.t.default", [(5, 8)]), ("aten.mm.default", [(8, 8)]), ("aten.sum.default", [()])]
