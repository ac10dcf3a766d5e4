"""The steps of both networks: recorded and repeated, interrupted and resumed, started again, shared by processes; and their parts."""
from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
from itertools import count
from pathlib import Path

import network_runs
import pytest
import torch
from recording import CannotBeRecorded, recorded
from torch import nn

from pixels_to_resnet import network_steps
from pixels_to_resnet.checkpoints import Checkpoint
from pixels_to_resnet.learner import Learner
from pixels_to_resnet.linear import seeded
from pixels_to_resnet.network_steps import NetworkTrainer, adamw, one_cycle_rates
from pixels_to_resnet.schedules import OneCycle
from pixels_to_resnet.steps import prime, set_rate

NETWORKS, FLOAT, HALF = ("small_net", "resnet18"), torch.float32, torch.bfloat16
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def trainer_of(network: str, dtype: torch.dtype = FLOAT, seed: int = 0, device: str = "cpu") -> NetworkTrainer:
    return network_runs.trainers(torch.device(device), dtype, seed)[network]


def all_of(trainer: NetworkTrainer) -> dict[str, torch.Tensor]:
    """All that a training run depends on."""
    return {**trainer.steps.state(), **trainer.steps.tables, "orders": trainer.steps.orders}


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def ended(trainer: NetworkTrainer, checkpoint: Checkpoint | None = None) -> dict[str, torch.Tensor]:
    trainer.train(checkpoint)
    return all_of(trainer)


def two_steps(trainer: NetworkTrainer) -> None:
    trainer.model.train()
    for _ in range(2):
        trainer.steps.take()


# ---- nothing asked, nothing frozen


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("network", NETWORKS)
def test_steps_that_are_recorded_and_repeated_give_the_same_bits(network: str, dtype: torch.dtype) -> None:
    plain, other = trainer_of(network, dtype), trainer_of(network, dtype)
    before = copy.deepcopy(all_of(other))
    recording = recorded(lambda: two_steps(other))
    recording.replay()
    assert other.steps.at.item() == plain.steps.n_steps == 4
    assert differing(ended(plain), all_of(other)) == []
    assert len(differing(before, all_of(other))) > len(list(plain.model.parameters())), "steps change all weights"


@pytest.mark.parametrize("network", NETWORKS)
def test_a_number_that_python_keeps_is_noticed_when_steps_are_repeated(network: str) -> None:
    plain, other, counter = trainer_of(network), trainer_of(network), count()
    step, rates = other.step, other.steps.tables["rates"]

    def with_a_rate_of_pythons(images: torch.Tensor, targets: torch.Tensor, row: object) -> None:
        number = next(counter)
        step(images, targets, lambda name: rates[number] if name == "rates" else row(name))

    other.steps.step = with_a_rate_of_pythons
    recorded(lambda: two_steps(other)).replay()
    assert differing(ended(plain), all_of(other)) != []


@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_that_reads_its_loss_cannot_be_recorded(network: str) -> None:
    trainer = trainer_of(network)
    step = trainer.step
    trainer.steps.step = lambda *batch: step(*batch).item()
    with pytest.raises(CannotBeRecorded):
        recorded(trainer.steps.take)


@pytest.mark.parametrize("network", NETWORKS)
def test_steps_run_where_there_are_no_numbers(network: str) -> None:
    """On the device "meta" whoever asks for a number, or needs one for a shape, gets an error."""
    trainer = trainer_of(network, device="meta")
    trainer.steps.train()
    batch = torch.empty(13, 28, 28, dtype=torch.uint8, device="meta"), torch.empty(13, dtype=torch.int64, device="meta")
    trainer.steps.at.zero_()
    loss = trainer.step(*batch, trainer.steps.row)
    assert loss.device.type == "meta" and loss.shape == () and not loss.requires_grad
    with pytest.raises((RuntimeError, NotImplementedError)):
        loss.item()


# ---- interrupted, started again


@pytest.mark.parametrize("network", NETWORKS)
def test_a_run_that_ends_after_any_turn_goes_on_to_the_same_bits(network: str, tmp_path: Path) -> None:
    whole = ended(trainer_of(network))
    for turns in range(1, 4):
        file = tmp_path / f"{turns}.safetensors"
        stopped, resumed = trainer_of(network), trainer_of(network)
        for trainer in (stopped, resumed):
            trainer.steps.n_a_turn = 1
        turn = stopped.steps.turn

        def turn_until(number: int, turn: object = turn, turns: int = turns) -> None:
            if number == turns:
                raise KeyboardInterrupt
            turn(number)

        stopped.steps.turn = turn_until
        with pytest.raises(KeyboardInterrupt):
            stopped.train(Checkpoint(file, {"run": network}, seconds=0))
        taken = []
        resumed.steps.turn = lambda number, turn=resumed.steps.turn, taken=taken: (taken.append(number), turn(number))
        assert differing(ended(resumed, Checkpoint(file, {"run": network}, seconds=0)), whole) == []
        assert taken == list(range(turns, 4))


@pytest.mark.parametrize("network", NETWORKS)
def test_started_again_with_a_seed_it_is_a_new_trainer_in_the_same_memory(network: str) -> None:
    trainer, new = trainer_of(network), trainer_of(network, seed=5)
    places = {name: tensor.data_ptr() for name, tensor in all_of(trainer).items()}
    first = copy.deepcopy(ended(trainer))
    trainer.restart(5)
    assert differing(all_of(trainer), all_of(new)) == []
    assert differing(ended(trainer), ended(new)) == []
    assert {name: tensor.data_ptr() for name, tensor in all_of(trainer).items()} == places
    assert "orders" in differing(first, all_of(trainer))
    trainer.restart(0)
    assert differing(ended(trainer), first) == []


# ---- several processes


