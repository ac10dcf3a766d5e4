"""How long an epoch takes, training and validation, the usual ways and ours: `python -m bench.training`.

The linear model and the MLP of chapters 04 and 06, 3s against 7s, batches of 256, and the MLP of chapter 07, ten digits, batches of 1000;
shuffled. Every way first runs one epoch unshuffled, from the same weights, and must end with the same weights. Then all take turns, as in
bench.data, with two threads. The floor is computed from what this machine reads and multiplies in a second, measured in the same run.
Writes bench/training.json, training.md, training.png.
"""
from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader as FastaiLoader
from fastai.learner import Learner as FastaiLearner
from fastai.optimizer import SGD
from fastai.torch_core import default_device
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from bench.common import HEAD, HERE, Others, bars, goal, goal_lines, machine, mark, onednn, publish, rates, take_turns, threads, warning
from bench.half import HalfTrainer
from pixels_to_resnet.batches import Batches
from pixels_to_resnet.data import Digits, DigitSplits, load_digits
from pixels_to_resnet.fast_path import FastTrainer, byte_rows, fast_logits, sigmoid_l1_slope, train_fast, unpack
from pixels_to_resnet.fast_ten import RareInk, SplitTrainer, add_ink, cross_entropy_slope
from pixels_to_resnet.learner import Learner
from pixels_to_resnet.linear import BasicOptim, LinearModel, binary_accuracy, binary_targets, seeded, sigmoid_l1_loss
from pixels_to_resnet.mlp import MLP
from pixels_to_resnet.multiclass import he_start

CHUNK = 8
TUTORIAL, ANCHOR = "list of pairs, fastai DataLoader, hand loop", "list of pairs, fastai DataLoader, fastai Learner (anchor)"
TORCH, FASTAI_SLICES = "torch DataLoader on TensorDataset, hand loop", "our slices, fastai Learner"
SLICES, OURS = "our slices, hand loop", "our slices, our Learner"
FAST, ONEDNN, COMPILED = "fast path (gradient as a formula)", "fast path, products by oneDNN", "fast path, compiled"
SPLIT = "fast path, rare ink as a list"
SPLIT_ONEDNN, SPLIT_HALF = f"{SPLIT}, products by oneDNN", f"{SPLIT}, products with 16 bits"
FLOORS = {
    "linear": "floor: each pixel read once, as a float",
    "MLP": "floor: the products of the first layer",
    "ten digits": "floor: all products, 32 bits",
}
FLOOR_16 = "floor: all products, 16 bits"
IN_32_BITS = (FAST, ONEDNN, COMPILED, SPLIT, SPLIT_ONEDNN)
GOALS = {"C1": (3, 4.5), "C2": (15, 25), "C2 floor": (5, 3.2), "C3": (5, 7), "C4": (2.4, 4), "C4 floor": (1.5, 1.5), "C7": (60, 25)}
AT_MOST = ("C2 floor", "C4 floor", "C7")
TOLERANCE = {"linear": 1e-4, "MLP": 1e-4, "ten digits": 2e-3}


def right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The share of rows whose largest logit is at the label."""
    return (logits.argmax(1) == labels).float().mean()


@dataclass
class Task:
    """What is trained: a model, its loss and accuracy, and for the fast path the slope; `epochs` make a turn."""

    title: str
    make: Callable[[], nn.Module]
    rate: float
    batch: int
    epochs: int
    loss: Callable
    accuracy: Callable
    targets: Callable[[torch.Tensor], torch.Tensor]
    slope: Callable
    slope_targets: Callable[[torch.Tensor], torch.Tensor]


TWO = {"loss": sigmoid_l1_loss, "accuracy": binary_accuracy, "targets": binary_targets, "slope": sigmoid_l1_slope}
TWO |= {"slope_targets": lambda labels: 1 - 2 * binary_targets(labels)}
TEN = {"loss": F.cross_entropy, "accuracy": right, "targets": lambda labels: labels, "slope": cross_entropy_slope}
TEN |= {"slope_targets": lambda labels: F.one_hot(labels, 10).float()}
TASKS = {
    "linear": Task("linear model", LinearModel, 1.0, 256, 5, **TWO),
    "MLP": Task("MLP 784-30-1", MLP, 0.1, 256, 5, **TWO),
    "ten digits": Task("ten digits, MLP 784-500-10", lambda: he_start(MLP((784, 500, 10), range(10))), 1.0, 1000, 1, **TEN),
}


@dataclass
class Way:
    """One way to train: its model, an epoch of training and validation, and what stores the weights in the model afterwards."""

    model: nn.Module
    epoch: Callable[[], Any]


def hand_loop(task: Task, model: nn.Module, train: Iterable, valid: Iterable, optimizer: BasicOptim) -> tuple[float, float]:
    """One epoch: a step for each batch, then loss and accuracy on `valid`."""
    for x, y in train:
        task.loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        rows = [(task.loss(logits, y), task.accuracy(logits, y), len(y)) for logits, y in ((model(x), y) for x, y in valid)]
    losses, shares, sizes = ([float(value) for value in column] for column in zip(*rows))
    return tuple(sum(v * n for v, n in zip(column, sizes)) / sum(sizes) for column in (losses, shares))


def pairs(task: Task, digits: Digits) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The data set as tutorials make it."""
    return list(zip(digits.floats().flatten(1), task.targets(digits.labels)))


