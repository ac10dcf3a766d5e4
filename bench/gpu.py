"""Goals G1 to G7 on one GPU: `python -m bench.gpu`, or with all other measurements `python -m bench.results --device cuda`.

The digits lie on the device as bytes before any clock runs; seconds are those between two CUDA events around the training, from first weights
to trained ones, what is drawn at random included. Each run has a seed of its own. Compiling and recording, once, are measured
apart. The usual recipes are run again on the same card, in the same process, in turns with ours; those of fastai without their validation,
which is no training. A second table tries what the library decides for CUDA: recording many steps, and products with fewer bits. Which of
them pays is then said in words. On a CPU (`--device cpu --quick`) the same code runs with few digits, so that it can be tested; a stopwatch
takes the place of events, and nothing is recorded. Writes bench/gpu.json, gpu.md and gpu.png.
"""
from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from bench.common import HEAD, HERE, Others, bars, goal, goal_lines, machine, mark, publish, short, threads, warning
from bench.half import HalfTrainer
from pixels_to_resnet import small_net
from pixels_to_resnet.data import Digits, DigitSplits, load_digits
from pixels_to_resnet.devices import Stopwatch, choose_device
from pixels_to_resnet.fast_path import FastTrainer, sigmoid_l1_slope
from pixels_to_resnet.fast_resnet import ResNet18Trainer
from pixels_to_resnet.fast_ten import cross_entropy_slope
from pixels_to_resnet.graphs import Replayed
from pixels_to_resnet.linear import BasicOptim, LinearModel, binary_targets, seeded, sigmoid_l1_loss
from pixels_to_resnet.mlp import MLP
from pixels_to_resnet.multiclass import he_start
from pixels_to_resnet.pixel_similarity import predict
from pixels_to_resnet.resnet import class_targets
from pixels_to_resnet.small_net import Recipe, SmallNetTrainer, shifted_logits
from pixels_to_resnet.trials import seconds_of

GOALS = {
    "G1": ("99 % of the test digits, seconds", 0.05, 0.015, 0.99),
    "G2": ("99.5 % of the test digits, seconds", 0.30, 0.10, 0.995),
    "G3": ("99.7 % of the test digits, seconds", 3.0, 1.0, 0.997),
    "G4": ("resnet18, 3s and 7s, 99.5 %, seconds", 0.30, 0.10, 0.995),
    "G5": ("resnet18, ten digits, 99.2 %, seconds", 1.0, 0.35, 0.992),
    "G6": ("an epoch of 784-500-10, milliseconds", 12.0, 6.0, None),
    "G7": ("an epoch of the linear model, milliseconds", 2.0, 0.5, None),
    "G7, MLP": ("an epoch of 784-30-1, milliseconds", 3.0, 1.0, None),
}  # fmt: skip
PUBLISHED = {"G1": "published 0.762 s", "G4": "published 11 s", "G6": "published 17 ms, a smaller net"}
RECIPES = {"G1": "TO_99", "G2": "TO_99_5", "G3": "TO_99_7"}
ANCHOR_SEEDS, FULL, TF32, HALF = 3, "32 bits", "TF32", "bfloat16"
Run = Callable[[int], tuple[float, Callable[[], float]]]


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the second of `SIZES` is for trials on a CPU."""

    seeds: int = 10
    rounds: int = 7
    epochs: int = 20
    memory: int = 2**30
    product: int = 8192
    kernels: int = 1000
    digits: int | None = None


SIZES = {False: Sizes(), True: Sizes(1, 1, 1, 2**16, 128, 20, 120)}


def clock(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds that `device` takes for `work`: between two events on a GPU, by a stopwatch elsewhere."""
    return seconds_of(device, work)[0]


@contextmanager
def products(how: str) -> Iterator[None]:
    """Inside, matrix products and convolutions of 32-bit numbers keep 32 bits, or are rounded to TF32; afterwards as before."""
    settings = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "tf32" if how == TF32 else "ieee"
        yield
    finally:
        for setting, value in zip(settings, before):
            setting.fp32_precision = value


