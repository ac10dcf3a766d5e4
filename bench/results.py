"""Every measurement in one run, against the goals for speed: `python -m bench.results`.

Runs bench.data, bench.training, bench.resnet and bench.ninety_nine, and on a GPU bench.gpu, one after the other, each in a process of its own
in which the usual way and ours take turns. When all have ended well, their pages go to bench/, and RESULTS.md is written anew, with
bench/results.json and bench/results.png. If one fails or is interrupted, all of these stay as they were; the parts that are finished are
kept, and `--resume` goes on from them. `--only` measures some parts anew and keeps what was found for the others. Takes about a quarter of
an hour on two quiet cores, with real MNIST: set PIXELS_TO_RESNET_IDX to the folder of its four files.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.common import BUSY, DARK, HEAD, HERE, LIGHT, goal_lines, mark, short
from pixels_to_resnet.devices import choose_device
from pixels_to_resnet.safe_files import write_beside

ROOT = HERE.parent
FEW, QUICK_DIGITS = "few digits", 300
TRIAL = "Results of a trial (`--quick`): too few rounds and digits to be a measurement"
ON_A_GPU = "python -m bench.results --device cuda"
PROVED = {
    "tests/test_fast_path.py": "the linear models on the fast path",
    "tests/test_fast_resnet.py": "resnet18 with its live taps",
    "tests/test_small_net.py": "the small network",
    "tests/test_steps.py": "no step asks the device for a number, or has shapes that depend on the data; the same step on torch's `meta` device",
    "tests/test_graphs.py": "repeating recorded operations on the same memory gives the same weights as running the steps, as a CUDA graph would",
    "tests/test_checkpoints.py": "a training that was killed goes on and ends with the same weights",
    "tests/test_processes.py": "two processes with the same global batch end with the weights of one",
    "tests/test_bench_gpu.py": "the measurement of G1 to G7, the whole of it, on the CPU with few digits",
}
CEILINGS = {
    "reading": ("memory read", "GB/s"), "fp32 products": ("products, 32 bits", "GFLOP/s"),
    "fp32 products by oneDNN": ("the same by oneDNN", "GFLOP/s"), "bfloat16 products": ("products, 16 bits", "GFLOP/s"),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """How to measure: `quick` is for trials, `device` is where bench.gpu computes."""

    quick: bool = False
    threads: int = 2
    device: str = "cpu"
    seeds: int | None = None

    def words(self, name: str) -> list[str]:
        """As words of the command that measures the part `name`; all but bench.gpu are for the CPU."""
        seeds = ["--seeds", str(self.seeds)] if self.seeds else []
        return ["--threads", str(self.threads), "--device", self.device if name == "gpu" else "cpu", *seeds, *(["--quick"] if self.quick else [])]

    def rounds(self, full: int, seeds: int | None = None) -> list[str]:
        """The same, for a measurement with so many rounds and seeds."""
        chosen = [] if seeds is None else ["--seeds", str(self.seeds or (1 if self.quick else seeds))]
        return ["--rounds", "1" if self.quick else str(full), *chosen]


def some(task: str, n: int) -> Any:
    """A few digits of each part, evenly from all of them."""
    from pixels_to_resnet.data import Digits, DigitSplits, load_digits

    def thinned(digits: Digits, wanted: int) -> Digits:
        step = max(1, len(digits) // wanted)
        return Digits(digits.images[::step][:wanted].clone(), digits.labels[::step][:wanted].clone())

    splits = load_digits(task)
    return DigitSplits(thinned(splits.train, n), thinned(splits.valid, n // 4), FEW, "a few of them")


def folder_of(splits: Any, folder: Path, train: str = "train", valid: str = "valid") -> Path:
    """The digits as pictures in `folder`, in the layout that tutorials expect."""
    from PIL import Image

    for part, digits in ((train, splits.train), (valid, splits.valid)):
        for i, (image, label) in enumerate(zip(digits.images, digits.labels.tolist())):
            place = folder / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.numpy()).save(place / f"{i}.png")
    return folder


def run_data(options: Options, out: Path) -> None:
    from bench import data

    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        few = folder_of(some("mnist_sample", QUICK_DIGITS), Path(folder) / FEW) / "train" if options.quick else None
        data.main([*options.rounds(7), "--out", str(out)], few)


def run_training(options: Options, out: Path) -> None:
    from bench import training

    few = [some(task, QUICK_DIGITS) if options.quick else None for task in ("mnist_sample", "mnist_png")]
    compiles = not options.quick and any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))
    training.main([*options.rounds(11), "--threads", str(options.threads), *([] if compiles else ["--no-compile"]), "--out", str(out)], *few)


def run_resnet(options: Options, out: Path) -> None:
    from bench import resnet

    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        few = folder_of(some("mnist_sample", 150), Path(folder) / FEW) if options.quick else None
        resnet.main([*options.rounds(7, 5), "--threads", str(options.threads), "--out", str(out)], few)


def run_ninety_nine(options: Options, out: Path) -> None:
    from bench import ninety_nine

    few = some("mnist_png", QUICK_DIGITS) if options.quick else None
    ninety_nine.main([*options.rounds(11, 10), "--threads", str(options.threads), "--out", str(out)], few)


def run_gpu(options: Options, out: Path) -> None:
    import_module("bench.gpu").main([*options.words("gpu"), "--out", str(out)])


@dataclass(frozen=True)
class Part:
    """One of the measurements: the goals it is for, about how many minutes it takes on two quiet cores, and what writes its files into a folder."""

    goals: str
    minutes: float
    run: Callable[[Options, Path], None]


PARTS = {
    "data": Part("C8, C9", 2.5, run_data),
    "training": Part("C1 to C4, C7", 3.5, run_training),
    "resnet": Part("C5", 3.5, run_resnet),
    "ninety_nine": Part("C6", 6, run_ninety_nine),
    "gpu": Part("G1 to G7", 8, run_gpu),
}


def now() -> str:
    """The time, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def command_of(name: str, options: Options, folder: Path) -> list[str]:
    """The command that measures a part and writes its files into `folder`."""
    return [sys.executable, "-m", "bench.results", "--part", name, "--out", str(folder), *options.words(name)]