def by_hand(task: Task, model: nn.Module, train: Iterable, valid: Iterable) -> Way:
    optimizer = BasicOptim(model.parameters(), task.rate)
    return Way(model, lambda: hand_loop(task, model, train, valid, optimizer))


def by_fastai(task: Task, model: nn.Module, train: Iterable, valid: Iterable, folder: Path, device: torch.device | None = None) -> Way:
    loaders = DataLoaders(train, valid, device=device) if device else DataLoaders(train, valid)
    learner = FastaiLearner(loaders, model, loss_func=task.loss, opt_func=SGD, lr=task.rate, metrics=task.accuracy, path=folder)
    learner.remove_cb(ProgressCallback)
    learner.logger = lambda *_: None
    return Way(model, lambda: learner.fit(1))


def by_learner(task: Task, model: nn.Module, train: Iterable, valid: Iterable) -> Way:
    optimizer = BasicOptim(model.parameters(), task.rate)
    learner = Learner(model, train, valid, loss_function=task.loss, optimizer=optimizer, metrics={"accuracy": task.accuracy})
    return Way(model, lambda: learner.fit(1))


def by_formula(task: Task, model: nn.Module, splits: DigitSplits, epoch: Callable[[FastTrainer], None], make: type[FastTrainer] = FastTrainer) -> Way:
    """The fast path; `epoch` trains its trainer, made by `make`. A `SplitTrainer` answers with its list as well."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    trainer = make(layers, splits.train.images, task.slope_targets(splits.train.labels), task.slope, task.rate, task.batch)
    images, targets, read, ink = splits.valid.images, task.targets(splits.valid.labels), torch.arange(784), None
    if isinstance(trainer, SplitTrainer):
        read = trainer.common
        others = torch.tensor(sorted(set(range(784)) - set(read.tolist())))
        ink = RareInk(images, others, task.batch) if len(others) else None
    valid = byte_rows(images, read)

    @torch.no_grad()
    def both() -> float:
        epoch(trainer)
        rest = ink and partial(add_ink, ink, trainer.weights_of(others))
        return task.accuracy(fast_logits(layers, valid, task.batch, read, rest), targets).item()

    return Way(model, both)


def train_with_onednn(trainer: FastTrainer) -> None:
    """`train_fast` inside `onednn`."""
    with onednn():
        train_fast(trainer)


def steps_of_linear(rows: torch.Tensor, signs: torch.Tensor, weights: list[torch.Tensor], rate: float) -> list[torch.Tensor]:
    """Steps of the linear model on `rows`, uint8 (k, n, pixels), one batch after the other: sums of products, which a compiler can fuse."""
    w = weights[0].view(-1)
    for batch, sign in zip(rows, signs):
        x = batch.float()
        p = (x * w).sum(1, keepdim=True).sigmoid()
        w = w - rate / len(x) / 255**2 * (x * (sign * p * (1 - p))).sum(0)
    return [w.view(-1, 1)]


def steps_of_mlp(rows: torch.Tensor, signs: torch.Tensor, weights: list[torch.Tensor], rate: float) -> list[torch.Tensor]:
    """The same for the MLP; `hidden` leaves out the column of ones."""
    first, second = weights
    hidden = (torch.arange(first.shape[1]) < 30).float()
    for batch, sign in zip(rows, signs):
        x = batch.float()
        a = (x @ first).relu()
        p = (a @ second).sigmoid()
        slope = sign * p * (1 - p)
        below = slope * (second.view(-1) * hidden) * (a > 0)
        second = second - rate / len(x) * (a.t() @ slope)
        first = first - rate / len(x) / 255**2 * (x.t() @ below)
    return [first, second]


def compiled_epoch(steps: Callable, rate: float, batch: int) -> Callable[[FastTrainer], None]:
    """An epoch whose steps go through torch.compile, several batches in one call. The first call compiles."""
    compiled = torch.compile(steps, dynamic=False)

    def epoch(trainer: FastTrainer) -> None:
        order = torch.randperm(len(trainer.data[0]), generator=trainer.generator)
        for part, permuted in zip(trainer.data, trainer.permuted):
            torch.index_select(part, 0, order, out=permuted)
        weights, size = trainer.matrices, CHUNK * batch
        for rows, signs in zip(*(part.split(size) for part in trainer.permuted)):
            n = len(rows) // batch
            if n:
                weights = compiled(rows[: n * batch].view(n, batch, -1), signs[: n * batch].view(n, batch, 1), weights, rate)
            if len(rows) % batch:
                weights = compiled(rows[None, n * batch :], signs[None, n * batch :], weights, rate)
        for matrix, new in zip(trainer.matrices, weights):
            matrix.copy_(new)
        unpack(trainer.matrices, trainer.layers, trainer.inked)

    return epoch


def task_for(kind: str, splits: DigitSplits) -> Task:
    """One of TASKS. On ten digits of the stand-in the rate is a tenth: at 1, rounding grows until no two ways agree after an epoch."""
    task = TASKS[kind]
    return replace(task, rate=task.rate / 10) if (kind, splits.dataset) == ("ten digits", "stand-in") else task


def make_ways(kind: str, splits: DigitSplits, shuffle: bool, compiles: bool, folder: Path) -> dict[str, Way]:
    """All ways for one of TASKS, each with a model of its own that begins with the same weights. The fast ones always shuffle."""
    task, parts, sets = task_for(kind, splits), (splits.train, splits.valid), (True, False)

    def new() -> nn.Module:
        with seeded(0):
            return task.make()

    def loaders(make: Callable) -> list[Iterable]:
        return [make(part, shuffle and train) for part, train in zip(parts, sets)]

    listed = loaders(lambda d, s: FastaiLoader(pairs(task, d), batch_size=task.batch, shuffle=s))
    stacked = loaders(lambda d, s: DataLoader(TensorDataset(d.floats(), task.targets(d.labels)), batch_size=task.batch, shuffle=s))

    def sliced() -> list[Iterable]:
        return loaders(lambda d, s: Batches(d.images, task.targets(d.labels), task.batch, s))

    ways = {
        ANCHOR: by_fastai(task, new(), *listed, folder),
        TUTORIAL: by_hand(task, new(), *listed),
        TORCH: by_hand(task, new(), *stacked),
        FASTAI_SLICES: by_fastai(task, new(), *sliced(), folder),
        SLICES: by_hand(task, new(), *sliced()),
        OURS: by_learner(task, new(), *sliced()),
    }
    if not shuffle:
        return ways
    ways[FAST] = by_formula(task, new(), splits, train_fast)
    if kind == "ten digits":
        ways[SPLIT] = by_formula(task, new(), splits, train_fast, SplitTrainer)
        ways[SPLIT_ONEDNN] = by_formula(task, new(), splits, train_with_onednn, SplitTrainer)
        ways[SPLIT_HALF] = by_formula(task, new(), splits, train_fast, HalfTrainer)
        return ways
    ways[ONEDNN] = by_formula(task, new(), splits, train_with_onednn)
    if compiles:
        steps = steps_of_linear if kind == "linear" else steps_of_mlp
        ways[COMPILED] = by_formula(task, new(), splits, compiled_epoch(steps, task.rate, task.batch))
    return ways


def difference(a: Way, b: Way) -> float:
    """The largest difference between weights."""
    return max((p - q).detach().abs().max().item() for p, q in zip(a.model.parameters(), b.model.parameters()))


def check_same(ways: dict[str, Way], names: Iterable[str], tolerance: float) -> None:
    """Stops unless the named ways have the weights of SLICES, to within rounding in 32 bits (in 64, the tests find nine equal digits)."""
    for name in names:
        found = difference(ways[name], ways[SLICES])
        if not found < tolerance:
            raise SystemExit(f"{name}: weights differ by {found:.2g} from those of {SLICES}, more than {tolerance}; a way computes something else.")


def prepare(kind: str, splits: DigitSplits, compiles: bool, folder: Path) -> tuple[dict[str, Way], float]:
    """The shuffled ways, after one epoch of each, shown to end with the same weights; and the seconds that compiling took."""
    in_order = make_ways(kind, splits, False, False, folder)
    for way in in_order.values():
        way.epoch()
    check_same(in_order, in_order, TOLERANCE[kind])
    ways, compiling = make_ways(kind, splits, True, compiles, folder), 0.0
    for name, way in ways.items():
        begun = time.perf_counter()
        way.epoch()
        compiling = time.perf_counter() - begun if name == COMPILED else compiling
    check_same(ways, [name for name in ways if name not in (ANCHOR, TUTORIAL, TORCH, SPLIT_HALF)], TOLERANCE[kind])
    check_same(ways, [name for name in ways if name == SPLIT_HALF], 20 * TOLERANCE[kind])
    return ways, compiling


def floors(rate: dict[str, float], splits: DigitSplits, ten: DigitSplits) -> dict[str, dict[str, float]]:
    """Seconds an epoch cannot do without: the linear model reads every pixel, as 32 bits, once; the others multiply all matrices once."""
    n_train, n_valid = len(splits.train), len(splits.valid)
    multiply, first, second = max(rate["fp32 products"], rate["fp32 products by oneDNN"]) * 1e9, 2 * 784 * 500, 2 * 500 * 10
    in_ten = len(ten.train) * (2 * first + 3 * second) + len(ten.valid) * (first + second)
    return {
        "linear": {FLOORS["linear"]: (n_train + n_valid) * 784 * 4 / (rate["reading"] * 1e9)},
        "MLP": {FLOORS["MLP"]: 2 * 784 * 30 * (2 * n_train + n_valid) / multiply},
        "ten digits": {FLOORS["ten digits"]: in_ten / multiply, FLOOR_16: in_ten / (rate["bfloat16 products"] * 1e9)},
    }


def rows_of(kind: str, seconds: dict[str, list[float]], floor: dict[str, float]) -> list[dict[str, Any]]:
    """For each way the median and range in milliseconds, and how many times faster than the anchor it is; last the floors."""
    anchor, lowest = median(seconds[ANCHOR]), floor[FLOORS[kind]]
    goals = {("linear", OURS): GOALS["C1"], ("linear", FAST): GOALS["C2"], ("MLP", FAST): GOALS["C3"], ("ten digits", SPLIT): GOALS["C4"]}
    table = []
    for way, taken in {**seconds, **{name: [value] for name, value in floor.items()}}.items():
        goal, stretch = goals.get((kind, way), (None, None))
        spread = {name: round(1000 * value, 3) for name, value in (("median", median(taken)), ("least", min(taken)), ("most", max(taken)))}
        ratios = {"times_faster": round(anchor / median(taken), 2), "times_the_floor": round(median(taken) / lowest, 2)}
        table.append({"model": kind, "way": way, **spread, **ratios, "goal": goal, "stretch": stretch, "rounds": len(taken)})
    return table


def overheads(seconds: dict[str, list[float]], n_batches: int) -> dict[str, float]:
    """Microseconds a batch of two Learners over the hand loop on the same slices: the median of the differences in each round."""
    pairs_of = {"our Learner": OURS, "fastai Learner": FASTAI_SLICES}
    return {name: round(1e6 * median(a - b for a, b in zip(seconds[way], seconds[SLICES])) / n_batches, 1) for name, way in pairs_of.items()}


def reached(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The goals and what was found; times faster, times the floor, and for C7 microseconds."""
    found, taken = ({(r["model"], r["way"]): r[key] for r in report["rows"]} for key in ("times_faster", "median"))
    fastest = {kind: max(found[kind, way] for way in IN_32_BITS if (kind, way) in found) for kind in TASKS}
    ten = {way: value for (kind, way), value in taken.items() if kind == "ten digits"}
    usual, ours = min(ten[ANCHOR], ten[TORCH]), min(ten[way] for way in IN_32_BITS if way in ten)
    linear = min(taken["linear", way] for way in IN_32_BITS if ("linear", way) in taken)
    over = report["overheads"]
    two = {kind: f"fastai's Learner, {taken[kind, ANCHOR]:.1f} ms an epoch" for kind in TASKS}
    quicker = f"the quicker of fastai's Learner and torch's DataLoader, {usual:.0f} ms an epoch"
    values = {
        "C1": ("linear, our Learner on slices: times faster", two["linear"], found["linear", OURS]),
        "C2": ("linear, the fastest way: times faster", two["linear"], fastest["linear"]),
        "C2 floor": ("the same: times the floor", "pixels read once as 32-bit floats", round(linear / taken["linear", FLOORS["linear"]], 2)),
        "C3": ("MLP, the fastest way: times faster", two["MLP"], fastest["MLP"]),
        "C4": ("ten digits, the fastest way with 32 bits: times faster", quicker, round(usual / ours, 2)),
        "C4 floor": ("ten digits, the fastest way: times the floor", "all products, 16 bits", round(min(ours, ten[SPLIT_HALF]) / ten[FLOOR_16], 2)),
        "C7": ("our Learner, microseconds a batch over the hand loop", f"fastai's: {over['fastai Learner']:.0f}", over["our Learner"]),
    }
    return [goal(name, what, against, value, *GOALS[name], at_most=name in AT_MOST) for name, (what, against, value) in values.items()]


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    about, rate, over, compiling = (report[key] for key in ("machine", "rates", "overheads", "compiling"))
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", "torch", "fastai"))
    lines = [
        "# An epoch of the linear model and of two MLPs", "",
        f"Written by `python -m bench.training`. {about['cpu']}, {about['cores']} cores, {about['system']}; {versions}; {report['threads']} threads. "
        f"Digits: {report['dataset']}; 3s and 7s, {report['n_train']:,} to learn from and {report['n_valid']:,} to test on, in batches "
        f"of {TASKS['MLP'].batch}; all ten, {report['n_train_ten']:,} and {report['n_valid_ten']:,}, in batches of {TASKS['ten digits'].batch}; "
        f"shuffled. Training and validation, in milliseconds an epoch. The ways take turns of {TASKS['MLP'].epochs} epochs (ten digits: "
        f"{TASKS['ten digits'].epochs}); medians of these. Before, each was run for an epoch and shown to end with the same weights.", "",
        "![The table as bars](training.png)", "",
        "| model | way | median | least to most | times faster | times the floor | goal (stretch) |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in report["rows"]:
        goal = f"{r['goal']:g} ({r['stretch']:g})" if r["goal"] else ""
        spread = f"{r['least']:.2f} to {r['most']:.2f}" if r["rounds"] > 1 else ""
        ratios = f"{r['times_faster']:.1f} | {r['times_the_floor']:.1f}"
        lines.append(f"| {r['model']} | {r['way']} | {r['median']:.2f} | {spread} | {ratios} | {goal} |")
    lines += ["", *HEAD, *goal_lines(report["goals"])]
    took = f"Compiling took {compiling['linear']:.1f} s (linear) and {compiling['MLP']:.1f} s (MLP), in none of the times. " if compiling else ""
    lines += [
        "", f"Over the hand loop on the same slices, each batch costs {over['our Learner']:.0f} microseconds more in our Learner and "
        f"{over['fastai Learner']:.0f} in fastai's. {took}In the same run, the machine read {rate['reading']:.1f} GB/s and multiplied "
        f"{rate['fp32 products']:.0f} GFLOP/s with 32 bits as usual, {rate['fp32 products by oneDNN']:.0f} by oneDNN, and "
        f"{rate['bfloat16 products']:.0f} with 16 bits. The floors follow from that: for the linear model, every pixel read once as a 32-bit float; "
        "for the MLP, the products of its first layer, and for ten digits all products, at the better 32-bit rate. "
        "Bytes are a quarter of the floats, so with them a linear epoch could in principle be faster than its floor; and with rare ink as a list, "
        "products with empty paper are left out, which the floor for ten digits counts. (Products with 16 bits round: weights are nearly the same.)",
    ]  # fmt: skip
    return "\n".join(lines + warning(report)) + "\n"


def draw(report: dict[str, Any]) -> Figure:
    """The medians as bars on a logarithmic axis; ours are dark, the floor is hatched, goals are dashed lines."""
    figure = Figure(figsize=(10, 10.5), dpi=120, layout="constrained", facecolor="white")
    for ax, kind in zip(figure.subplots(len(TASKS), 1), TASKS):
        rows = [r for r in report["rows"] if r["model"] == kind]
        own = (SLICES, OURS, SPLIT_HALF, *IN_32_BITS)
        kinds = ["floor" if r["way"].startswith("floor") else "ours" if r["way"] in own else "theirs" for r in rows]
        drawn = [(r["way"], r["median"], of, f"{r['median']:.2f} ms, {r['times_faster']:.1f}x") for r, of in zip(rows, kinds)]
        bars(ax, drawn, "milliseconds an epoch, training and validation", log=True)
        for name in {"linear": ("C1", "C2"), "MLP": ("C3",), "ten digits": ("C4",)}[kind]:
            mark(ax, rows[0]["median"] / GOALS[name][0], f"goal {name}")
        ax.set_title(TASKS[kind].title, fontsize=10, pad=16)
    return figure


def several(epoch: Callable[[], Any], n_epochs: int) -> Callable[[], None]:
    """A turn: `n_epochs` epochs, one after the other, as in a training run."""

    def turn() -> None:
        for _ in range(n_epochs):
            epoch()

    return turn


def measure(rounds: int, compiles: bool = True, n_threads: int = 2, splits: DigitSplits | None = None, ten: DigitSplits | None = None) -> dict:
    """Everything. Sets the number of threads while it runs, and puts it back."""
    default_device(False)
    splits, ten = splits or load_digits("mnist_sample"), ten or load_digits("mnist_png")
    with threads(n_threads), Others() as others, tempfile.TemporaryDirectory(prefix="bench") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiled")
        prepared = {kind: prepare(kind, ten if kind == "ten digits" else splits, compiles, Path(folder)) for kind in TASKS}
        turns = {(kind, name): several(way.epoch, TASKS[kind].epochs) for kind, (ways, _) in prepared.items() for name, way in ways.items()}
        rate, taken = rates(), take_turns(turns, rounds)
        rate = {name: max(value, rate[name]) for name, value in rates().items()}
    floor = floors(rate, splits, ten)
    seconds = {kind: {name: [t / TASKS[kind].epochs for t in times] for (k, name), times in taken.items() if k == kind} for kind in TASKS}
    n_batches = sum(-(-len(part) // TASKS["linear"].batch) for part in (splits.train, splits.valid))
    sizes = {"n_train": len(splits.train), "n_valid": len(splits.valid), "n_train_ten": len(ten.train), "n_valid_ten": len(ten.valid)}
    report = {"machine": machine(), "threads": n_threads, "load": others.cores, "dataset": splits.dataset, **sizes}
    report |= {"rates": {name: round(value, 1) for name, value in rate.items()}, "overheads": overheads(seconds["linear"], n_batches)}
    report |= {"compiling": {kind: round(compiling, 1) for kind, (_, compiling) in prepared.items() if compiling} if compiles else None}
    report |= {"rows": [r for kind in TASKS for r in rows_of(kind, seconds[kind], floor[kind])]}
    return {**report, "goals": reached(report)}


def main(argv: list[str] | None = None, splits: DigitSplits | None = None, ten: DigitSplits | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.training", description="Measure an epoch of the linear model and of two MLPs.")
    parser.add_argument("--rounds", type=int, default=11, metavar="N", help="how many rounds (default: 11)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="how many threads PyTorch uses (default: 2)")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which needs a C++ compiler")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="where the three files go (default: bench)")
    args = parser.parse_args(argv)
    report = measure(args.rounds, not args.no_compile, args.threads, splits, ten)
    draw(report).savefig(args.out / "training.png", metadata={"Software": None})
    publish("training", report, as_markdown(report), args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
