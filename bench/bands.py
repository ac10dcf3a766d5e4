"""What training gives over seeds, beside the reference results: `python -m bench.bands`.

Every line trains once for each seed, on MNIST and on the stand-in, and gives the least, the middle and the greatest accuracy on the
validation digits, 2,038 for 3s and 7s and 10,000 for all ten. Writes bench/bands.json and bench/bands.md. The whole takes hours;
`--only WORD` runs the lines whose name contains WORD, and leaves the others of the report as they are.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from bench.common import HERE, machine, publish
from pixels_to_resnet import fast_path, fast_ten
from pixels_to_resnet.batches import Batches
from pixels_to_resnet.data import Digits, DigitSplits, load_digits
from pixels_to_resnet.linear import BasicOptim, LinearModel, binary_accuracy, binary_targets, seeded, sigmoid_l1_loss, train_epoch, validate
from pixels_to_resnet.mlp import MLP
from pixels_to_resnet.multiclass import he_start
from pixels_to_resnet.pixel_similarity import predict

STANDARD, SMALL, MULTI = "linear, standard normal start", "linear, small start", "784-30-1"


def standard_normal(model: nn.Module | None = None) -> nn.Module:
    """A linear model, or `model`, with all weights and biases drawn from the standard normal distribution."""
    model = LinearModel() if model is None else model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def without_relu() -> nn.Module:
    """Two linear layers, 784-30-1, with nothing between them."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.Linear(30, 1))


def trained(make: Callable[[], nn.Module], splits: DigitSplits, rate: float, epochs: Sequence[int], shuffle: bool, seed: int) -> list[float]:
    """The accuracy of the model that `make` makes, after each number of passes in `epochs`, in batches of 256."""
    with seeded(seed):
        model = make()
    train, valid = splits.train, batches_of(splits.valid)
    batches = Batches(train.images, binary_targets(train.labels), shuffle=shuffle, seed=seed)
    optimizer, found = BasicOptim(model.parameters(), rate), []
    for epoch in range(1, max(epochs) + 1):
        train_epoch(model, batches, sigmoid_l1_loss, optimizer)
        if epoch in epochs:
            found.append(validate(model, valid))
    return found


def batches_of(digits: Digits) -> Batches:
    """The digits in their order, in large batches."""
    return Batches(digits.images, binary_targets(digits.labels), batch_size=2048)


def fastai_learner(splits: DigitSplits, seed: int) -> list[float]:
    """Accuracy after the first and the tenth epoch of fastai's Learner on the tutorial's loaders, in order, learning rate 1."""
    import fastai.callback.progress  # noqa: F401  adds no_bar
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from fastai.optimizer import SGD

    loaders = [DataLoader(list(zip(part.floats(), binary_targets(part.labels))), batch_size=256) for part in (splits.train, splits.valid)]
    with seeded(seed):
        learner = Learner(DataLoaders(*loaders), LinearModel(), loss_func=sigmoid_l1_loss, opt_func=SGD, metrics=binary_accuracy)
        with learner.no_bar(), learner.no_logging():
            learner.fit(10, lr=1)
    return [float(learner.recorder.values[epoch][2]) for epoch in (0, 9)]


def share_right(model: nn.Module, digits: Digits) -> float:
    """The share of `digits` that `model` names correctly."""
    return (predict(model, digits) == digits.labels).double().mean().item()


def rung(fit: str, splits: DigitSplits, seed: int, epochs: int | None = None) -> list[float]:
    """The accuracy of a rung of `climb`, "module:function"."""
    module, name = fit.split(":")
    return [share_right(getattr(import_module(f"pixels_to_resnet.{module}"), name)(splits.train, epochs=epochs, seed=seed), splits.valid)]


def bce_slope(logits: torch.Tensor, targets: torch.Tensor, out: torch.Tensor) -> None:
    """The derivative of the sum of the binary cross-entropies of ten columns, each image's mean over its columns; `targets` are 0 or 1."""
    torch.sub(logits.sigmoid(), targets, out=out).div_(logits.shape[1])


