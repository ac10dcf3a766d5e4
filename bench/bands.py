"""What training gives over ten seeds, beside the reference results: `python -m bench.bands`.

Every line trains once for each seed, on MNIST and on the stand-in, and gives the least, the middle and the greatest accuracy on the
2,038 validation digits. Writes bench/bands.json and bench/bands.md.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from bench.common import machine, publish
from pixels_to_resnet import fast_path
from pixels_to_resnet.batches import Batches
from pixels_to_resnet.data import Digits, DigitSplits, load_digits
from pixels_to_resnet.linear import BasicOptim, LinearModel, binary_accuracy, binary_targets, seeded, sigmoid_l1_loss, train_epoch, validate
from pixels_to_resnet.mlp import MLP

HERE = Path(__file__).resolve().parent
STANDARD, SMALL, MULTI = "linear, standard normal start", "linear, small start", "784-30-1"


def standard_normal() -> LinearModel:
    """A linear model whose weights and bias are drawn from the standard normal distribution."""
    model = LinearModel()
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


def rung(fit: Callable[..., nn.Module], splits: DigitSplits, seed: int) -> list[float]:
    """The accuracy of a rung of `climb`."""
    return [validate(fit(splits.train, seed=seed), batches_of(splits.valid))]


Way = tuple[str, tuple[int, ...], Callable[[DigitSplits, int], list[float]]]
WAYS: list[Way] = [
    (f"{STANDARD}, in order, rate 1", (1, 10, 21), lambda s, seed: trained(standard_normal, s, 1.0, (1, 10, 21), False, seed)),
    (f"{SMALL}, in order, rate 1", (1, 20), lambda s, seed: trained(LinearModel, s, 1.0, (1, 20), False, seed)),
    (f"{SMALL}, shuffled, rate 1", (1, 20), lambda s, seed: trained(LinearModel, s, 1.0, (1, 20), True, seed)),
    ("linear, fastai's Learner, in order, rate 1", (1, 10), fastai_learner),
    (f"{MULTI}, in order, rate 0.1", (40,), lambda s, seed: trained(MLP, s, 0.1, (40,), False, seed)),
    (f"{MULTI}, shuffled, rate 0.1", (40,), lambda s, seed: trained(MLP, s, 0.1, (40,), True, seed)),
    ("the rung linear of climb, shuffled", (20,), lambda s, seed: rung(fast_path.fit_linear, s, seed)),
    ("the rung mlp of climb, shuffled", (40,), lambda s, seed: rung(fast_path.fit_mlp, s, seed)),
]
SEARCHED = {"linear": LinearModel, "784-30-1 without ReLU": without_relu, MULTI: MLP}
WAYS += [
    (f"{name}, shuffled, rate {rate}", (20,), lambda s, seed, make=make, rate=rate: trained(make, s, rate, (20,), True, seed))
    for name, make in SEARCHED.items()
    for rate in (1, 3, 10)
]
REFERENCE = {
    (WAYS[0][0], 1): (0.494, 0.760), (WAYS[0][0], 10): (0.952, 0.968), (WAYS[0][0], 21): (0.9643, 0.9775),
    (WAYS[1][0], 1): (0.4956, 0.4956), (WAYS[1][0], 20): (0.9780, 0.9790),
    (WAYS[2][0], 1): (0.9696, 0.9726), (WAYS[2][0], 20): (0.9819, 0.9829),
    (WAYS[3][0], 1): (0.4956, 0.4956), (WAYS[3][0], 10): (0.9666, 0.9672),
    (WAYS[4][0], 40): (0.9819, 0.9834),
}  # fmt: skip


def measure(n_seeds: int, sources: Sequence[str]) -> dict[str, Any]:
    """Every way with the seeds 0 to `n_seeds` - 1 on the digits of every source, "mnist" or "standin"."""
    rows = []
    for source in sources:
        splits = load_digits("mnist_sample", source)
        for name, epochs, way in WAYS:
            found = list(zip(*(way(splits, seed) for seed in range(n_seeds))))
            for epoch, accuracies in zip(epochs, found):
                reference = REFERENCE.get((name, epoch)) if splits.dataset == "MNIST" else None
                rows.append({"digits": splits.dataset, "way": name, "epochs": epoch, "accuracies": accuracies, "reference": reference})
    return {"machine": machine(), "threads": torch.get_num_threads(), "n_seeds": n_seeds, "rows": rows}


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
        f"threads: {report['threads']}, seeds: {report['n_seeds']}. "
        "Accuracy on the validation digits; the reference results are for MNIST, printed to their last digit.",
        "",
        "| digits | way | epochs | least | middle | greatest | reference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        a = row["accuracies"]
        numbers = " | ".join(f"{value:.4f}" for value in (min(a), median(a), max(a)))
        lines.append(f"| {row['digits']} | {row['way']} | {row['epochs']} | {numbers} | {verdict(a, row['reference'])} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.bands", description="Train with many seeds and compare with the reference results.")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many seeds (default: 10)")
    parser.add_argument("--data", nargs="+", choices=("mnist", "standin"), default=["mnist", "standin"], help="which digits (default: both)")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="where bands.json and bands.md go (default: bench)")
    args = parser.parse_args(argv)
    report = measure(args.seeds, args.data)
    publish("bands", report, as_markdown(report), args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
