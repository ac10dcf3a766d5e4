"""One epoch of resnet18 on 3s and 7s, from files on disk to validated accuracy, the tutorial's call and ours: `python -m bench.resnet`.

Goal C5. Both take turns, each once for every seed, with two threads; the accuracies of both are compared, too. A second table goes from the
tutorial's training step to ours, one change at a time, on the same images, and says what each change buys. The floor is computed from the
multiplications that meet a pixel and from what this machine multiplies in a second, measured in the same run.
Writes bench/resnet.json, resnet.md, resnet.png.
"""
from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import fastai.callback.progress
import fastai.callback.schedule  # noqa: F401  adds fit_one_cycle
import torch
from fastai.learner import Learner as FastaiLearner
from fastai.metrics import accuracy
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import vision_learner
from matplotlib.figure import Figure
from torch import nn
from torchvision.models import resnet18

from bench.common import HEAD, HERE, Others, bars, goal, goal_lines, machine, mark, publish, rates, take_turns, threads, warning
from pixels_to_resnet.data import Digits
from pixels_to_resnet.fast_resnet import LiveResNet18, fit_resnet18, training_dtype, window
from pixels_to_resnet.linear import seeded
from pixels_to_resnet.multiclass import cross_entropy
from pixels_to_resnet.pictures import read_png_folder
from pixels_to_resnet.pixel_similarity import predict
from pixels_to_resnet.resnet import ResNet18
from pixels_to_resnet.sources import dataset_name, digits_path

IMAGES, CPU = 128, torch.device("cpu")
ANCHOR, NO_WORKERS, OURS = "the tutorial's call, fastai (anchor)", "the same, without worker processes", "fit_resnet18 of climb"
FASTAI_STEP = "fastai's resnet18 and head, its Adam, batches of 64"
FUSED, PLAIN, ONE_CHANNEL = "fused AdamW of PyTorch instead", "ResNet18 of chapter 08, batches of 128", "one channel in the stem, channels last"
LAYER4, LAYER3, HALF = "dead taps dropped, layer 4 as products", "layer 3 as products", "16-bit maps (fit_resnet18, if the processor has them)"
FLOOR = "floor: multiplications that meet a pixel"
GOAL, STRETCH = 3.5, 5.0
END_TO_END = ("seconds", "accuracy")


def quiet(learner: FastaiLearner) -> FastaiLearner:
    """The learner without progress bars and tables."""
    learner.logger = lambda *_: None
    return learner


def tutorial_learner(folder: Path, seed: int, **loaders: Any) -> FastaiLearner:
    """The learner of the tutorials, on the pictures as they lie in `folder`; `loaders` are settings of its data loaders, on the CPU by default."""
    random.seed(seed)
    loaders = {"device": CPU, **loaders}
    with seeded(seed):
        return quiet(vision_learner(ImageDataLoaders.from_folder(folder, **loaders), resnet18, pretrained=False, metrics=accuracy))


def by_tutorial(folder: Path, seed: int, **loaders: Any) -> float:
    """The accuracy after one epoch as tutorials train it: one-cycle up to 0.1."""
    learner = tutorial_learner(folder, seed, **loaders)
    with seeded(seed), learner.no_bar():
        learner.fit_one_cycle(1, 0.1)
    return float(learner.recorder.values[-1][-1])


def read(folder: Path) -> Digits:
    """The pictures in `folder`, decoded anew."""
    images, labels = read_png_folder(folder)
    return Digits(torch.from_numpy(images), torch.from_numpy(labels))


def by_us(folder: Path, seed: int) -> float:
    """The same with the fast path; the answers are computed with live taps, too."""
    train, valid = read(folder / "train"), read(folder / "valid")
    model = fit_resnet18(train, epochs=1, seed=seed)
    answers = predict(LiveResNet18(model, training_dtype(CPU)).eval(), valid)
    return (answers == valid.labels).float().mean().item()


def end_to_end(folder: Path, n_seeds: int) -> tuple[dict[str, dict[str, list[float]]], float]:
    """For each way its seconds and accuracies, a seed after the other; and how many seconds the tutorial's call took the other way.

    Before, each runs once. The anchor is the quicker of the tutorial's call as it stands and of that without worker processes."""
    tried = {}
    for name, how in ((ANCHOR, {}), (NO_WORKERS, {"num_workers": 0})):
        begun = time.perf_counter()
        by_tutorial(folder, 0, **how)
        tried[name] = time.perf_counter() - begun
    best = {} if tried[ANCHOR] <= tried[NO_WORKERS] else {"num_workers": 0}
    ways: dict[str, Callable[[int], float]] = {ANCHOR: lambda seed: by_tutorial(folder, seed, **best), OURS: lambda seed: by_us(folder, seed)}
    by_us(folder, 0)
    found = {name: {key: [] for key in END_TO_END} for name in ways}
    for seed in range(n_seeds):
        for name, way in ways.items():
            begun = time.perf_counter()
            right = way(seed)
            found[name]["seconds"].append(time.perf_counter() - begun)
            found[name]["accuracy"].append(right)
    return found, max(tried.values())


