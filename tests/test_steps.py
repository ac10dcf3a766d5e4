"""Steps: the order of the images, the rows of the tables, turns, resuming; and optimizers that are made ready before their first step."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recording import CannotBeRecorded, recorded
from test_graphs import recording_on_cpu
from torch import nn

from pixels_to_resnet import graphs, processes, steps
from pixels_to_resnet.checkpoints import Checkpoint
from pixels_to_resnet.steps import Steps, prime, remembered, set_rate, stream_of_orders


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 5))
def test_every_image_is_seen_as_often_as_any_other(n: int, n_needed: int, seed: int) -> None:
    stream = stream_of_orders(n, n_needed, seed)
    assert stream.shape == (n_needed,) and stream.dtype == torch.int64
    counts = stream.bincount(minlength=n)
    assert len(counts) == n and counts.max() - counts.min() <= 1
    for begin in range(0, n_needed - n + 1, n):
        assert torch.equal(stream[begin : begin + n].sort().values, torch.arange(n))
    assert torch.equal(stream_of_orders(n, n_needed + 17, seed)[:n_needed], stream), "a longer training begins in the same way"


def test_seeds_orders_and_passes_differ_and_the_global_generator_stays() -> None:
    state = torch.random.get_rng_state()
    a, b = stream_of_orders(100, 200, 0), stream_of_orders(100, 200, 1)
    assert not torch.equal(a, b) and not torch.equal(a[:100], a[100:])
    assert torch.equal(state, torch.random.get_rng_state())
    with pytest.raises(ValueError, match="there are no images; give at least one"):
        stream_of_orders(0, 5, 0)


# ---- steps


def noted(n: int = 30, batch_size: int = 8, n_steps: int = 11, n_a_turn: int = 4, **other: object) -> tuple[Steps, list]:
    """Steps that note what they get: images i, targets 10 i."""
    found: list[tuple[list[int], list[int], float, list[float]]] = []
    images, tables = torch.arange(n), {"rate": torch.linspace(1, 2, n_steps), "shift": torch.arange(2 * n_steps).view(n_steps, 2)}

    def step(x: torch.Tensor, y: torch.Tensor, row: Callable[[str], torch.Tensor]) -> None:
        found.append((x.tolist(), y.tolist(), row("rate").item(), row("shift").tolist()))

    return Steps(images, 10 * images, batch_size, n_steps, 3, tables, step, dict, n_a_turn, **other), found


@pytest.mark.parametrize("n_a_turn", [1, 4, 11, 50])
def test_steps_get_the_stream_in_batches_with_their_rows(n_a_turn: int) -> None:
    some, found = noted(n_a_turn=n_a_turn)
    some.train()
    orders, rates = stream_of_orders(30, 88, 3).view(11, 8).tolist(), torch.linspace(1, 2, 11).tolist()
    assert found == [(order, [10 * i for i in order], rate, [2 * k, 2 * k + 1]) for k, (order, rate) in enumerate(zip(orders, rates))]
    assert some.at.tolist() == [11]


def test_the_shares_of_several_processes_make_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = noted(batch_size=7)[0].orders, []
    monkeypatch.setattr(processes, "world_size", lambda: 3)
    for mine in range(3):
        monkeypatch.setattr(processes, "rank", lambda mine=mine: mine)
        parts.append(noted(batch_size=7)[0].orders)
    assert [p.shape[1] for p in parts] == [2, 2, 3] and torch.equal(torch.cat(parts, 1), whole)


def test_a_row_is_a_tensor_of_the_form_of_a_row() -> None:
    some, _ = noted()
    assert some.row("rate").shape == () and some.row("shift").shape == (2,) and some.row("rate") == 1


def a_training(n_steps: int = 11, n_a_turn: int = 4, frozen: bool = False) -> tuple[nn.Module, Steps]:
    """A small network with batch normalisation and AdamW, as the convolutional rungs have them."""
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.rand(30, 6, generator=generator), torch.randint(0, 3, (30,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.AdamW(model.parameters(), torch.tensor(0.1), fused=True)
    prime(optimizer)
    count = [0]

    def step(x: torch.Tensor, y: torch.Tensor, row: Callable[[str], torch.Tensor]) -> None:
        count[0] += 1
        nn.functional.cross_entropy(model(x), y).backward()
        set_rate(optimizer, torch.full((), 0.1 / count[0]) if frozen else row("rate"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def tensors() -> dict[str, torch.Tensor]:
        return {**model.state_dict(), **remembered(optimizer)}

    return model, Steps(images, targets, 8, n_steps, 5, {"rate": torch.tensor([0.1 / k for k in range(1, n_steps + 1)])}, step, tensors, n_a_turn)


def after(n_a_turn: int = 4, record: bool = False, frozen: bool = False, checkpoint: Checkpoint | None = None) -> list[torch.Tensor]:
    model, some = a_training(n_a_turn=n_a_turn, frozen=frozen)
    with pytest.MonkeyPatch.context() as monkeypatch:
        if record:
            monkeypatch.setattr(graphs, "_recording", recording_on_cpu)
            monkeypatch.setattr(steps, "Replayed", lambda work, device, state, record: graphs.Replayed(work, device, state, record is None))
        some.train(checkpoint)
    return [t.clone() for t in model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("n_a_turn", [1, 4, 5, 11])
def test_recorded_turns_give_the_weights_of_steps_one_by_one(n_a_turn: int) -> None:
    """With AdamW, batch normalisation, a falling rate, and a last turn that is shorter."""
    assert same(after(n_a_turn, record=True), after())


def test_a_rate_of_python_is_frozen_by_the_recording_and_noticed() -> None:
    assert same(after(frozen=True), after())
    assert not same(after(frozen=True, record=True), after())


def test_the_step_of_a_network_asks_nothing() -> None:
    _, some = a_training()
    recorded(some.take)
    loss = some.step
    some.step = lambda x, y, row: loss(x[y > 0], y[y > 0], row)
    with pytest.raises(CannotBeRecorded):
        recorded(some.take)


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("n_turns", [1, 2, 3])
def test_a_training_stopped_after_any_turn_goes_on_to_the_same_weights(n_turns: int, record: bool, tmp_path: Path) -> None:
    _, some = a_training()
    for number in range(n_turns):
        some.turn(number)
    Checkpoint(tmp_path / "c", {}).save(some.state(), n_turns)
    assert same(after(record=record, checkpoint=Checkpoint(tmp_path / "c", {})), after())


def test_a_recording_can_be_made_where_fewer_steps_than_a_turn_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, an index behind the last row would end the program."""
    _, some = a_training()
    some._take(10)
    before = {name: tensor.clone() for name, tensor in some.state().items()}
    monkeypatch.setattr(graphs, "_recording", recording_on_cpu)
    monkeypatch.setattr(steps, "Replayed", lambda work, device, state, record: graphs.Replayed(work, device, state, True))
    assert some.prepare() > 0 and some.prepare() == some.many.seconds + some.rest.seconds
    assert all(torch.equal(tensor, before[name]) for name, tensor in some.state().items())
    assert some.at.tolist() == [10]