def ceilings(device: torch.device, sizes: Sizes) -> dict[str, float]:
    """What the card can do at best: memory, products of random square matrices, and kernels that wait for each other."""

    def best(work: Callable[[], Any]) -> float:
        return min(clock(device, work) for _ in range(5))

    memory, n = torch.rand(sizes.memory, device=device), sizes.product
    copy, found = torch.empty_like(memory), {}
    found["memory read, GB/s"] = memory.nbytes / best(memory.sum) / 1e9
    found["memory copied, read and written, GB/s"] = 2 * memory.nbytes / best(lambda: copy.copy_(memory)) / 1e9
    memory = copy = tiny = torch.zeros(1, device=device)
    a, b = torch.rand(n, n, device=device), torch.rand(n, n, device=device)
    for how in (FULL, TF32):
        with products(how):
            found[f"products, {how}, TFLOP/s"] = 2 * n**3 / best(lambda: a @ b) / 1e12
    a, b = a.bfloat16(), b.bfloat16()
    found[f"products, {HALF}, TFLOP/s"] = 2 * n**3 / best(lambda: a @ b) / 1e12

    def chain() -> None:
        for _ in range(sizes.kernels):
            tiny.add_(1)

    for name, work in (("called one by one", chain), ("in a recording", Replayed(chain, device, lambda: [tiny]))):
        found[f"a small kernel, {name}, microseconds"] = best(work) / sizes.kernels * 1e6
    return found


def share_right(model: nn.Module, digits: Digits) -> float:
    """The share of `digits` that `model` names correctly."""
    return (predict(model, digits) == digits.labels).double().mean().item()


@dataclass
class Way:
    """A way to train. `run(seed)` gives the seconds to trained weights, and what finds their accuracy.

    `prepared` is what came before, once; `drawn` what drawing first weights and orders took of the seconds of each run, where it is known."""

    goal: str
    name: str
    run: Run
    prepared: float = 0.0
    ours: bool = True
    n_seeds: int | None = None
    drawn: list[float] = field(default_factory=list)


def measure_ways(ways: Iterable[Way], sizes: Sizes) -> list[dict[str, Any]]:
    """The ways in turns, a run for each seed, after a run of each that does not count."""
    ways, found = list(ways), []
    warm = [way.run(sizes.seeds)[0] for way in ways]
    taken: list[list[tuple[float, float]]] = [[] for _ in ways]
    for seed in range(sizes.seeds):
        for way, runs in zip(ways, taken):
            if seed < (way.n_seeds or sizes.seeds):
                seconds, accuracy = way.run(seed)
                runs.append((seconds, accuracy()))
    for way, runs, first in zip(ways, taken, warm):
        seconds, accuracies = map(list, zip(*runs))
        row = {"goal": way.goal, "way": way.name, "ours": way.ours, "seconds": seconds, "accuracies": accuracies}
        found.append({**row, "prepared": way.prepared, "first": first, "drawn": median(way.drawn) if way.drawn else None})
        print(f"{way.goal}, {way.name}: {median(seconds):.4f} s, accuracy {mean(accuracies):.4f}", flush=True)
    return found


def by_trainer(name: str, way: str, trainer: Any, device: torch.device, accuracy: Callable[[nn.Module], float]) -> Way:
    """Ours: a trainer whose memory and recording serve for all runs."""
    prepared, drawn = trainer.prepare(), []

    def run(seed: int) -> tuple[float, Callable[[], float]]:
        with Stopwatch(device) as watch:
            trainer.restart(seed)
        drawn.append(watch.seconds)
        return watch.seconds + clock(device, trainer.train), lambda: accuracy(trainer.model)

    return Way(name, way, run, prepared, drawn=drawn)


def a_turn(n_steps: int, most: int = 150) -> int:
    """How many steps to record: the most up to `most` of which the run is a multiple, so that none is left over; at worst all of them."""
    return max((n for n in range(8, most + 1) if n_steps % n == 0), default=n_steps)


