"""Kill the library at random moments and look at what is left: `python -m tools.kills --kills 100`.

A child process writes a data set, decodes one, or makes the stand-in, in a home folder where files of other people lie. It is killed
with SIGKILL, alone or with all its workers, at a random moment of the usual duration. After each kill: the result is absent or
complete, pixel by pixel; nothing half-made has a final name; what was there before is there still, byte for byte. The leftovers of
one kill are what the next run finds. At the end one run is left in peace: it must succeed and leave nothing behind.

`python -m tools.kills --climb --kills 50 --rungs linear mlp multiclass resnet18` kills `climb --resume` instead, again and again until
it ends, as many climbs as it takes. Each must end with the weights, byte for byte, of a climb that nobody disturbed.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tools.course import ROOT

SCENES = ("pictures", "arrays", "standin")
LATER = 2 * 24 * 3600
PATIENCE = 15
SHARED_MEMORY = Path("/dev/shm")


# ---- the child


def _announce(file: int, module: Any, function: str, phase: str) -> None:
    """Have `module.function` write `phase` to the open file whenever it begins, and `the rest` when it ends."""
    inner = getattr(module, function)

    def outer(*args: Any, **kwargs: Any) -> Any:
        os.write(file, f"{phase}\n".encode())
        try:
            return inner(*args, **kwargs)
        finally:
            os.write(file, b"the rest\n")

    setattr(module, function, outer)


def _publish_carelessly(target: Path, build: Callable[[Path], None], say: Callable[[str], None] = print) -> Path:
    """What the library must not do, to show that it would be noticed: build under the final name."""
    if not target.is_dir():
        target.mkdir(parents=True)
        build(target)
    return target


def child(scene: str, name: str, data: str, folder: str, phases: str, broken: bool) -> None:
    """Do the work of one scene, and write to the file `phases` what is being done."""
    import pixels_to_resnet.data as data_module
    from pixels_to_resnet import array_cache, safe_files, sources

    file = os.open(phases, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if broken:
        sources.publish_folder = _publish_carelessly
    _announce(file, sources, "make_standin", "drawing the stand-in")
    _announce(file, sources, "read_idx_pair", "reading IDX files")
    _announce(file, sources, "write_png_folder", "writing pictures")
    _announce(file, sources, "read_png_folder", "reading back")
    _announce(file, data_module, "read_png_folder", "decoding pictures")
    _announce(file, array_cache, "save_file", "saving arrays")
    _announce(file, safe_files.os, "replace", "renaming")
    print("ready", flush=True)
    os.write(file, b"the rest\n")
    if scene == "pictures":
        sources.digits_path(name, data)
    elif scene == "arrays":
        data_module.read_folder(folder)
    else:
        sources.find_source(name, "standin").arrays()
    os.write(file, b"finished\n")
    print("finished", flush=True)


# ---- what must be true after a kill


def contents(folder: Path) -> dict[str, str]:
    """Every file below `folder` and the SHA-256 of its bytes."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def lost(before: dict[str, str], folder: Path) -> list[str]:
    """Complaints about files of `before` that are gone or changed."""
    after = {name: folder / name for name in before}
    gone = [name for name, path in after.items() if not path.is_file()]
    changed = [n for n, path in after.items() if n not in gone and hashlib.sha256(path.read_bytes()).hexdigest() != before[n]]
    return [f"{name} is gone" for name in gone] + [f"{name} was changed" for name in changed]


Expected = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def expected_pictures(name: str, data: str) -> tuple[str, Expected]:
    """The folder's name in the home and, by part, images, labels and positions in the order of a folder; from the arrays."""
    from pixels_to_resnet.layouts import LAYOUTS, folder_order
    from pixels_to_resnet.sources import find_source

    layout, source, parts = LAYOUTS[name], find_source(name, data, lambda line: None), {}
    if not source.arrays:
        raise SystemExit("The pictures lie in fastai's cache, so there is nothing to write: set FASTAI_HOME to an empty folder.")
    for split, (images, labels) in source.arrays().items():
        order = folder_order(labels, layout.classes)
        parts[layout.folders[split]] = images[order], labels[order], order
    return f"{name}-{source.dataset.replace(' ', '-')}-{source.tag}", parts