def ten_l1_slope(logits: torch.Tensor, targets: torch.Tensor, out: torch.Tensor) -> None:
    """The same for the distance of the sigmoids from the targets."""
    fast_path.sigmoid_l1_slope(logits, (1 - 2 * targets) / logits.shape[1], out)


def own_loop(splits: DigitSplits, seed: int, epochs: int = 30) -> list[float]:
    """The accuracy of the tutorial's recipe by its own means: four tensors of standard normal numbers, autograd, one stream of random numbers."""
    images, targets = splits.train.floats().flatten(1), F.one_hot(splits.train.labels, 10).float()
    with seeded(seed):
        parameters = [torch.randn(*shape).requires_grad_() for shape in ((784, 500), (500,), (500, 10), (10,))]
        w1, b1, w2, b2 = parameters
        optimizer = BasicOptim(parameters, 50)
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(1000):
                sigmoid_l1_loss((images[rows] @ w1 + b1).relu() @ w2 + b2, targets[rows]).backward()
                optimizer.step()
                optimizer.zero_grad()
    with torch.no_grad():
        logits = (splits.valid.floats().flatten(1) @ w1 + b1).relu() @ w2 + b2
    return [(logits.argmax(1) == splits.valid.labels).double().mean().item()]


def ten_digits(start: Callable, slope: Callable, rate: float, splits: DigitSplits, seed: int, epochs: int = 30) -> list[float]:
    """The accuracy of 784-500-10 on ten digits, in shuffled batches of 1000; `start` draws the first weights."""
    with seeded(seed):
        model = start(MLP((784, 500, 10), range(10)))
    layers, targets = [m for m in model.modules() if isinstance(m, nn.Linear)], F.one_hot(splits.train.labels, 10).float()
    fast_path.train_fast(fast_ten.SplitTrainer(layers, splits.train.images, targets, slope, rate, 1000, seed), epochs)
    return [share_right(model, splits.valid)]


def smaller(units: int, splits: DigitSplits, seed: int) -> list[float]:
    """The accuracy of 784-`units`-10 with cross-entropy, He's start, rate 0.5."""
    return [share_right(fast_ten.fit_multiclass(splits.train, seed=seed, learning_rate=0.5, sizes=(784, units, 10)), splits.valid)]


def short(sizes: Sequence[int], relu: bool, rate: float, splits: DigitSplits, seed: int) -> list[float]:
    """The accuracy after two epochs of chapter 06's comparison on ten digits: PyTorch's own start, batches of 256."""
    with seeded(seed):
        model = MLP(sizes, range(10))
    if not relu:
        model.layers[2] = nn.Identity()
    optimizer = BasicOptim(model.parameters(), rate)
    batches = Batches(splits.train.images, splits.train.labels, 256, shuffle=True, seed=seed)
    for _ in range(2):
        train_epoch(model, batches, F.cross_entropy, optimizer)
    return [share_right(model, splits.valid)]


@dataclass(frozen=True)
class Way:
    """A line or more: `run(splits, seed)` gives the accuracy after each number of `epochs`. `task` names the digits; `n_seeds` is a limit."""

    name: str
    epochs: tuple[int, ...]
    run: Callable[[DigitSplits, int], list[float]]
    task: str = "mnist_sample"
    n_seeds: int | None = None


