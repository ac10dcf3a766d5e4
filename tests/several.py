"""Starts several processes on this machine that can add up, and holds what they do: `together(work, folder)`.

They come from a server that has loaded PyTorch once, where the system has such servers, and run a function of this module.
"""
from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pixels_to_resnet import fast_path, fast_ten
from pixels_to_resnet.checkpoints import Checkpoint, train_in_turns
from pixels_to_resnet.data import Digits
from pixels_to_resnet.processes import ProcessesError, Summed, add_up, from_first, gathered, joined, part, rank, started_by_torchrun, world_size
from pixels_to_resnet.steps import Steps

CPU = torch.device("cpu")


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _one(work: Callable[[Path], None], folder: Path, variables: dict[str, str]) -> None:
    """The life of one process: what it says goes to a file."""
    os.environ.update(variables)
    sys.stdout = sys.stderr = open(folder / f"said_{variables['RANK']}.txt", "w", encoding="utf-8", buffering=1)
    torch.set_num_threads(1)
    work(folder)


def together(work: Callable[[Path], None], folder: Path, size: int = 2, seconds: float = 120) -> list[tuple[int | None, str]]:
    """Runs `work(folder)` in `size` processes, with the variables that torchrun sets; the exit status of each, and what it said."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    if sys.platform.startswith("linux"):
        common["GLOO_SOCKET_IFNAME"] = "lo"
    context = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")
    context.set_forkserver_preload(["torch.distributed", "pixels_to_resnet.fast_ten", "pixels_to_resnet.steps"])
    started = [context.Process(target=_one, args=(work, folder, {**common, "RANK": str(i), "LOCAL_RANK": str(i)}), daemon=True) for i in range(size)]
    for process in started:
        process.start()
    for process in started:
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
    return [(process.exitcode, (folder / f"said_{i}.txt").read_text(encoding="utf-8")) for i, process in enumerate(started)]


def some_digits(n: int, classes: int) -> Digits:
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, 28, 28), generator=generator) * (torch.rand(n, 28, 28, generator=generator) < 0.2)
    labels = torch.arange(n) % 10 if classes == 10 else torch.where(torch.arange(n) % 2 == 0, 3, 7)
    return Digits(images.to(torch.uint8), labels)


HOW = {"epochs": 3, "seed": 1, "batch_size": 50}
FITS: dict[str, Callable[..., nn.Module]] = {
    "linear": lambda **how: fast_path.fit_linear(some_digits(201, 2), **HOW | how),
    "mlp": lambda **how: fast_path.fit_mlp(some_digits(201, 2), learning_rate=1.0, sizes=(784, 30, 7, 1), **HOW | how),
    "multiclass": lambda **how: fast_ten.fit_multiclass(some_digits(201, 10), learning_rate=0.2, sizes=(784, 40, 10), **HOW | how),
}


def some_steps(n: int = 31) -> tuple[nn.Module, Steps]:
    """Batches of 7 through a layer and a batch normalisation whose means are of the whole batch."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 4, generator=generator), torch.randn(n, 1, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 1))

    def total(x: torch.Tensor) -> torch.Tensor:
        return Summed.apply(x) if world_size() > 1 else x

    def step(x: torch.Tensor, y: torch.Tensor, row: Callable[[str], torch.Tensor]) -> None:
        hidden = model[0](x)
        mean = total(hidden.sum(0)) / 7
        hidden = hidden - mean
        hidden = hidden / (total(hidden.square().sum(0)) / 7 + 1e-5).sqrt()
        ((model[1](hidden.relu()) - y).square().sum() / 7).backward()
        with torch.no_grad():
            add_up(*(p.grad for p in model.parameters()))
            for p in model.parameters():
                p.sub_(row("rate") * p.grad)
                p.grad = None

    return model, Steps(x, y, 7, 9, 0, {"rate": torch.linspace(0.5, 0.1, 9)}, step, lambda: dict(model.state_dict()), 4)


class Stopping(Checkpoint):
    """Lets both processes end after the first epoch, once it is saved."""

    def save(self, state: dict[str, torch.Tensor], n_done: int) -> None:
        if n_done == 1:
            super().save(state, n_done)


def questions(folder: Path) -> None:
    """What two processes do in one life; each writes down what it found."""
    with joined(CPU, 60):
        mine, found = rank(), {"place": torch.tensor([rank(), world_size(), int(started_by_torchrun())])}
        a, b, c = torch.arange(6.0).view(2, 3).t() + mine, torch.full((2,), 10.0 ** mine), torch.tensor(1.0 + mine)
        add_up(a, b, c)
        single = torch.ones(3) + mine
        add_up(single)
        found |= {"a": a, "b": b, "c": c, "single": single}
        found |= {f"gathered {n}": gathered(torch.arange(n)[part(n)], n) for n in (0, 1, 2, 7)}
        found["gathered rows"] = gathered(torch.arange(10.0).view(5, 2)[part(5)], 5)
        sent = [torch.full((2, 3), float(mine)).t(), torch.tensor(mine), torch.tensor([mine == 0])]
        from_first(*sent)
        found |= {f"sent {i}": tensor for i, tensor in enumerate(sent)}
        x = torch.tensor([1.0, 2.0]) * (1 + mine)
        x.requires_grad_()
        (Summed.apply(x) * (3 + mine)).sum().backward()
        found |= {"sum": Summed.apply(x).detach(), "slope": x.grad}
        for kind, fit in FITS.items():
            found |= {f"{kind} {i}": p.detach() for i, p in enumerate(fit().parameters())}
        # stopped after an epoch, only the first has the file; then both go on, and only one of them is told of it
        where = folder / "c.safetensors"
        with contextlib.suppress(KeyboardInterrupt):
            FITS["mlp"](checkpoint=Stopping(where, {}, seconds=0) if mine == 0 else Checkpoint(folder / "other", {}, seconds=0))
        found |= {f"resumed {i}": p.detach() for i, p in enumerate(FITS["mlp"](checkpoint=Checkpoint(where, {}) if mine == 0 else None).parameters())}
        model, steps = some_steps()
        steps.train()
        found |= {f"steps {i}": p.detach() for i, p in enumerate(model.parameters())} | {"orders": steps.orders}
    torch.save({**found, "after": torch.tensor([rank(), world_size()])}, folder / f"{mine}.pt")


def one_leaves(folder: Path) -> None:
    """The second process is killed, or leaves, in the middle of a training; the first one says why it ends."""
    how = folder.name
    try:
        with joined(CPU, 60):
            x = torch.zeros(3)

            def turn(k: int) -> None:
                if rank() == 1 and k == 3:
                    if how == "killed":
                        os._exit(9)
                    raise KeyError("a mistake of its own")
                add_up(x)

            train_in_turns(1000, turn, lambda: {"x": x})
    except ProcessesError as e:
        print(e)
        sys.exit(3)