def wrong_pictures(target: Path, name: str, parts: Expected) -> list[str]:
    """What keeps the folder `target` from being the whole data set, file by file and pixel by pixel."""
    from pixels_to_resnet.idx import DataError
    from pixels_to_resnet.pictures import read_pngs

    there = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()}
    paths = {part: [f"{name}/{part}/{label}/{i}.png" for label, i in zip(labels, order)] for part, (_, labels, order) in parts.items()}
    wanted = {"about.json"}.union(*paths.values())
    if there != wanted:
        return [f"{target.name} lacks {len(wanted - there):,} files and has {len(there - wanted):,} that do not belong to it"]
    try:
        json.loads((target / "about.json").read_text(encoding="utf-8"))
        same = {part: np.array_equal(read_pngs([target / p for p in paths[part]]), parts[part][0]) for part in parts}
    except (ValueError, DataError) as e:
        return [f"{target.name} is damaged: {e}"]
    return [f"{target.name}/{name}/{part} holds other pixels than were written" for part, equal in same.items() if not equal]


def wrong_arrays(file: Path, images: np.ndarray, labels: np.ndarray, names: tuple[str, str]) -> list[str]:
    """What keeps the array file from passing its own check and from holding these arrays."""
    from safetensors import SafetensorError, safe_open

    from pixels_to_resnet.array_cache import _load

    try:
        with safe_open(file, framework="pt") as f:
            key = (f.metadata() or {}).get("key", "")
    except (SafetensorError, OSError) as e:
        return [f"{file.name} is damaged: {e}"]
    found = _load(file, key)
    if found is None:
        return [f"{file.name} does not pass its check"]
    same = np.array_equal(found[names[0]].numpy(), images) and np.array_equal(found[names[1]].numpy(), labels)
    return [] if same else [f"{file.name} holds other arrays than were made"]


# ---- one kill


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in listed.splitlines())
    return [int(pid) for pid, pgid, state in rows if int(pgid) == group and not state.startswith("Z")]


