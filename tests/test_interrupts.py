"""Stopped at any moment, by two at once, or by a full disk: the data set is absent or complete, and nothing else is lost.

`python -m tools.kills --kills 100` is the long version of the first test, with `--climb` of the last.
"""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pixels_to_resnet.idx import DataError, idx_bytes
from pixels_to_resnet.pictures import write_png_folder
from pixels_to_resnet.results import try_folder
from pixels_to_resnet.rungs import ClimbError
from pixels_to_resnet.safe_files import publish_folder, write_beside
from tools.course import ROOT
from tools.kills import (
    LATER,
    Campaign,
    ClimbCampaign,
    campaign,
    climb_summary,
    expected_pictures,
    lost,
    strike,
    summary,
    wait_for_orphans,
    wrong_pictures,
)

posix = pytest.mark.skipif(os.name == "nt", reason="needs the signals and process groups of POSIX")


@pytest.fixture
def idx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some thousand digits of noise as IDX files, an empty fastai cache, and an environment that points to them."""
    rng, folder = np.random.default_rng(0), tmp_path / "idx"
    folder.mkdir()
    for part, n in (("train", 2000), ("t10k", 200)):
        images, labels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.choice(np.uint8([3, 7]), n)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    monkeypatch.setenv("PIXELS_TO_RESNET_IDX", str(folder))
    monkeypatch.setenv("FASTAI_HOME", str(tmp_path / "fastai"))
    return folder


@pytest.mark.parametrize("scene, kills", [("pictures", 4), ("arrays", 2)])
def test_kills_at_random_moments_lose_nothing(scene: str, kills: int, idx: Path, tmp_path: Path) -> None:
    report = campaign(scene, kills, tmp_path / "work", seed=1, data="auto")
    assert report.faults == [] and report.kills == kills, summary(report)


@pytest.mark.parametrize("broken", [False, True], ids=["the library", "a builder that writes under the final name"])
@pytest.mark.parametrize("how", ["alone", pytest.param("group", marks=posix)])
def test_a_kill_while_pictures_are_written(how: str, broken: bool, idx: Path, tmp_path: Path) -> None:
    fight = Campaign("pictures", tmp_path / "work", data="auto", broken=broken)
    strike(fight.start_and_wait_for("writing pictures"), how)
    found = fight.faults()
    if broken:
        assert len(found) == 1 and " lacks " in found[0], "a half-made data set under its final name has to be noticed"
    else:
        assert found == [] and not fight.target.exists() and fight.leftovers()
    if os.name != "nt":
        assert wait_for_orphans(fight.groups[-1]) < 10, "the workers of a killed process have to end by themselves"
    fight.tidy()


@posix
@pytest.mark.parametrize("phase, how", [("writing pictures", "alone"), ("writing pictures", "group"), ("reading back", "group")])
def test_ctrl_c_leaves_nothing_half_made(phase: str, how: str, idx: Path, tmp_path: Path) -> None:
    fight = Campaign("pictures", tmp_path / "work", data="auto")
    process = fight.start_and_wait_for(phase)
    time.sleep(0.3 if phase == "writing pictures" else 0)
    strike(process, how, signal.SIGINT)
    assert process.returncode not in (0, None)
    assert wait_for_orphans(fight.groups[-1]) < 10
    assert fight.leftovers() == [] and not fight.target.exists() and fight.faults() == []


def test_the_checks_after_a_kill_see_a_lost_file_and_a_wrong_pixel(idx: Path, tmp_path: Path) -> None:
    fight = Campaign("pictures", tmp_path / "work", data="auto")
    assert fight.run()[0] == "finished" and fight.faults() == []
    pictures = sorted(fight.target.rglob("*.png"))
    good = pictures[0].read_bytes()
    pictures[0].write_bytes(pictures[1].read_bytes())
    assert "other pixels" in fight.faults()[0]
    pictures[0].write_bytes(good)
    assert fight.faults() == []
    pictures[0].unlink()
    assert "lacks 1 files" in fight.faults()[0]
    (fight.home / "notes.txt").write_bytes(b"")
    assert lost(fight.before, fight.home) == ["notes.txt was changed"]
    (fight.home / "notes.txt").unlink()
    assert lost(fight.before, fight.home) == ["notes.txt is gone"]


def test_what_a_killed_writer_left_is_removed_when_nobody_can_be_writing_it(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".a.json.partial-old", ".a.json.partial-young", ".b.json.partial-old"))
    for path in (old, young, other):
        path.write_text("half", encoding="utf-8")
    for path in (old, other):
        os.utime(path, (time.time() - LATER,) * 2)
    with write_beside(tmp_path / "a.json") as partial:
        partial.write_text("whole", encoding="utf-8")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "whole"
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", young.name, other.name}


TWO = """
import sys
from pixels_to_resnet.sources import digits_path
print("ready", flush=True)
sys.stdin.readline()
print(digits_path("mnist_sample", "auto", print))
"""


def test_two_processes_at_once_end_with_one_good_data_set(idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELS_TO_RESNET_HOME", str(tmp_path / "home"))
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    both = [subprocess.Popen([sys.executable, "-c", TWO], **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = sorted(([line for line in process.communicate(timeout=120)[0].splitlines() if "not MNIST" not in line] for process in both), key=len)
    place, parts = expected_pictures("mnist_sample", "auto")
    folder = tmp_path / "home" / place
    assert [process.returncode for process in both] == [0, 0]
    assert said == [[str(folder / "mnist_sample")], [f"Another process is writing {place}; waiting for it.", str(folder / "mnist_sample")]]
    assert wrong_pictures(folder, "mnist_sample", parts) == []
    assert {p.name for p in folder.parent.iterdir()} <= {place, f"{place}.lock"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_disk_that_is_full_half_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, names = rng.integers(0, 256, (600, 28, 28), dtype=np.uint8), [str(i) for i in range(600)]

    def build(partial: Path) -> None:
        """Write pictures with workers, one of whom meets a full disk."""
        (partial / "3").mkdir()
        (partial / "3" / "350.png").symlink_to("/dev/full")
        write(partial)

    def write(partial: Path) -> None:
        write_png_folder(partial, images, [3] * 600, names, chunk=100)

    (tmp_path / "other").write_text("mine", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(DataError, match="digits cannot be written .*the disk is full.*; free some space"):
            publish_folder(tmp_path / "digits", build)
        assert {p.name for p in tmp_path.iterdir()} - {"digits.lock"} == {"other"}
    publish_folder(tmp_path / "digits", write)
    assert len(list((tmp_path / "digits" / "3").iterdir())) == 600


def kill_until(fight: ClimbCampaign, n_kills: int, phase: str) -> None:
    """So many kills in `phase`; a process that ends before it is hit does not count."""
    for _ in range(5 * n_kills):
        if fight.report.kills < n_kills:
            fight.life(phase=phase, times=3)
    assert fight.report.kills == n_kills


def test_a_killed_climb_ends_with_the_same_weights_and_a_forgetful_checkpoint_is_noticed(tmp_path: Path) -> None:
    fight = ClimbCampaign(tmp_path, ["--data", "standin", "--rungs", "linear", "mlp", "--epochs", "60"], seconds=0)
    kill_until(fight, 2, "writing a checkpoint")
    fight.life()
    assert fight.report.faults == [] and fight.report.lives, climb_summary(fight.report)
    fight.broken = True
    kill_until(fight, 3, "writing a checkpoint")
    fight.life()
    assert any("has other weights" in fault for fault in fight.report.faults), climb_summary(fight.report)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_or_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """Somebody who may do everything would otherwise turn /dev/stdout into a file by asking for a report there."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, kind in (("pipe", "a device or a pipe"), ("folder", "a folder")):
        with pytest.raises(DataError, match=f"{name} is {kind}, not a file; choose another name"), write_beside(tmp_path / name):
            pytest.fail("it was written")
    assert (tmp_path / "pipe").is_fifo() and {p.name for p in tmp_path.iterdir()} == {"pipe", "folder"}
    with pytest.raises(ClimbError, match="pipe is a device or a pipe; move it away, or choose another place for the report with --junit"):
        try_folder(tmp_path / "out", junit=tmp_path / "pipe")