def test_a_number_of_the_step_that_is_not_kept_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steps, "state", lambda self: self.tensors())
    _, some = a_training()
    some.turn(0)
    Checkpoint(tmp_path / "c", {}).save(some.state(), 1)
    assert not same(after(checkpoint=Checkpoint(tmp_path / "c", {})), after())


def test_a_step_runs_without_data() -> None:
    found: list[tuple] = []
    images, targets = torch.empty(30, 28, 28, dtype=torch.uint8, device="meta"), torch.empty(30, dtype=torch.int64, device="meta")
    some = Steps(images, targets, 8, 5, 0, {"rate": torch.ones(5)}, lambda x, y, row: found.append((x, y, row("rate"))), dict, 2)
    some.train()
    assert [(tuple(x.shape), tuple(y.shape), r.device.type) for x, y, r in found] == 5 * [((8, 28, 28), (8,), "meta")]


def test_what_does_not_fit_is_refused() -> None:
    x = torch.zeros(5)
    for how, why in (
        ((x, x, 0, 2, 0, {}), "batch_size is 0; give at least 1"), ((x, x[1:], 2, 2, 0, {}), "5 images and 4 targets; give one target"),
        ((x[:0], x[:0], 2, 2, 0, {}), "no images"), ((x, x, 2, 2, 0, {"r": x}), "the table 'r' has 5 rows; give 2, one for each step"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            Steps(*how, print, dict)
    Steps(x, x, 2, 0, 0, {"r": x[:0]}, print, dict).train()


# ---- optimizers

OPTIMIZERS: dict[str, Callable] = {
    "AdamW": lambda p: torch.optim.AdamW(p, torch.tensor(0.1), fused=True, betas=(0.9, 0.99)),
    "AdamW by loops": lambda p: torch.optim.AdamW(p, 0.1, foreach=False),
    "AMSGrad": lambda p: torch.optim.Adam(p, 0.1, amsgrad=True, weight_decay=0.1),
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "Nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "plain SGD": lambda p: torch.optim.SGD(p, 0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_primed_optimizer_has_taken_no_step(kind: str) -> None:
    def trained(primed: bool) -> list[torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Linear(4, 3)
        optimizer, before = OPTIMIZERS[kind](model.parameters()), [p.detach().clone() for p in model.parameters()]
        if primed:
            prime(optimizer)
            assert same([p.detach() for p in model.parameters()], before) and all(p.grad is None for p in model.parameters())
            assert not any(tensor.any() for tensor in remembered(optimizer).values())
            assert bool(remembered(optimizer)) == (kind != "plain SGD")
        for _ in range(4):
            model(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach() for p in model.parameters()]

    assert same(trained(True), trained(False))


def test_a_rate_is_set_without_a_word_to_the_host() -> None:
    model = nn.Linear(2, 2)
    groups, rates = [{"params": [model.weight]}, {"params": [model.bias], "lr": torch.tensor(5.0)}], torch.tensor([0.3, 0.2])
    optimizer = torch.optim.AdamW(groups, torch.tensor(0.1), fused=True)
    recorded(lambda: set_rate(optimizer, rates[1]))
    assert [group["lr"].item() for group in optimizer.param_groups] == pytest.approx([0.2, 0.2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_on_a_gpu_or_not_the_weights_are_the_same() -> None:
    def on_gpu(record: bool | None) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        images, targets = torch.rand(300, 6, generator=generator).cuda(), torch.randint(0, 3, (300,), generator=generator).cuda()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), torch.tensor(0.1, device="cuda"), fused=True)
        prime(optimizer)

        def step(x: torch.Tensor, y: torch.Tensor, row: Callable[[str], torch.Tensor]) -> None:
            nn.functional.cross_entropy(model(x), y).backward()
            set_rate(optimizer, row("rate"))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        tables = {"rate": torch.linspace(0.1, 0.01, 27)}
        some = Steps(images, targets, 64, 27, 0, tables, step, lambda: {**model.state_dict(), **remembered(optimizer)}, 10, record)
        some.train()
        return [p.detach() for p in model.parameters()]

    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(on_gpu(None), on_gpu(False)))
