"""Replayed, with a recorder for the CPU in the place of a GPU: what is put back, what is repeated, what lives on."""
from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from recording import CannotBeRecorded, recorded
from torch import nn

from pixels_to_resnet import graphs
from pixels_to_resnet.graphs import Replayed

CPU = torch.device("cpu")


def recording_on_cpu(work: Callable[[], object], after: Callable[[], None], device: torch.device, n_warm: int) -> Callable[[], object]:
    """`graphs._recording` without a GPU. (A GPU notes the work without doing it; here it is done once more, which `Replayed` must put back.)"""
    for _ in range(n_warm):
        work()
        after()
    return recorded(work).replay


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_recording", recording_on_cpu)


def a_step() -> tuple[torch.Tensor, torch.Tensor, Callable[[], None]]:
    x, rate = torch.zeros(3), torch.tensor(1.0)

    def work() -> None:
        x.add_(rate)
        rate.mul_(0.5)

    return x, rate, work


@pytest.mark.parametrize("n_warm", [0, 1, 3])
@pytest.mark.usefixtures("recorder")
def test_the_runs_before_and_the_recording_leave_no_trace(n_warm: int) -> None:
    x, rate, work = a_step()
    replayed = Replayed(work, CPU, lambda: [x, rate], record=True, n_warm=n_warm)
    assert x.eq(0).all() and rate == 1 and replayed.seconds > 0 and replayed.work is work
    for _ in range(3):
        replayed()
    assert x.eq(1.75).all() and rate == 0.125


@pytest.mark.usefixtures("recorder")
def test_a_state_that_is_not_told_shows() -> None:
    x, rate, work = a_step()
    replayed = Replayed(work, CPU, lambda: [x], record=True)
    replayed()
    assert not x.eq(1).all()


@pytest.mark.usefixtures("recorder")
def test_what_asks_the_host_cannot_be_recorded() -> None:
    x, rate, work = a_step()
    with pytest.raises(CannotBeRecorded):
        Replayed(lambda: x.add_(rate.item()), CPU, lambda: [x], record=True, n_warm=0)


def test_elsewhere_a_call_is_a_call_and_nothing_runs_before() -> None:
    calls: list[int] = []
    for device in ("cpu", "meta", "mps"):
        replayed = Replayed(lambda: calls.append(1), torch.device(device), list)
        assert not calls and replayed.seconds == 0
    for _ in range(3):
        replayed()
    assert len(calls) == 3
    assert Replayed(a_step()[2], torch.device("cuda"), list, record=False).seconds == 0, "with record=False no GPU is needed"


@pytest.mark.usefixtures("recorder")
def test_the_work_lives_as_long_as_its_recording() -> None:
    """The recording of a GPU holds addresses only: what stands there must not be freed."""

    def make() -> tuple[Replayed, weakref.ref]:
        model, x = nn.Linear(3, 3), torch.zeros(3)
        return Replayed(lambda: x.copy_(model(x).detach()), CPU, lambda: [x], record=True), weakref.ref(model)

    replayed, model = make()
    replayed.repeat = print  # as on a GPU, where it knows of no tensor
    gc.collect()
    assert model() is not None
    del replayed
    gc.collect()
    assert model() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_repeats_what_it_recorded() -> None:
    def trained(record: bool) -> list[torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(5, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 1)).cuda()
            x = torch.randn(100, 5).cuda()

        def work() -> None:
            model.zero_grad(set_to_none=True)
            model(x).square().mean().backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(p.grad, alpha=0.1)

        replayed = Replayed(work, x.device, lambda: model.state_dict().values(), record)
        for _ in range(10):
            replayed()
        return [t.detach() for t in model.state_dict().values()]

    for a, b in zip(trained(True), trained(False)):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_refuses_to_record_what_asks_the_host() -> None:
    x = torch.zeros(3, device="cuda")
    with pytest.raises(RuntimeError):
        Replayed(lambda: x.add_(x.sum().item()), x.device, lambda: [x], n_warm=1)
