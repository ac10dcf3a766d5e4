"""Several processes on this machine, by gloo: sums, shares, the same weights as one process, and an end when one dies. See several.py."""
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from several import CPU, FITS, free_port, one_leaves, questions, some_steps, together
from torch import distributed as dist

from pixels_to_resnet import processes
from pixels_to_resnet.processes import ProcessesError, Summed, add_up, from_first, gathered, joined, part, rank, started_by_torchrun, world_size

needs_gloo = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this PyTorch has no gloo")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, torch.Tensor]]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    ended = together(questions, folder)
    assert [status for status, _ in ended] == [0, 0], ended
    yield [torch.load(folder / f"{i}.pt") for i in range(2)]
    assert not (folder / "other").exists(), "only the first process writes"


@needs_gloo
def test_two_processes_know_each_other_and_add_up(answers: list[dict[str, torch.Tensor]]) -> None:
    for mine, found in enumerate(answers):
        assert found["place"].tolist() == [mine, 2, 1] and found["after"].tolist() == [0, 1]
        assert torch.equal(found["a"], 2 * torch.arange(6.0).view(2, 3).t() + 1)
        assert found["b"].tolist() == [11, 11] and found["c"] == 3 and found["single"].tolist() == [3, 3, 3]
        for n in (0, 1, 2, 7):
            assert found[f"gathered {n}"].tolist() == list(range(n)) and found[f"gathered {n}"].dtype == torch.int64
        assert torch.equal(found["gathered rows"], torch.arange(10.0).view(5, 2))
        assert found["sent 0"].eq(0).all() and found["sent 0"].stride() == (1, 3) and found["sent 1"] == 0 and found["sent 2"].tolist() == [True]


@needs_gloo
def test_the_gradient_of_a_sum_is_what_all_losses_say(answers: list[dict[str, torch.Tensor]]) -> None:
    for found in answers:
        assert found["sum"].tolist() == [3, 6] and found["slope"].tolist() == [7, 7], "3 from one, 4 from the other"


@needs_gloo
@pytest.mark.parametrize("kind", FITS)
def test_two_processes_end_with_the_weights_of_one(kind: str, answers: list[dict[str, torch.Tensor]]) -> None:
    """201 images in batches of 50: the last batch is one image, so one process has nothing to do in it."""
    alone = [p.detach() for p in FITS[kind]().parameters()]
    for i, wanted in enumerate(alone):
        first, second = (found[f"{kind} {i}"] for found in answers)
        assert torch.equal(first, second) and (first - wanted).abs().max() < 1e-6
    start = next(FITS[kind](epochs=0).parameters())
    assert (start - alone[0]).abs().max() > 1e-2, "it has learned"


@needs_gloo
def test_two_processes_go_on_from_the_file_that_only_the_first_one_has(answers: list[dict[str, torch.Tensor]]) -> None:
    for found in answers:
        names = [name for name in found if name.startswith("resumed")]
        assert len(names) == 6 and all(torch.equal(found[name], found[name.replace("resumed", "mlp")]) for name in names)


@needs_gloo
def test_steps_with_sums_for_normalisation_end_with_the_weights_of_one(answers: list[dict[str, torch.Tensor]]) -> None:
    model, steps = some_steps()
    steps.train()
    assert torch.equal(torch.cat([found["orders"] for found in answers], 1), steps.orders)
    for i, wanted in enumerate(model.parameters()):
        first, second = (found[f"steps {i}"] for found in answers)
        assert torch.equal(first, second) and (first - wanted).abs().max() < 1e-5


# ---- a process that ends


@needs_gloo
@pytest.mark.parametrize("how", ["killed", "failed"])
def test_when_one_process_ends_the_other_says_so_and_ends(how: str, tmp_path: Path) -> None:
    (tmp_path / how).mkdir()
    begun = time.monotonic()
    (status, said), (other, why) = together(one_leaves, tmp_path / how, seconds=100)
    assert status == 3 and said.startswith("Another process of this run has ended or does not answer; see what it says, then start all"), said
    assert other == (9 if how == "killed" else 1) and ("KeyError" in why) == (how == "failed")
    assert time.monotonic() - begun < 59, "it did not wait until its time was over"


# ---- without others


def pretend(size: int, mine: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"is_initialized": True, "get_world_size": size, "get_rank": mine}.items():
        monkeypatch.setattr(dist, name, lambda value=value: value)


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_shares_do_not_overlap_and_are_everything(n: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        shares = []
        for mine in range(size):
            pretend(size, mine, monkeypatch)
            shares.append(range(n)[part(n)])
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("there", [True, False])
def test_a_single_process_is_left_alone(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun, and when it started only one process; also if PyTorch was built without torch.distributed."""
    monkeypatch.setattr(dist, "is_available", lambda: there)
    for alone in ({}, {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}):
        for name, value in alone.items():
            monkeypatch.setenv(name, value)
        with joined(CPU):
            x = torch.ones(2)
            add_up(x)
            from_first(x)
            assert (world_size(), rank(), part(7)) == (1, 0, slice(0, 7)) and gathered(x, 2) is x and x.eq(1).all()
            assert started_by_torchrun() == bool(alone)


def test_what_cannot_be_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as m:
        m.setattr(dist, "is_available", lambda: False)
        with pytest.raises(ProcessesError, match="built without torch.distributed; install one that has it, or start a single process"), joined(CPU):
            pass
    with pytest.raises(ProcessesError, match="does not answer; see what it says, then start all"), joined(CPU, seconds=1):
        pass
    assert world_size() == 1


def test_running_out_of_memory_is_not_put_down_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(2, 0, monkeypatch)
    for error, kind in ((torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError), (RuntimeError("closed by peer"), ProcessesError)):
        monkeypatch.setattr(dist, "all_reduce", lambda x, error=error: (_ for _ in ()).throw(error))
        for ask in (lambda: add_up(torch.ones(2)), lambda: gathered(torch.ones(1), 2), lambda: Summed.apply(torch.ones(2))):
            with pytest.raises(kind):
                ask()
    assert processes.world_size() == 2