def small(recipe: Recipe, digits: Digits, **how: Any) -> SmallNetTrainer:
    """The trainer of the small network."""
    n_steps = math.ceil(round(recipe.epochs * len(digits)) / min(recipe.batch_size, len(digits)))
    return SmallNetTrainer(digits.images, digits.labels, recipe, **{"n_a_turn": a_turn(n_steps), **how})


def small_accuracy(valid: Digits, recipe: Recipe) -> Callable[[nn.Module], float]:
    """What finds the accuracy of a small network, its answers averaged over as many windows as its recipe says."""
    return lambda model: (shifted_logits(model, valid.images, recipe.shifts).argmax(1) == valid.labels).double().mean().item()


def resnet(digits: Digits, epochs: float = 1, batch_size: int = 128, **how: Any) -> ResNet18Trainer:
    """The trainer of resnet18, as `fit_resnet18` makes it."""
    classes, size = digits.labels.unique().tolist(), min(batch_size, len(digits))
    n_steps = math.ceil(epochs * len(digits) / size)
    how = {"n_a_turn": a_turn(n_steps), **how}
    return ResNet18Trainer(digits.images, class_targets(digits.labels, classes), classes, n_steps, batch_size=size, **how)


def by_published(device: torch.device, splits: DigitSplits) -> Way:
    """The anchor of G1, the last recipe of tuomaso/train_mnist_fast, with its data on the device."""
    from bench import ninety_nine

    data = ninety_nine.anchor_data(splits.train)

    def run(seed: int) -> tuple[float, Callable[[], float]]:
        held: list[nn.Module] = []
        seconds = clock(device, lambda: held.append(ninety_nine.fit_anchor(data, seed)))
        return seconds, lambda: share_right(ninety_nine.AnchorAnswers(held[0]), splits.valid)

    return Way("G1", "tuomaso/train_mnist_fast, written anew", run, ours=False)


def by_fastai(name: str, device: torch.device, splits: DigitSplits, folder: Path) -> Way | None:
    """The anchor of G4 and G5, the tutorial's call for one epoch, from pictures in `folder`; None where fastai is not installed."""
    try:
        from fastai.callback.core import Callback
        from fastai.learner import CancelValidException

        from bench.resnet import tutorial_learner
    except ImportError:
        return None
    from bench.results import folder_of

    class NoValidation(Callback):
        def before_validate(self) -> None:
            raise CancelValidException

    folder_of(moved(splits, torch.device("cpu")), folder)

    def run(seed: int) -> tuple[float, Callable[[], float]]:
        learner = tutorial_learner(folder, seed, device=device)
        with seeded(seed), learner.no_bar():
            seconds = clock(device, lambda: learner.fit_one_cycle(1, 0.1, cbs=NoValidation()))

        def accuracy() -> float:
            with learner.no_bar():
                return float(learner.validate()[-1])

        return seconds, accuracy

    return Way(name, "fastai's vision_learner, one epoch", run, ours=False, n_seeds=ANCHOR_SEEDS)


def moved(splits: DigitSplits, device: torch.device) -> DigitSplits:
    """The digits on `device`."""
    return replace(splits, train=splits.train.to(device), valid=splits.valid.to(device))


# ---- epochs of linear layers


@dataclass(frozen=True)
class Stack:
    """A stack of linear layers: how to make it, and how it is trained."""

    goal: str
    make: Callable[[], nn.Module]
    rate: float
    batch: int
    loss: Callable
    targets: Callable[[torch.Tensor], torch.Tensor]
    slope: Callable
    slope_targets: Callable[[torch.Tensor], torch.Tensor]


STACKS = {
    "linear": Stack("G7", LinearModel, 1.0, 256, sigmoid_l1_loss, binary_targets, sigmoid_l1_slope, lambda y: 1 - 2 * binary_targets(y)),
    "MLP": Stack("G7, MLP", MLP, 0.1, 256, sigmoid_l1_loss, binary_targets, sigmoid_l1_slope, lambda y: 1 - 2 * binary_targets(y)),
    "ten digits": Stack(
        "G6", lambda: he_start(MLP((784, 500, 10), range(10))), 1.0, 1000, F.cross_entropy, lambda y: y, cross_entropy_slope,
        lambda y: F.one_hot(y, 10).float(),
    ),
}  # fmt: skip