@contextmanager
def environment(**settings: str) -> Iterator[None]:
    """The environment with `settings`, for one block."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def start(scene: str, name: str, data: str, folder: Path, phases: Path, broken: bool = False) -> subprocess.Popen[str]:
    """A child in a process group of its own, imports done, work just begun."""
    arguments = [scene, name, data, str(folder), str(phases), "broken" if broken else ""]
    phases.write_bytes(b"")
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.kills", "--child", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=os.name != "nt",
    )  # fmt: skip
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"the child of scene {scene} ended before it began, with status {process.wait()}")
    return process


def strike(process: subprocess.Popen[str], how: str, number: int = getattr(signal, "SIGKILL", signal.SIGTERM)) -> None:
    """Send the signal to the process alone ("alone") or to it and its workers ("group"), and wait for its end."""
    if how == "group" and os.name != "nt":
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
    else:
        process.send_signal(number)
    process.wait()
    process.stdout.close()


def wait_for_orphans(group: int, seconds: float = PATIENCE) -> float:
    """Seconds until no process of the group lives; infinite if that takes too long."""
    begun = time.monotonic()
    while members(group):
        if time.monotonic() - begun > seconds:
            return float("inf")
        time.sleep(0.1)
    return time.monotonic() - begun


@dataclass
class Report:
    """What a campaign found: faults are sentences; phases count where the kills landed; seconds orphans lived."""

    kills: int = 0
    faults: list[str] = field(default_factory=list)
    phases: Counter[tuple[str, str]] = field(default_factory=Counter)
    complete: int = 0
    leftovers: int = 0
    orphans: list[float] = field(default_factory=list)
    usual: dict[str, float] = field(default_factory=dict)


class Campaign:
    """Kills in one scene. `work` is an empty folder for everything that is written."""

    def __init__(self, scene: str, work: Path, name: str = "mnist_sample", data: str = "standin", broken: bool = False) -> None:
        self.scene, self.name, self.data, self.broken = scene, name, data, broken
        self.home, self.reference, self.phases, self.folder = work / "home", work / "reference", work / "phases.txt", work
        self.report, self.groups, self.pids, self.tries = Report(), [], [], 3
        with environment(PIXELS_TO_RESNET_HOME=str(self.reference)):
            self._prepare()
        self._place_files_of_others()

    def _prepare(self) -> None:
        from pixels_to_resnet import data, sources

        if self.scene == "standin":
            self.arrays = sources.find_source(self.name, "standin").arrays()["train"]
            self.target = self.home / self._only_file("standin-*.safetensors")
            return
        place, self.parts = expected_pictures(self.name, self.data)
        self.target = self.home / place
        if self.scene == "arrays":
            self.folder = sources.digits_path(self.name, self.data, lambda line: None) / next(iter(self.parts))
            self.arrays, self.pictures = self.parts[self.folder.name][:2], contents(self.folder)
            data.read_folder(self.folder)
            self.target = self.home / self._only_file("arrays/*.safetensors")

    def _only_file(self, pattern: str) -> Path:
        """The file of the reference home that fits the pattern, relative to that home."""
        (found,) = self.reference.glob(pattern)
        return found.relative_to(self.reference)

    def _place_files_of_others(self) -> None:
        """Files that were there before, some with names close to the target's."""
        beside = [self.target.name + "0", "notes.txt", "mnist_sample-unknown-digits-00000000/about.json", "arrays/other.safetensors"]
        for name in [f"{beside[0]}/mnist_sample/train/3/1.png", *beside[1:]]:
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(random.Random(name).randbytes(2000))
        self.before = contents(self.home)

    def start(self) -> subprocess.Popen[str]:
        """A child that has begun."""
        with environment(PIXELS_TO_RESNET_HOME=str(self.home)):
            process = start(self.scene, self.name, self.data, self.folder, self.phases, self.broken)
        self.groups.append(process.pid)
        self.pids.append(process.pid)
        return process

    def start_and_wait_for(self, phase: str, seconds: float = 60) -> subprocess.Popen[str]:
        """A child that has just come to `phase`."""
        process, begun = self.start(), time.monotonic()
        while phase not in self.phases.read_text(encoding="utf-8").splitlines():
            if process.poll() is not None or time.monotonic() - begun > seconds:
                raise RuntimeError(f"the child never came to {phase!r}")
            time.sleep(0.005)
        return process

    def run(self, delay: float | None = None, how: str = "alone") -> tuple[str, float]:
        """Start the work and kill it after `delay` seconds, or leave it in peace: its last phase, and the seconds of work."""
        process, begun = self.start(), time.monotonic()
        if delay is None:
            process.stdout.readline()
        seconds = time.monotonic() - begun
        try:
            status = process.wait(delay)
            process.stdout.close()
        except subprocess.TimeoutExpired:
            status = None
            strike(process, how)
        if status:
            self.report.faults.append(f"a run that was not killed ended with status {status}")
        phase = self.phases.read_text(encoding="utf-8").split("\n")[-2]
        return phase, seconds

    def faults(self) -> list[str]:
        """What is wrong in the home now."""
        found = lost(self.before, self.home)
        if self.target.exists() and self.scene == "pictures":
            found += wrong_pictures(self.target, self.name, self.parts)
        elif self.target.exists():
            names = ("train_images", "train_labels") if self.scene == "standin" else ("images", "labels")
            found += wrong_arrays(self.target, *self.arrays, names)
        for cache in self.drawn() if self.scene == "pictures" else ():
            with environment(PIXELS_TO_RESNET_HOME=str(self.reference)):
                from pixels_to_resnet.sources import find_source

                found += wrong_arrays(cache, *find_source(self.name, "standin").arrays()["train"], ("train_images", "train_labels"))
        if self.scene == "arrays":
            found += lost(self.pictures, self.folder)
        return found

    def drawn(self) -> list[Path]:
        """The files of the stand-in's arrays."""
        return sorted(self.home.glob("standin-*.safetensors"))

    def leftovers(self) -> list[Path]:
        """Half-made files and folders, under the names that say so."""
        return sorted(self.home.rglob("*.partial-*"))

    def clear(self, cache: bool) -> None:
        """Remove the result, so that the next run has work to do; with `cache` the stand-in's arrays too."""
        if self.target.is_dir():
            shutil.rmtree(self.target)
        self.target.unlink(missing_ok=True)
        for file in self.drawn() if cache else ():
            file.unlink()

    def usual_seconds(self, cold: bool) -> float:
        """The usual duration, cold (the stand-in has to be drawn) or warm: the median of `self.tries` runs in peace."""
        kind = "cold" if cold else "warm"
        if kind not in self.report.usual:
            taken = []
            for _ in range(self.tries):
                self.clear(cache=cold)
                taken.append(self.run()[1])
            self.report.usual[kind] = median(taken)
        return self.report.usual[kind]

    def kill(self, i: int, rng: random.Random) -> None:
        """Kill number `i`: every fourth starts cold; every second takes the workers along; then look."""
        cold = self.data == "standin" and self.scene == "pictures" and i % 4 == 0
        usual = self.usual_seconds(cold)
        self.clear(cache=cold)
        how = ("alone", "group")[i % 2]
        phase, _ = self.run(rng.uniform(0, 1.15 * usual), how)
        found = self.faults()
        self.report.kills += 1
        self.report.phases[how, phase] += 1
        self.report.complete += self.target.exists() and not found
        self.report.leftovers += bool(self.leftovers())
        self.report.faults += [f"kill {i} ({how}, {phase}): {fault}" for fault in found]
        if found:
            self.clear(cache=True)
        if os.name != "nt" and rng.random() < 0.5:
            self._count_orphans(self.groups.pop())

    def _count_orphans(self, group: int) -> None:
        """Wait for the workers of a killed process; kill those that stay, so that the campaign leaves none."""
        self.report.orphans.append(wait_for_orphans(group))
        if self.report.orphans[-1] == float("inf"):
            os.killpg(group, signal.SIGKILL)

    def tidy(self) -> None:
        """Remove the semaphores and empty folders that joblib could not, because whoever does that was killed too."""
        for pid in self.pids if SHARED_MEMORY.is_dir() else ():
            for path in [*SHARED_MEMORY.glob(f"sem.loky-{pid}-*"), *SHARED_MEMORY.glob(f"joblib_memmapping_folder_{pid}_*")]:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def end(self) -> None:
        """One run in peace, two days later: it succeeds, and nothing half-made and nobody is left."""
        if os.name != "nt":
            for group in self.groups:
                self._count_orphans(group)
        for path in self.leftovers():
            os.utime(path, (time.time() - LATER,) * 2)
        self.clear(cache=True)
        phase, _ = self.run()
        self.report.faults += [f"after the last run: {fault}" for fault in self.faults()]
        if phase != "finished" or not self.target.exists():
            self.report.faults.append(f"the last run, left in peace, ended in the phase {phase!r} without a result")
        self.report.faults += [f"after the last run: {p.relative_to(self.home)} is left over" for p in self.leftovers()]
        stayed = self.report.orphans.count(float("inf"))
        if stayed:
            self.report.faults.append(f"after {stayed} of {len(self.report.orphans)} runs a worker still lived {PATIENCE} seconds later")