WAYS = [
    Way(f"{STANDARD}, in order, rate 1", (1, 10, 21), lambda s, seed: trained(standard_normal, s, 1.0, (1, 10, 21), False, seed)),
    Way(f"{SMALL}, in order, rate 1", (1, 20), lambda s, seed: trained(LinearModel, s, 1.0, (1, 20), False, seed)),
    Way(f"{SMALL}, shuffled, rate 1", (1, 20), lambda s, seed: trained(LinearModel, s, 1.0, (1, 20), True, seed)),
    Way("linear, fastai's Learner, in order, rate 1", (1, 10), fastai_learner),
    Way(f"{MULTI}, in order, rate 0.1", (40,), lambda s, seed: trained(MLP, s, 0.1, (40,), False, seed)),
    Way(f"{MULTI}, shuffled, rate 0.1", (40,), lambda s, seed: trained(MLP, s, 0.1, (40,), True, seed)),
    Way("the rung linear of climb, shuffled", (20,), lambda s, seed: rung("fast_path:fit_linear", s, seed)),
    Way("the rung mlp of climb, shuffled", (40,), lambda s, seed: rung("fast_path:fit_mlp", s, seed)),
]
SEARCHED = {"linear": LinearModel, "784-30-1 without ReLU": without_relu, MULTI: MLP}
WAYS += [
    Way(f"{name}, shuffled, rate {rate}", (20,), lambda s, seed, make=make, rate=rate: trained(make, s, rate, (20,), True, seed))
    for name, make in SEARCHED.items()
    for rate in (1, 3, 10)
]
TUTORIAL, BCE = "ten digits, 784-500-10, standard normal start, sigmoid loss, rate 50", "ten digits, 784-500-10, He's start, BCE, rate 5"
MULTICLASS = "ten digits, 784-500-10, He's start, cross-entropy, rate 1: the rung multiclass of climb"
SMALLER = {units: f"ten digits, 784-{units}-10, He's start, cross-entropy, rate 0.5" for units in (100, 30)}
RESNET, RESNET_TEN = "the rung resnet18 of climb, 3s and 7s", "the rung resnet18_ten of climb, ten digits"
WAYS += [
    Way(TUTORIAL, (30,), own_loop, "mnist_png"),
    Way(f"{TUTORIAL}, by the fast path", (30,), lambda s, seed: ten_digits(standard_normal, ten_l1_slope, 50, s, seed), "mnist_png"),
    Way(MULTICLASS, (30,), lambda s, seed: rung("fast_ten:fit_multiclass", s, seed), "mnist_png"),
    Way(BCE, (30,), lambda s, seed: ten_digits(he_start, bce_slope, 5, s, seed), "mnist_png"),
    *(Way(SMALLER[n], (30,), lambda s, seed, n=n: smaller(n, s, seed), "mnist_png") for n in SMALLER),
    Way(RESNET, (1,), lambda s, seed: rung("fast_resnet:fit_resnet18", s, seed, 1), n_seeds=3),
    Way(RESNET_TEN, (3,), lambda s, seed: rung("fast_resnet:fit_resnet18", s, seed, 3), "mnist_png", 3),
]
SHORT = {"no hidden layer": ((784, 10), True), "50 units without ReLU": ((784, 50, 10), False), "50 units with ReLU": ((784, 50, 10), True)}
WAYS += [
    Way(f"ten digits, {name}, cross-entropy, batches of 256, rate {rate}", (2,), lambda s, seed, a=a, r=rate: short(*a, r, s, seed), "mnist_png", 3)
    for name, a in SHORT.items()
    for rate in (0.1, 0.2, 0.4)
]
REFERENCE = {
    (WAYS[0].name, 1): (0.494, 0.760), (WAYS[0].name, 10): (0.952, 0.968), (WAYS[0].name, 21): (0.9643, 0.9775),
    (WAYS[1].name, 1): (0.4956, 0.4956), (WAYS[1].name, 20): (0.9780, 0.9790),
    (WAYS[2].name, 1): (0.9696, 0.9726), (WAYS[2].name, 20): (0.9819, 0.9829),
    (WAYS[3].name, 1): (0.4956, 0.4956), (WAYS[3].name, 10): (0.9666, 0.9672),
    (WAYS[4].name, 40): (0.9819, 0.9834),
    (TUTORIAL, 30): (0.0925, 0.3510), (MULTICLASS, 30): (0.9798, 0.9812), (BCE, 30): (0.9794, 0.9802),
    (RESNET, 1): (0.994, 0.997),
}  # fmt: skip