def measure_part(name: str, options: Options, keep: Path) -> None:
    """Measures one part in a process of its own, and keeps its files in `keep`/NAME. If it fails, raises `RuntimeError` with its last line."""
    folder, begun, clock = keep / name, now(), time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = os.environ if name == "gpu" else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        ended = subprocess.run(command_of(name, options, folder), cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if ended.returncode:
        said = (folder / "log.txt").read_text(encoding="utf-8").strip().splitlines()
        raise RuntimeError(said[-1] if said else f"it ended with status {ended.returncode}")
    done = {"begun": begun, "seconds": round(time.perf_counter() - clock, 1), "options": options.words(name)}
    (folder / "done.json").write_text(json.dumps(done), encoding="utf-8")


def kept(name: str, options: Options, keep: Path) -> bool:
    """Whether `keep` has this part, finished, and measured with the same options."""
    done = keep / name / "done.json"
    return done.exists() and json.loads(done.read_text(encoding="utf-8"))["options"] == options.words(name)


def finished(name: str, keep: Path) -> dict[str, Any]:
    """What goes into bench/results.json of a part that is finished."""
    folder = keep / name
    done, report = (json.loads((folder / f"{file}.json").read_text(encoding="utf-8")) for file in ("done", name))
    about = {key: report[key] for key in ("machine", "dataset", "threads", "load", "goals")}
    more = {key: report[key] for key in ("rates", "ceilings", "advice") if key in report}
    return {"begun": done["begun"], "seconds": done["seconds"], **about, **more}


def hardware(part: dict[str, Any]) -> str:
    """The machine of a part, in words."""
    m = part["machine"]
    return f"{m['cpu']}, {m['cores']} cores, {m['system']}" + (f"; {m['gpu']}" if "gpu" in m else "")


def versions(part: dict[str, Any]) -> str:
    """The versions of what a part was measured with."""
    names = [name for name in ("python", "torch", "torchvision", "numpy", "pillow", "fastai", "cuda") if name in part["machine"]]
    return ", ".join(f"{name} {part['machine'][name]}" for name in names)


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    parts, of_cpu = report["parts"], {name: part for name, part in report["parts"].items() if name != "gpu"}
    goals = sorted((g for part in of_cpu.values() for g in part["goals"]), key=lambda g: g["name"])
    missing = [f"{PARTS[name].goals} (`--only {name}`)" for name in PARTS if name != "gpu" and name not in parts]
    first = next(iter(parts.values()))
    lines = [
        f"# {TRIAL if report['quick'] else 'Results'}", "",
        f"Written by `{report['command']}` on {report['date']}. {hardware(first)}; {versions(first)}. What each goal means, and how it is measured, "
        "is on the pages of [bench](bench/README.md). Ratios are what counts: seconds differ from machine to machine.", "",
        "![What was found, as a share of each goal](bench/results.png)", "", "## On the CPU", "",
    ]  # fmt: skip
    if goals:
        stretch, reached, missed = ([g["reached"] for g in goals].count(word) for word in ("stretch", "goal", "missed"))
        lines += [f"Of {len(goals)} lines, {stretch} reach the stretch, {reached} the goal, and {missed} miss it.", ""]
        lines += [*HEAD, *goal_lines(goals), ""]
    lines += [f"Not measured yet: {', '.join(missing)}.", ""] if missing else []
    lines += ["| part | begun | seconds | threads | others kept busy | digits | machine |", "|---|---|---|---|---|---|---|"]
    for name, part in parts.items():
        others = f"{part['load']:.2f} cores" + (" (not quiet)" if part["load"] > BUSY else "")
        page = f"[{name}](bench/{name}.md)"
        lines.append(f"| {page} | {part['begun']} | {part['seconds']:.0f} | {part['threads']} | {others} | {part['dataset']} | {hardware(part)} |")
    rated = {name: part["rates"] for name, part in of_cpu.items() if "rates" in part}
    if rated:
        lines += ["", "What the machine can do at best, measured in the same runs:", "", f"| | {' | '.join(rated)} |", f"|---|{'---|' * len(rated)}"]
        for key, (what, unit) in CEILINGS.items():
            lines.append(f"| {what}, {unit} | {' | '.join(short(rate[key]) for rate in rated.values())} |")
    return "\n".join([*lines, "", "## On a GPU", "", *about_the_gpu(parts.get("gpu"))]) + "\n"


def about_the_gpu(part: dict[str, Any] | None) -> list[str]:
    """The section about goals G1 to G7, measured or not."""
    if part:
        bare = [f"| {what} | {short(value)} |" for what, value in part["ceilings"].items()]
        lines = [f"{hardware(part)}; {versions(part)}. More on [the page](bench/gpu.md).", "", *HEAD, *goal_lines(part["goals"]), ""]
        return [*lines, "| what the card can do at best | |", "|---|---|", *bare, "", *(f"- {line}" for line in part["advice"])]
    lines = [f"No GPU was at hand, so G1 to G7 are not measured. On a machine with one, `{ON_A_GPU}` measures them and fills this section; "
             f"`{ON_A_GPU} --only gpu` measures nothing else. What can be shown without a GPU is shown by these tests, on the CPU:", ""]  # fmt: skip
    return lines + [f"- [{name}]({name}): {what}" for name, what in PROVED.items() if (ROOT / name).exists()]


def share(g: dict[str, Any]) -> float:
    """How much of the goal was reached, 0.001 to 1000: 1 is all of it, more is better."""
    part = g["goal"] / max(g["found"], 1e-9) if g["at_most"] else g["found"] / g["goal"]
    return min(max(part, 1e-3), 1e3)


def draw(report: dict[str, Any]) -> Figure:
    """What was found as a share of each goal, on a logarithmic axis; what is reached is dark, a triangle is the stretch."""
    goals = sorted((g for part in report["parts"].values() for g in part["goals"] if g["found"] is not None), key=lambda g: g["name"])
    figure = Figure(figsize=(10, 1.2 + 0.32 * max(4, len(goals))), dpi=120, layout="constrained", facecolor="white")
    ax = figure.subplots()
    for i, g in enumerate(goals):
        reached, found = g["reached"] in ("goal", "stretch"), share(g)
        ax.barh(-i, found, left=0, color=DARK if reached else LIGHT, hatch=None if reached else "xx", edgecolor="black")
        ax.text(1.01, -i, f"{short(g['found'])} ({g['reached']})", va="center", fontsize=8, transform=ax.get_yaxis_transform())
        if g["stretch"]:
            ax.plot(share({**g, "found": g["stretch"]}), -i, marker="<", color="white", markeredgecolor="black")
    mark(ax, 1.0, "goal")
    shares = [share(g) for g in goals] or [1.0]
    ax.set(yticks=[-i for i in range(len(goals))], yticklabels=[g["name"] for g in goals])
    ax.set(xlabel="share of the goal (triangle: stretch)", xscale="log")
    ax.set_xlim(min(0.5, min(shares) / 1.5), 3 * max(2.0, max(shares)))
    return figure


def write(report: dict[str, Any], out: Path, keep: Path, names: Iterable[str]) -> None:
    """Writes RESULTS.md into `out`, and the files of the parts `names`, the picture and the figures into `out`/bench: all of them, or none."""
    with ExitStack() as files:
        pages = [file for name in names for file in sorted((keep / name).iterdir()) if file.name not in ("log.txt", "done.json")]
        for file in pages:
            shutil.copyfile(file, files.enter_context(write_beside(out / "bench" / file.name)))
        draw(report).savefig(files.enter_context(write_beside(out / "bench" / "results.png")), format="png", metadata={"Software": None})
        files.enter_context(write_beside(out / "bench" / "results.json")).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        files.enter_context(write_beside(out / "RESULTS.md")).write_text(as_markdown(report), encoding="utf-8")


def say(text: str) -> None:
    print(text, flush=True)


def measure(names: list[str], options: Options, keep: Path, resume: bool) -> str:
    """Measures the parts `names`, or with `resume` those that `keep` does not have. What went wrong, or nothing."""
    clock = time.perf_counter()
    if not resume:
        shutil.rmtree(keep, ignore_errors=True)
    for name in names:
        if kept(name, options, keep):
            say(f"{name}: finished before")
            continue
        say(f"{name} ({PARTS[name].goals}): about {PARTS[name].minutes:g} minutes on two quiet cores")
        try:
            measure_part(name, options, keep)
        except (RuntimeError, KeyboardInterrupt) as e:
            done = [part for part in names if kept(part, options, keep)]
            why = "was interrupted" if isinstance(e, KeyboardInterrupt) else f"failed ({e})"
            rest = f"Finished: {', '.join(done)}; --resume goes on from there." if done else "Nothing is finished."
            return f"{name} {why}. RESULTS.md is as it was. {rest}"
        seconds = time.perf_counter() - clock
        say(f"{name}: {finished(name, keep)['seconds']:.0f} s, {seconds:.0f} s in all")
    return ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.results", description="Measure everything in one run, and write RESULTS.md.")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="with cuda, G1 to G7 are measured too (default: auto)")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=f"only these of {', '.join(PARTS)}; the others stay")
    parser.add_argument("--resume", action="store_true", help="go on from the finished parts of a run that failed or was interrupted")
    parser.add_argument("--quick", action="store_true", help="a trial with few rounds and digits; needs --out")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="how many threads PyTorch uses (default: 2)")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many seeds (default: as many as each goal asks for)")
    parser.add_argument("--out", type=Path, default=ROOT, metavar="DIR", help="where RESULTS.md and the folder bench go (default: here)")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    device = choose_device(args.device).type
    options = Options(args.quick, args.threads, device, args.seeds)
    if args.part:
        PARTS[args.part].run(options, args.out)
        return 0
    if args.quick and args.out.resolve() == ROOT:
        parser.error("a trial must not become RESULTS.md; name another folder with --out")
    names = [name for name in PARTS if name in (args.only or [n for n in PARTS if n != "gpu" or device == "cuda"])]
    keep, saved = args.out / ".work" / "bench", args.out / "bench" / "results.json"
    wrong = measure(names, options, keep, args.resume)
    if wrong:
        print(wrong, file=sys.stderr)
        return 1
    old = json.loads(saved.read_text(encoding="utf-8")) if saved.exists() else {"parts": {}, "quick": args.quick}
    found = old["parts"] if old["quick"] == args.quick else {}
    parts = {**found, **{name: finished(name, keep) for name in names}}
    on, only, quick = ["--device", "cuda"], ["--only", *(args.only or [])], ["--quick"]
    words = [*(on if device == "cuda" else []), *(only if args.only else []), *(quick if args.quick else [])]
    command = " ".join(["python -m bench.results", *words])
    report = {"date": now(), "command": command, "quick": args.quick, "python": platform.python_version()}
    write({**report, "parts": {name: parts[name] for name in PARTS if name in parts}}, args.out, keep, names)
    shutil.rmtree(keep)
    say(f"Written: {args.out / 'RESULTS.md'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