def campaign(scene: str, kills: int, work: Path, seed: int = 0, say: Callable[[str], None] = lambda line: None, **options: Any) -> Report:
    """`kills` kills in `scene`, then a run in peace."""
    rng, fight = random.Random(seed), Campaign(scene, work, **options)
    fight.tries = 3 if kills >= 20 else 1
    try:
        for i in range(kills):
            fight.kill(i, rng)
            if (i + 1) % 10 == 0:
                say(f"{i + 1} of {kills} kills, {len(fight.report.faults)} faults")
        fight.end()
    finally:
        fight.tidy()
    return fight.report


def summary(report: Report) -> str:
    """The figures of a report, as Markdown."""
    phases = sorted({phase for _, phase in report.phases})
    rows = [f"| {p} | {report.phases['alone', p]} | {report.phases['group', p]} |" for p in phases]
    usual = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in report.usual.items())
    return "\n".join([
        "| killed while | alone | with its workers |", "|---|---|---|", *rows, "",
        f"{report.kills} kills; usual duration {usual}. A complete result under its final name after {report.complete}; "
        f"something half-made, under a name that says so, lay there after {report.leftovers}. "
        f"Workers lived on for at most {max(report.orphans, default=0):.1f} s. Faults: {len(report.faults)}.", *report.faults,
    ])  # fmt: skip