class Recordable(HalfTrainer):
    """Products with 16 bits, and no list of rare ink, so that an epoch can be recorded."""

    replayable = True

    def __init__(self, *how: Any) -> None:
        super().__init__(*how, share=0.0)


def new(stack: Stack, device: torch.device) -> nn.Module:
    """The model before training, the same each time."""
    with seeded(0):
        return stack.make().to(device)


def by_epochs(stack: Stack, way: str, digits: Digits, valid: Digits, sizes: Sizes, records: bool, how: str) -> tuple[Way, float]:
    """Ours: some epochs of the fast path, and the seconds of one."""
    device, model = digits.images.device, new(stack, digits.images.device)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    make = Recordable if how == HALF else FastTrainer
    trainer = make(layers, digits.images, stack.slope_targets(digits.labels), stack.slope, stack.rate, stack.batch)
    trainer.replayable = records
    begin = [matrix.clone() for matrix in trainer.matrices]
    with torch.no_grad(), products(how):
        with Stopwatch(device) as watch:
            trainer.epoch(trainer.orders(1)[0])

    @torch.no_grad()
    def run(seed: int) -> tuple[float, Callable[[], float]]:
        for matrix, value in zip(trainer.matrices, begin):
            matrix.copy_(value)
        trainer.generator.manual_seed(seed)
        orders = trainer.orders(sizes.epochs)

        def epochs() -> None:
            for order in orders:
                trainer.epoch(order)

        with products(how):
            seconds = clock(device, epochs) / sizes.epochs
        trainer.store()
        return seconds, lambda: share_right(model, valid)

    return Way(stack.goal, way, run, watch.seconds)


class Moved:
    """Batches of a loader, moved to a device."""

    def __init__(self, loader: Iterable, device: torch.device) -> None:
        self.loader, self.device = loader, device

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        return (tuple(part.to(self.device, non_blocking=True) for part in batch) for batch in self.loader)


def by_loader(stack: Stack, digits: Digits, valid: Digits) -> Way:
    """An anchor of G6 and G7: torch's DataLoader on the CPU, its batches moved to the device, and a loop by hand."""
    device, model = digits.images.device, new(stack, digits.images.device)
    data = TensorDataset(digits.floats().cpu(), stack.targets(digits.labels).cpu())
    batches = Moved(DataLoader(data, batch_size=stack.batch, shuffle=True, pin_memory=device.type == "cuda"), device)
    optimizer = BasicOptim(model.parameters(), stack.rate)

    def epoch() -> None:
        for x, y in batches:
            stack.loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    return Way(stack.goal, "torch's DataLoader, a loop by hand", lambda seed: (clock(device, epoch), lambda: share_right(model, valid)), ours=False)


def by_learner(stack: Stack, digits: Digits, valid: Digits, folder: Path) -> Way | None:
    """An anchor of G6 and G7: fastai's Learner on fastai's DataLoader of a list of pairs; None where fastai is not installed."""
    try:
        from bench.training import FastaiLoader, TASKS, by_fastai as learner_of, pairs  # isort: skip
    except ImportError:
        return None
    kind = next(name for name, other in STACKS.items() if other is stack)
    device, task = digits.images.device, TASKS[kind]
    loader = FastaiLoader(pairs(task, digits.to("cpu")), batch_size=stack.batch, shuffle=True)
    one = FastaiLoader(pairs(task, Digits(valid.images[:1], valid.labels[:1]).to("cpu")), batch_size=1)
    way = learner_of(task, new(stack, device), loader, one, folder, device)
    run: Run = lambda seed: (clock(device, way.epoch), lambda: share_right(way.model, valid))  # noqa: E731
    return Way(stack.goal, "fastai's Learner on a list of pairs", run, ours=False)