def started(folder: Path, size: int) -> list[subprocess.Popen]:
    """`size` processes that train together, on this machine alone."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    root = str(Path(network_runs.__file__).resolve().parent.parent)
    common = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, network_runs.__file__, str(folder)]
    return [subprocess.Popen(command, env={**common, "RANK": str(i), "LOCAL_RANK": str(i)}, cwd=folder) for i in range(size)]


def test_two_processes_get_the_weights_of_one_and_each_the_same(tmp_path: Path) -> None:
    assert [process.wait(120) for process in started(tmp_path, 2)] == [0, 0]
    for network in NETWORKS:
        alone = trainer_of(network)
        first, whole = copy.deepcopy(alone.steps.state()), (alone.train(), alone.steps.state())[1]
        a, b = (torch.load(tmp_path / f"{network}-{rank}-of-2.pt") for rank in (0, 1))
        assert differing(a, b) == [], "all processes have the same weights"
        for name, expected in whole.items():
            gap, moved = ((x.double() - expected.double()).abs().max().item() for x in (a[name], first[name]))
            assert moved > 0, name
            assert gap < 3e-5 and gap < 0.1 * moved, (network, name, gap, moved)


# ---- the parts


class Product(nn.Module):
    """Gradients that are given: the sum of x times the weight has the gradient x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 50, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


@pytest.mark.parametrize("decay, within", [(0.0, 1e-5), (0.01, 0.02)])
@pytest.mark.parametrize("n_steps", [2, 3, 40])
def test_adamw_by_tables_takes_the_steps_of_one_cycle(n_steps: int, decay: float, within: float) -> None:
    """Without decay to rounding: the rates are float32. The decay follows the rate of the table, so that it differs a little."""
    with seeded(0):
        gradients = torch.randn(n_steps, 50, dtype=torch.float64)
    theirs, weight, rates = Product(), nn.Parameter(Product().weight.detach().clone()), one_cycle_rates(n_steps, 0.1)
    optimizer = torch.optim.AdamW(theirs.parameters(), weight_decay=decay)
    Learner(theirs, [(g, g) for g in gradients], loss_function=lambda out, _: out.sum(), optimizer=optimizer, callbacks=[OneCycle(0.1)]).fit(1)
    ours = adamw([weight])
    ours.param_groups[0]["weight_decay"] = decay
    prime(ours)
    for gradient, (rate, keep) in zip(gradients, rates):
        ours.state[weight]["exp_avg"].mul_(keep)
        set_rate(ours, rate)
        weight.grad = gradient
        ours.step()
    moved = (theirs.weight - Product().weight).abs().max().item()
    assert (weight - theirs.weight).abs().max().item() < within * moved and moved > 1e-3


def test_averages_that_are_not_brought_to_the_next_unit_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = network_steps.one_cycle_rates
    monkeypatch.setitem(globals(), "one_cycle_rates", lambda *a: real(*a) * torch.tensor([1.0, 0.99]))
    with pytest.raises(AssertionError):
        test_adamw_by_tables_takes_the_steps_of_one_cycle(40, 0.0, 1e-5)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3), (1, 5, 9, 1)])
def test_normalisation_of_a_shared_batch_is_that_of_the_whole(shape: tuple[int, ...]) -> None:
    """The shares of two processes, one after the other: what `total` is told by the one is added to what the other says."""
    layer = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(5).double()
    with seeded(0):
        x = torch.randn(shape, dtype=torch.float64) * 3 + 100
        nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    twin = copy.deepcopy(layer)
    expected = layer(x)
    dim = 0 if len(x) > 1 else 2
    share, other = x.narrow(dim, 0, 1), x.narrow(dim, 1, x.shape[dim] - 1)
    counted = x.transpose(0, 1).flatten(1)
    rest = other.transpose(0, 1).flatten(1)
    others = [torch.cat([rest.sum(1), torch.tensor([float(rest.shape[1])])]), (rest - counted.mean(1, keepdim=True)).square().sum(1)]
    found = network_steps._norm_of_all(twin, share, lambda mine: mine + others.pop(0))
    assert (found - expected.narrow(dim, 0, 1)).abs().max().item() < 1e-10
    for name, buffer in twin.named_buffers():
        assert (buffer - layer.get_buffer(name)).abs().max().item() < 1e-10, name


def test_one_process_and_evaluation_use_pytorchs_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.BatchNorm1d(3), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network_steps.batch_norm(layer, x), copy.deepcopy(layer)(x))
    monkeypatch.setattr(network_steps, "world_size", lambda: 2)
    assert torch.equal(network_steps.batch_norm(layer.eval(), x), layer(x))


# ---- with a GPU


@needs_gpu
@pytest.mark.parametrize("network", NETWORKS)
def test_on_a_gpu_steps_are_recorded_never_synchronise_and_give_what_single_calls_give(network: str) -> None:
    single, recording = trainer_of(network, device="cuda"), trainer_of(network, device="cuda")
    recording.steps.n_a_turn = 2
    assert recording.prepare() > 0
    two_steps(single)
    torch.cuda.set_sync_debug_mode("error")
    try:
        two_steps(single)
        recording.steps.turn(0)
        recording.steps.turn(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, tensor in single.steps.state().items():
        assert torch.allclose(tensor.double(), recording.steps.state()[name].double(), rtol=1e-3, atol=1e-4), name
    recording.restart(0)
    recording.train()
    assert recording.steps.at.item() == 4


@needs_gpu
@pytest.mark.parametrize("network", NETWORKS)
def test_on_a_gpu_in_deterministic_mode_two_runs_give_the_same_bits(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        assert differing(ended(trainer_of(network, device="cuda")), ended(trainer_of(network, device="cuda"))) == []
    finally:
        torch.use_deterministic_algorithms(False)