# ---- a climb that goes on


def _announce_inside(file: int, module: Any, function: str, phase: str, stack: list[str]) -> None:
    """Have `module.function` write `phase` to the open file when it begins, and the phase around it when it ends."""
    inner = getattr(module, function)

    def outer(*args: Any, **kwargs: Any) -> Any:
        stack.append(phase)
        os.write(file, f"{phase}\n".encode())
        try:
            return inner(*args, **kwargs)
        finally:
            stack.pop()
            os.write(file, f"{stack[-1]}\n".encode())

    setattr(module, function, outer)


def _forgetful(save: Callable[..., None]) -> Callable[..., None]:
    """What a checkpoint must not do: leave out what the optimizer remembers, or where it remembers nothing, the last turn."""

    def spoiled(self: Any, state: dict[str, Any], n_done: int) -> None:
        remembered = any(name.startswith("optimizer") for name in state)
        kept = {name: t.new_zeros(t.shape) if name.startswith("optimizer") else t for name, t in state.items()}
        save(self, kept, n_done if remembered or n_done < 2 else n_done - 1)

    return spoiled


def climb_child(phases: str, seconds: str, broken: str, words: list[str]) -> int:
    """The command `climb` with `words`, which writes to the file `phases` what it does, and a checkpoint every `seconds`."""
    file = os.open(phases, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    from pixels_to_resnet import checkpoints, climb, data, results, resume, runner

    resume.SECONDS, stack = float(seconds), ["the rest"]
    if broken:
        checkpoints.Checkpoint.save = _forgetful(checkpoints.Checkpoint.save)
    _announce_inside(file, data, "load_digits", "finding digits", stack)
    _announce_inside(file, runner, "_fitted", "training", stack)
    _announce_inside(file, checkpoints.Checkpoint, "save", "writing a checkpoint", stack)
    _announce_inside(file, checkpoints.Checkpoint, "restore", "reading a checkpoint", stack)
    _announce_inside(file, runner, "_answers", "answering", stack)
    _announce_inside(file, runner, "_picture", "drawing", stack)
    _announce_inside(file, results, "save_climb", "writing the results", stack)
    _announce_inside(file, resume, "forget", "removing checkpoints", stack)
    os.write(file, b"the rest\n")
    return climb.main(words)


def weights_in(out: Path) -> dict[str, bytes]:
    """The bytes of every tensor in the files of weights in `out`."""
    from safetensors import safe_open

    found = {}
    for path in sorted((out / "weights").glob("*.safetensors")):
        with safe_open(path, framework="np") as f:
            found |= {f"{path.stem} {name}": f.get_tensor(name).tobytes() for name in f.keys()}
    return found


@dataclass
class ClimbReport:
    """What the kills of climbs found; `lives` are the processes that each climb took, `startup` the usual seconds before training."""

    kills: int = 0
    faults: list[str] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)
    lives: list[int] = field(default_factory=list)
    startup: float = 0.0
    usual: float = 0.0


AT_THE_END = ("answering", "drawing", "writing the results", "removing checkpoints")