def stepper(model: nn.Module, optimizer: Any, images: torch.Tensor, labels: torch.Tensor, batch_size: int, loss: Callable) -> Callable[[], None]:
    """What trains `model` on all `images` once, batch by batch."""
    model.train()

    def turn() -> None:
        for x, y in zip(images.split(batch_size), labels.split(batch_size)):
            loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    return turn


def steps(folder: Path) -> dict[str, Callable[[], None]]:
    """Training steps on the same 128 images of the training set, from the tutorial's to ours, each with one change more."""
    digits = read(folder / "train")
    some = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))[:IMAGES]
    grey, labels = digits.images[some].float() / 255, (digits.labels[some] == digits.labels.max()).long()
    colour = grey.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
    ways, cross = {}, nn.CrossEntropyLoss()
    with seeded(0):
        data = ImageDataLoaders.from_folder(folder, num_workers=0, device=CPU)
        theirs = [quiet(vision_learner(data, resnet18, pretrained=False)) for _ in range(2)]
        theirs[0].create_opt()
        optimizers = [theirs[0].opt, torch.optim.AdamW(theirs[1].model.parameters(), fused=True)]
        for name, learner, optimizer in zip((FASTAI_STEP, FUSED), theirs, optimizers):
            ways[name] = stepper(learner.model, optimizer, colour, labels, 64, cross)
        plain = ResNet18((3, 7))
        ways[PLAIN] = stepper(plain, torch.optim.AdamW(plain.parameters(), fused=True), grey, labels, IMAGES, cross_entropy)
        full, half = torch.float32, training_dtype(CPU)
        for name, widest, dtype in ((ONE_CHANNEL, 0, full), (LAYER4, 1, full), (LAYER3, 2, full), (HALF, 2, half)):
            model = LiveResNet18(ResNet18((3, 7)).to(memory_format=torch.channels_last), dtype, widest)
            ways[name] = stepper(model, torch.optim.AdamW(model.parameters(), fused=True), grey, labels, IMAGES, cross_entropy)
    return ways


def useful_operations() -> tuple[int, int]:
    """Multiplications and additions with one image, for training and for an answer, counting only taps that meet a pixel.

    Training goes forward and twice back; the first convolution once, since pixels need no gradient."""
    stem = 2 * 64 * _pairs(28, 2, 7)
    total = stem
    for n_inputs, n_outputs, size, stride in ((64, 64, 7, 1), (64, 128, 7, 2), (128, 256, 4, 2), (256, 512, 2, 2)):
        out = (size - 1) // stride + 1
        total += 2 * n_inputs * n_outputs * _pairs(size, stride, 3) + 3 * 2 * n_outputs**2 * _pairs(out, 1, 3)
        total += 2 * n_inputs * n_outputs * out**2 if stride > 1 else 0
    return 3 * total - stem, total