def measure(n_seeds: int, sources: Sequence[str], ways: Sequence[Way] | None = None) -> dict[str, Any]:
    """Every one of `ways` with the seeds 0 to `n_seeds` - 1 on the digits of every source, "mnist" or "standin"."""
    ways, rows = WAYS if ways is None else ways, []
    for source in sources:
        loaded = {task: load_digits(task, source) for task in {way.task for way in ways}}
        for way in ways:
            splits, seeds = loaded[way.task], range(min(n_seeds, way.n_seeds or n_seeds))
            for epoch, accuracies in zip(way.epochs, list(zip(*(way.run(splits, seed) for seed in seeds)))):
                reference = REFERENCE.get((way.name, epoch)) if splits.dataset == "MNIST" else None
                rows.append({"digits": splits.dataset, "way": way.name, "epochs": epoch, "accuracies": accuracies, "reference": reference})
    return {"machine": machine(), "threads": torch.get_num_threads(), "n_seeds": n_seeds, "rows": rows}


def chosen(words: Sequence[str] | None) -> list[Way]:
    """The ways whose names contain one of `words`, or all."""
    found = [way for way in WAYS if not words or any(word in way.name for word in words)]
    if not found:
        raise SystemExit(f"No line contains {' or '.join(words or [])}; choose words from: {'; '.join(way.name for way in WAYS)}.")
    return found


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The report `new`, with those rows of `old` that it has not measured; in the order of WAYS, the stand-in last."""
    names, key = [way.name for way in WAYS], ("digits", "way", "epochs")
    measured = {tuple(row[k] for k in key) for row in new["rows"]}
    rows = [row for row in old["rows"] if tuple(row[k] for k in key) not in measured and row["way"] in names] + new["rows"]
    return {**new, "rows": sorted(rows, key=lambda row: (row["digits"] != "MNIST", names.index(row["way"]), row["epochs"]))}


def verdict(accuracies: Sequence[float], reference: Sequence[float] | None) -> str:
    """How many of `accuracies` are inside the reference interval, which is printed to the digits given: one digit of 2,038 is 0.0005."""
    if reference is None:
        return ""
    inside = sum(reference[0] - 1e-4 <= a <= reference[1] + 1e-4 for a in accuracies)
    return f"{inside} of {len(accuracies)} inside {reference[0]:.4f} to {reference[1]:.4f}"


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    made = report["machine"]
    lines = [
        "# Results over seeds",
        "",
        f"Written by `python -m bench.bands`. {made['cpu']}, {made['cores']} cores, torch {made['torch']}, fastai {made['fastai']}; "
        f"threads: {report['threads']}. Accuracy on the validation digits, 2,038 for 3s and 7s, 10,000 for all ten; "
        "the reference results are for MNIST, printed to their last digit.",
        "",
        "| digits | way | epochs | seeds | least | middle | greatest | reference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        a = row["accuracies"]
        numbers = " | ".join(f"{value:.4f}" for value in (min(a), median(a), max(a)))
        lines.append(f"| {row['digits']} | {row['way']} | {row['epochs']} | {len(a)} | {numbers} | {verdict(a, row['reference'])} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.bands", description="Train with many seeds and compare with the reference results.")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many seeds (default: 10)")
    parser.add_argument("--data", nargs="+", choices=("mnist", "standin"), default=["mnist", "standin"], help="which digits (default: both)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="run only the lines whose name contains a WORD, and keep the others of the report")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="where bands.json and bands.md go (default: bench)")
    args = parser.parse_args(argv)
    report, saved = measure(args.seeds, args.data, chosen(args.only)), args.out / "bands.json"
    if args.only and saved.exists():
        report = merged(json.loads(saved.read_text(encoding="utf-8")), report)
    publish("bands", report, as_markdown(report), args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