class ClimbCampaign:
    """Kills of `climb --resume` with `words`. `work` is an empty folder; a checkpoint is written every `seconds`."""

    def __init__(self, work: Path, words: list[str], seconds: float = 0.5, broken: bool = False) -> None:
        self.work, self.words, self.seconds, self.broken = work, words, seconds, broken
        self.phases, self.report, self.n_lives = work / "phases.txt", ClimbReport(), 0
        self.reference = work / "reference"
        begun = time.monotonic()
        process = self.start(self.reference, resume=False)
        while "training" not in self.so_far() and process.poll() is None:
            time.sleep(0.01)
        self.report.startup = time.monotonic() - begun
        if process.wait():
            raise RuntimeError(f"the climb that nobody disturbed ended with status {process.returncode}")
        self.report.usual, self.expected = time.monotonic() - begun, weights_in(self.reference)
        self.accuracy = self.accuracies(self.reference)
        self.begin()

    def begin(self) -> None:
        """An empty folder for the next climb."""
        self.out, self.n_lives = self.work / f"climb{len(self.report.lives)}", 0

    def start(self, out: Path, resume: bool = True) -> subprocess.Popen[bytes]:
        """A process that climbs into `out`."""
        self.phases.write_text("importing\n", encoding="utf-8")
        words = [*self.words, "--quiet", "--device", "cpu", "--out", str(out), *(["--resume"] if resume else [])]
        broken = "broken" if self.broken and resume else ""
        command = [sys.executable, "-m", "tools.kills", "--climb-child", str(self.phases), str(self.seconds), broken, *words]
        with open(self.work / "said.txt", "ab") as said:
            return subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)

    def so_far(self) -> list[str]:
        """What the process has written that it did, as far as the lines are complete."""
        return self.phases.read_text(encoding="utf-8").split("\n")[:-1]

    def accuracies(self, out: Path) -> dict[str, float]:
        """The accuracy of each rung in the report."""
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        return {rung["name"]: rung["accuracy"] for rung in report["rungs"]}

    def life(self, delay: float = float("inf"), phase: str = "", times: int = 1) -> str | None:
        """One process, killed after `delay` seconds or when it has come to `phase` for so many `times`; where it was hit, None if it ended."""
        process, begun = self.start(self.out), time.monotonic()
        self.n_lives += 1
        while process.poll() is None and time.monotonic() - begun < delay and not (phase and self.so_far().count(phase) >= times):
            time.sleep(0.01)
        if process.poll() is None:
            process.kill()
        status = process.wait()
        if status == 0:
            self.end()
            return None
        hit = self.so_far()[-1]
        if status != -getattr(signal, "SIGKILL", 9) and os.name != "nt":
            self.report.faults.append(f"a process that was not killed ended with status {status}")
            return None
        self.report.kills += 1
        self.report.phases[hit] += 1
        self.look(hit)
        return hit

    def look(self, hit: str) -> None:
        """After a kill: report and weights are absent or complete."""
        from pixels_to_resnet.idx import DataError
        from pixels_to_resnet.manifest import MANIFEST, read_manifest

        try:
            if (self.out / "report.json").exists():
                self.accuracies(self.out)
            if (self.out / "weights" / MANIFEST).exists():
                read_manifest(self.out / "weights")
        except (ValueError, DataError) as e:
            self.report.faults.append(f"kill {self.report.kills} ({hit}): {e}")

    def end(self) -> None:
        """After the last life: the weights of the climb that nobody disturbed, its accuracies, and no checkpoint."""
        found, name = weights_in(self.out), f"climb {len(self.report.lives) + 1} ({self.n_lives} lives)"
        other = sorted(key for key in found.keys() | self.expected.keys() if found.get(key) != self.expected.get(key))
        if other:
            self.report.faults.append(f"{name} has other weights: {len(other)} tensors, among them {other[0]}")
        if self.accuracies(self.out) != self.accuracy:
            self.report.faults.append(f"{name} has other accuracies")
        if (self.out / "checkpoint").exists():
            self.report.faults.append(f"{name} has left its checkpoints")
        self.report.lives.append(self.n_lives)
        self.begin()