def _pairs(size: int, stride: int, n_taps: int) -> int:
    """How often a tap meets a pixel, over the whole map."""
    windows = [window(place, size, stride, n_taps)[0] for place in range((size - 1) // stride + 1)]
    return sum(w.stop - w.start for w in windows) ** 2


def rows_of(taken: dict[str, list[float]], floor: float) -> list[dict[str, Any]]:
    """For each step the median and range in milliseconds, times faster than the first and than the one before; last the floor."""
    table, before, first = [], None, median(taken[FASTAI_STEP])
    for name, seconds in {**taken, FLOOR: [floor]}.items():
        middle = median(seconds)
        row = {"way": name, "median": round(1000 * middle, 2), "least": round(1000 * min(seconds), 2), "most": round(1000 * max(seconds), 2)}
        gains = {"times_faster": round(first / middle, 2), "than_before": round(before / middle, 2) if before else None}
        table.append({**row, **gains, "rounds": len(seconds)})
        before = middle
    return table


def judged(found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Goal C5: how many times faster, and whether the mean accuracy is not below the anchor's."""
    theirs, ours = found[ANCHOR], found[OURS]
    ratio, accuracies = median(theirs["seconds"]) / median(ours["seconds"]), [mean(way["accuracy"]) for way in (theirs, ours)]
    against = f"the tutorial's call, {median(theirs['seconds']):.1f} s, accuracy {accuracies[0]:.4f}"
    what = f"an epoch of resnet18, from files to accuracy ({accuracies[1]:.4f}): times faster"
    return goal("C5", what, against, round(ratio, 2), GOAL, STRETCH, valid=accuracies[1] >= accuracies[0])


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    about, rate = report["machine"], report["rates"]
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", "torch", "fastai"))
    lines = [
        "# One epoch of resnet18", "",
        f"Written by `python -m bench.resnet`. {about['cpu']}, {about['cores']} cores, {about['system']}; {versions}; {report['threads']} threads. "
        f"Digits: {report['dataset']}, 3s and 7s, {report['n_train']:,} to learn from and {report['n_valid']:,} to test on.", "",
        "![Both tables as bars](resnet.png)", "", "## From files to validated accuracy", "",
        "Reading the pictures, one epoch, answers for all validation digits. The ways take turns, one run for each seed; seconds are medians.", "",
        "| way | seconds | least to most | accuracy, mean | accuracy by seed |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, way in report["end_to_end"].items():
        seconds, right = way["seconds"], way["accuracy"]
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        lines.append(f"| {name} | {median(seconds):.2f} | {spread} | {mean(right):.4f} | {', '.join(f'{a:.4f}' for a in right)} |")
    lines += [
        f"| {FLOOR} | {report['floor']['seconds']:.2f} | | | |", "",
        *HEAD, *goal_lines(report["goals"]), "",
        "The mean accuracy must not be below the anchor's. Of the tutorial's call with and without worker processes, the quicker one is the "
        f"anchor; the other took {report['other']:.1f} s.", "", "## What each change buys", "",
        f"Training on {IMAGES} images that lie in memory, in milliseconds; each line keeps the changes of those above it.", "",
        "| training step | median | least to most | times faster | than the line before |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for r in report["rows"]:
        spread, before = f"{r['least']:.1f} to {r['most']:.1f}" if r["rounds"] > 1 else "", f"{r['than_before']:.2f}" if r["than_before"] else ""
        lines.append(f"| {r['way']} | {r['median']:.1f} | {spread} | {r['times_faster']:.2f} | {before} |")
    lines += [
        "", f"An image needs {report['floor']['operations'] / 1e6:.0f} million useful operations in training. In the same run, the machine "
        f"multiplied large matrices at {rate['fp32 products']:.0f} GFLOP/s with 32 bits, {rate['fp32 products by oneDNN']:.0f} by oneDNN, and "
        f"{rate['bfloat16 products']:.0f} with 16 bits; the floor is at the best of these.",
    ]  # fmt: skip
    return "\n".join(lines + warning(report)) + "\n"


def draw(report: dict[str, Any]) -> Figure:
    """Both tables as bars; ours are dark, floors hatched, the goal a dashed line."""
    figure = Figure(figsize=(10, 6), dpi=120, layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 8))
    whole = {name: median(way["seconds"]) for name, way in report["end_to_end"].items()} | {FLOOR: report["floor"]["seconds"]}
    parts = {r["way"]: r["median"] for r in report["rows"]}
    units = "seconds, from files to validated accuracy", f"milliseconds, training on {IMAGES} images"
    for ax, values, unit in zip((upper, lower), (whole, parts), units):
        kinds = ["floor" if name == FLOOR else "theirs" if name in (ANCHOR, FASTAI_STEP, FUSED) else "ours" for name in values]
        first = next(iter(values.values()))
        bars(ax, [(name, value, of, f"{value:.1f}, {first / value:.1f}x") for (name, value), of in zip(values.items(), kinds)], unit)
    mark(upper, whole[ANCHOR] / GOAL, "goal C5")
    return figure


def measure(n_seeds: int, rounds: int, n_threads: int = 2, folder: Path | None = None) -> dict[str, Any]:
    """Everything. Sets the number of threads while it runs, and puts it back."""
    folder = folder or digits_path("mnist_sample")
    n_train, n_valid = (len(read(folder / part)) for part in ("train", "valid"))
    with threads(n_threads), Others() as others:
        rate = rates()
        found, other = end_to_end(folder, n_seeds)
        taken = take_turns(steps(folder), rounds)
        rate = {name: max(value, rate[name]) for name, value in rates().items()}
    fastest, (training, answering) = 1e9 * max(rate[name] for name in rate if "products" in name), useful_operations()
    floor = {"operations": training, "seconds": (training * n_train + answering * n_valid) / fastest}
    report = {"machine": machine(), "threads": n_threads, "load": others.cores, "dataset": dataset_name(folder)}
    report |= {"n_train": n_train, "n_valid": n_valid, "rates": {name: round(value, 1) for name, value in rate.items()}}
    report |= {"floor": floor, "end_to_end": found, "other": round(other, 2)}
    return {**report, "rows": rows_of(taken, IMAGES * training / fastest), "goals": [judged(found)]}


def main(argv: list[str] | None = None, folder: Path | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.resnet", description="Measure one epoch of resnet18, the tutorial's call and ours.")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many runs from files to accuracy, of both (default: 5)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="how many rounds of single training steps (default: 7)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="how many threads PyTorch uses (default: 2)")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="where the three files go (default: bench)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench") as home:
        if folder is None:
            os.environ["PIXELS_TO_RESNET_HOME"] = home
        report = measure(args.seeds, args.rounds, args.threads, folder)
    draw(report).savefig(args.out / "resnet.png", metadata={"Software": None})
    publish("resnet", report, as_markdown(report), args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