def stack_ways(splits: DigitSplits, kind: str, sizes: Sizes, folder: Path) -> list[Way]:
    """The ways to train one of STACKS."""
    stack, train, valid = STACKS[kind], splits.train, splits.valid
    tried = {f"fast path, {FULL}, calls one by one": (False, FULL), f"fast path, {FULL}, recorded": (True, FULL)}
    tried |= {f"fast path, {how}, recorded": (True, how) for how in (TF32, HALF)}
    ours = [by_epochs(stack, name, train, valid, sizes, *how) for name, how in tried.items()]
    theirs = [by_learner(stack, train, valid, folder), by_loader(stack, train, valid)]
    return [way for way in theirs if way] + ours


# ---- what the library decides for CUDA


def decisions(two: DigitSplits, ten: DigitSplits, device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """Both convolutional trainers with turns of 1, of 20 and of all steps, recorded or not, and with 32 bits, TF32 and bfloat16."""
    makers = {"small net": partial(small, small_net.TO_99, ten.train), "resnet18": partial(resnet, two.train)}
    whole, rows = 10**6, []
    tried = [(n, True, HALF) for n in (1, 20, whole)] + [(20, False, HALF), (20, True, TF32), (20, True, FULL)]
    for model, make in makers.items():
        for n_a_turn, records, how in tried:
            with products(how if how == TF32 else FULL):
                trainer = make(dtype=torch.bfloat16 if how == HALF else torch.float32, n_a_turn=n_a_turn)
                trainer.steps.record = None if records else False
                prepared, seconds = trainer.prepare(), []
                for seed in range(sizes.rounds):
                    trainer.restart(seed)
                    seconds.append(clock(device, trainer.train))
            row = {"model": model, "steps a turn": min(n_a_turn, trainer.steps.n_steps), "recorded": records, "products": how}
            rows.append({**row, "steps": trainer.steps.n_steps, "seconds": seconds, "prepared": prepared})
    return rows


def advice(rows: list[dict[str, Any]], tried: list[dict[str, Any]], least: float = 0.1) -> list[str]:
    """What pays, in words: a change is worth it if it saves a share of `least` or more of the time."""

    def compared(what: str, plain: tuple[str, float], others: dict[str, float]) -> str:
        name = min(others, key=others.get)
        saved = 1 - others[name] / plain[1]
        said = f"takes {name}, which saves {100 * saved:.0f} %" if saved >= least else f"can stay with {plain[0]}: {name} saves {100 * saved:.0f} %"
        return f"{what} {said} (of {1000 * plain[1]:.3g} ms)."

    lines = []
    for model in dict.fromkeys(row["model"] for row in tried):
        of = {(r["steps a turn"], r["recorded"], r["products"]): median(r["seconds"]) for r in tried if r["model"] == model}
        usual = next(key for key in of if key[1:] == (False, HALF))[0]
        turns = {f"recorded turns of {n}": value for (n, records, how), value in of.items() if records and how == HALF}
        lines.append(compared(f"{model}, steps:", ("steps called one by one", of[usual, False, HALF]), turns))
        narrow = {how: of[usual, True, how] for how in (TF32, HALF)}
        lines.append(compared(f"{model}, products:", (FULL, of[usual, True, FULL]), narrow))
    for kind, stack in STACKS.items():
        of = {r["way"]: median(r["seconds"]) for r in rows if r["goal"] == stack.goal and r["ours"]}
        right = {r["way"]: mean(r["accuracies"]) for r in rows if r["goal"] == stack.goal and r["ours"]}
        if of:
            first, second = list(of)[:2]
            lines.append(compared(f"{kind}, epochs:", ("calls one by one", of[first]), {"a recording": of[second]}))
            good = {way.split(", ")[1]: of[way] for way in list(of)[2:] if right[way] >= right[second] - 0.002}
            lines.append(compared(f"{kind}, products:", (FULL, of[second]), good) if good else f"{kind}, products: fewer bits cost accuracy.")
    return lines


# ---- the report


def reached(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The goals and what was found: the fastest of our ways that is accurate enough, against the anchors of the same card."""
    goals = []
    for name, (what, wanted, stretch, least) in GOALS.items():
        unit, scale = ("ms", 1000) if "milliseconds" in what else ("s", 1)
        ours, theirs = ([r for r in rows if r["goal"] == name and r["ours"] == mine] for mine in (True, False))
        anchors = [f"{r['way']}: {short(scale * median(r['seconds']))} {unit}, {100 * mean(r['accuracies']):.2f} %" for r in theirs]
        against = "; ".join([*anchors, *([PUBLISHED[name]] if name in PUBLISHED else [])]) or "none"
        if not ours:
            goals.append(goal(name, what, against, None, wanted, stretch, at_most=True))
            continue
        good = [r for r in ours if least is None or mean(r["accuracies"]) >= least]
        best = min(good or ours, key=lambda r: median(r["seconds"]))
        said = f"{what} ({best['way']}; {100 * mean(best['accuracies']):.3f} % on the mean of {len(best['seconds'])})"
        goals.append(goal(name, said, against, scale * median(best["seconds"]), wanted, stretch, at_most=True, valid=bool(good)))
    return goals


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    m, rows = report["machine"], report["rows"]
    lines = [
        "# On one GPU", "",
        f"Written by `python -m bench.gpu`. {m.get('gpu', 'no GPU: a trial on ' + m['cpu'])}; {m['cpu']}, {m['cores']} cores; "
        f"python {m['python']}, torch {m['torch']}, CUDA {m.get('cuda', 'none')}, fastai {m['fastai']}. Digits: {report['dataset']}, on the device "
        "as bytes. Seconds from first weights to trained ones, by events, a run for each seed, in turns. Before, once: compiling and recording; "
        "the first run, with all that libraries do once, does not count. Drawing first weights and orders is part of each run of ours, "
        "and shown apart as well. "
        "fastai runs without its validation, or with a single image of it.", "",
        "![Seconds of all ways](gpu.png)", "", *HEAD, *goal_lines(report["goals"]), "",
        "| goal | way | seconds, median | least to most | runs | accuracy, mean | least to most | before, once | of it drawn | first run |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in rows:
        seconds, right = r["seconds"], r["accuracies"]
        times = f"{median(seconds):.5f} | {min(seconds):.5f} to {max(seconds):.5f} | {len(seconds)}"
        shares = f"{100 * mean(right):.3f} % | {100 * min(right):.2f} to {100 * max(right):.2f} %"
        lines.append(f"| {r['goal']} | {r['way']} | {times} | {shares} | {r['prepared']:.2f} | {short(r['drawn'])} | {r['first']:.5f} |")
    lines += ["", "| what the card can do at best | |", "|---|---|", *(f"| {what} | {short(value)} |" for what, value in report["ceilings"].items())]
    lines += ["", "## What pays", "", "Whole runs of the trainers, and what each setting changes.", ""]
    lines += ["| model | steps a turn | recorded | products | steps | seconds, median | least to most | before, once |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for r in report["tried"]:
        about = f"{r['model']} | {r['steps a turn']} | {'yes' if r['recorded'] else 'no'} | {r['products']} | {r['steps']}"
        lines.append(f"| {about} | {median(r['seconds']):.5f} | {min(r['seconds']):.5f} to {max(r['seconds']):.5f} | {r['prepared']:.2f} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in report["advice"]), *warning(report)]) + "\n"


def draw(report: dict[str, Any]) -> Any:
    """A panel for each goal that was measured: seconds of all ways, and the goal."""
    from matplotlib.figure import Figure

    names = [name for name in GOALS if any(r["goal"] == name for r in report["rows"])]
    counts = [sum(r["goal"] == name for r in report["rows"]) for name in names]
    figure = Figure(figsize=(10, 0.32 * sum(counts) + 0.9 * len(names)), dpi=120, layout="constrained", facecolor="white")
    for ax, name in zip(figure.subplots(len(names), 1, height_ratios=[n + 1 for n in counts], squeeze=False)[:, 0], names):
        drawn = [(r["way"], median(r["seconds"]), "ours" if r["ours"] else "theirs") for r in report["rows"] if r["goal"] == name]
        bars(ax, [(way, value, kind, f"{value:.3g} s") for way, value, kind in drawn], f"{name}: seconds", log=True)
        what, wanted = GOALS[name][:2]
        place = wanted / 1000 if "milliseconds" in what else wanted
        mark(ax, place, "goal")
        ax.set_xlim(min(place, *(value for _, value, _ in drawn)) / 1.5, 3 * max(place, *(value for _, value, _ in drawn)))
    return figure


def measure(device: torch.device, sizes: Sizes, only: Iterable[str] | None = None, n_threads: int | None = None) -> dict[str, Any]:
    """Everything; or of the goals only those in `only`, and then what pays is not tried."""
    from bench.results import some

    wanted = set(only or GOALS)
    two, ten = (some(task, sizes.digits) if sizes.digits else load_digits(task) for task in ("mnist_sample", "mnist_png"))
    two, ten = moved(two, device), moved(ten, device)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench") as home, threads(n_threads or torch.get_num_threads()), Others() as others:
        bare = ceilings(device, sizes)
        for name, of_net in RECIPES.items():
            recipe = getattr(small_net, of_net, None)
            if name in wanted and recipe is not None:
                trainer = small(recipe, ten.train)
                ways = [by_trainer(name, f"SmallNet, {of_net}", trainer, device, small_accuracy(ten.valid, recipe))]
                rows += measure_ways([*([by_published(device, ten)] if name == "G1" else []), *ways], sizes)
        for name, splits, recipes in (("G4", two, [(1, 128)]), ("G5", ten, [(3, 128)])):
            if name in wanted:
                ways = [by_fastai(name, device, splits, Path(home) / name)]
                for epochs, batch in recipes:
                    trainer, way = resnet(splits.train, epochs, batch), f"fit_resnet18, {epochs} epochs in batches of {batch}"
                    ways.append(by_trainer(name, way, trainer, device, partial(share_right, digits=splits.valid)))
                rows += measure_ways([way for way in ways if way], sizes)
        for kind, stack in STACKS.items():
            if stack.goal.split(",")[0] in wanted:
                rows += measure_ways(stack_ways(ten if kind == "ten digits" else two, kind, sizes, Path(home)), sizes)
        tried = [] if only else decisions(two, ten, device, sizes)
    about = {"machine": machine(), "device": device.type, "dataset": ten.dataset, "threads": torch.get_num_threads(), "load": others.cores}
    goals = [g for g in reached(rows) if g["name"].split(",")[0] in wanted]
    return {**about, "ceilings": bare, "rows": rows, "tried": tried, "goals": goals, "advice": advice(rows, tried)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Measure goals G1 to G7 on one GPU.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to compute; cpu is for trials (default: cuda)")
    parser.add_argument("--quick", action="store_true", help="a trial with few digits and runs")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many runs, each with a seed of its own (default: 10)")
    parser.add_argument("--threads", type=int, metavar="N", help="how many threads PyTorch uses on the CPU (default: as it likes)")
    names = sorted({name.split(",")[0] for name in GOALS})
    parser.add_argument("--only", nargs="+", choices=names, metavar="GOAL", help="only these goals, of G1 to G7")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="where the three files go (default: bench)")
    args = parser.parse_args(argv)
    if args.device == "cpu" and not args.quick:
        parser.error("these are goals for a GPU; on a CPU add --quick, for a trial")
    sizes = SIZES[args.quick]
    report = measure(choose_device(args.device), replace(sizes, seeds=args.seeds or sizes.seeds), args.only, args.threads)
    draw(report).savefig(args.out / "gpu.png", metadata={"Software": None})
    publish("gpu", report, as_markdown(report), args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