def climb_campaign(
    kills: int, work: Path, words: list[str], seed: int = 0, say: Callable[[str], None] = lambda line: None, **options: Any
) -> ClimbReport:
    """`kills` kills of as many climbs as it takes; the last one is then left in peace.

    Most hit at random moments of the training, some before it, and some while a checkpoint or the results are written, for which they lie in wait.
    """
    rng, fight = random.Random(seed), ClimbCampaign(work, words, **options)
    startup, training = fight.report.startup, fight.report.usual - fight.report.startup
    say(f"in peace: {fight.report.usual:.1f} s, {startup:.1f} s of them before training")
    while fight.report.kills < kills and len(fight.report.faults) < 10:
        moment = rng.random()
        if moment < 0.15:
            hit = fight.life(rng.uniform(0, startup))
        elif moment < 0.7:
            hit = fight.life(startup + rng.uniform(0, max(2.0, 0.15 * training)))
        elif moment < 0.85:
            hit = fight.life(phase="writing a checkpoint", times=rng.randint(1, 3))
        else:
            hit = fight.life(phase=rng.choice(AT_THE_END))
        if hit and fight.report.kills % 10 == 0:
            say(f"{fight.report.kills} of {kills} kills, {len(fight.report.lives)} climbs ended, {len(fight.report.faults)} faults")
    if fight.n_lives:
        fight.life()
    return fight.report


def climb_summary(report: ClimbReport) -> str:
    """The figures of a report, as Markdown."""
    rows = [f"| {phase} | {n} |" for phase, n in report.phases.most_common()]
    return "\n".join([
        "| killed while | times |", "|---|---|", *rows, "",
        f"{report.kills} kills of {len(report.lives)} climbs, which took {', '.join(map(str, report.lives))} processes. "
        f"In peace a climb takes {report.usual:.1f} s. Faults: {len(report.faults)}.", *report.faults,
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.kills", description="Kill the library at random moments and look at what is left.")
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="how many times (default: 100)")
    parser.add_argument("--scene", choices=SCENES, default="pictures", help="write pictures, decode them, or draw the stand-in (default: pictures)")
    parser.add_argument("--name", choices=("mnist_sample", "mnist_png"), default="mnist_sample", help="which data set (default: mnist_sample)")
    parser.add_argument("--data", choices=("auto", "mnist", "standin"), default="standin", help="which digits (default: standin)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random moments (default: 0)")
    parser.add_argument("--broken", action="store_true", help="build under the final name, to see that this is noticed")
    parser.add_argument("--climb", action="store_true", help="kill climb --resume, and compare its weights with those of a climb in peace")
    parser.add_argument("--rungs", nargs="+", default=["linear", "mlp"], metavar="RUNG", help="which rungs climb (default: linear mlp)")
    parser.add_argument("--epochs", type=int, metavar="N", help="for how many epochs (default: each rung's own)")
    parser.add_argument("--seconds", type=float, default=0.5, help="between two checkpoints (default: 0.5)")
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["--climb-child"]:
        return climb_child(*words[1:4], words[4:])
    args = parser.parse_args(words)
    if args.child:
        *names, broken = args.child
        child(*names, broken=bool(broken))
        return 0
    if args.climb:
        words = ["--data", args.data, "--rungs", *args.rungs, *(["--epochs", str(args.epochs)] if args.epochs else [])]
        with tempfile.TemporaryDirectory(prefix="kills") as work:
            tell = partial(print, flush=True)
            found = climb_campaign(args.kills, Path(work), words, args.seed, tell, seconds=args.seconds, broken=args.broken)
        print(climb_summary(found))
        return 1 if found.faults else 0
    with tempfile.TemporaryDirectory(prefix="kills") as work:
        options = {"name": args.name, "data": args.data, "broken": args.broken}
        report = campaign(args.scene, args.kills, Path(work), args.seed, lambda line: print(line, flush=True), **options)
    print(summary(report))
    return 1 if report.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
