"""What the benchmarks share: goals, bars, whose work keeps the cores busy; and bench/data.py."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from bench import common, data, training
from pixels_to_resnet.data import Digits, DigitSplits


@pytest.mark.parametrize("found, at_most, valid, said", [
    (2.9, False, True, "missed"), (3.0, False, True, "goal"), (4.5, False, True, "stretch"), (9.0, False, False, "missed"),
    (3.1, True, True, "missed"), (3.0, True, True, "goal"), (0.5, True, False, "missed"), (None, False, True, "not attempted"),
])  # fmt: skip
def test_a_goal_is_reached_or_missed(found: float | None, at_most: bool, valid: bool, said: str) -> None:
    judged = common.goal("C1", "what", "the usual way", found, 3, 1 if at_most else 4.5, at_most, valid)
    assert judged["reached"] == said
    (line,) = common.goal_lines([judged])
    assert line.count("|") == common.HEAD[0].count("|") and line.endswith(f"| {said} |") and ("at most" in line) == at_most


def test_a_goal_without_a_stretch_is_a_goal_at_best() -> None:
    assert common.goal("C8", "what", "the usual way", 10**6, 100)["reached"] == "goal"


def test_numbers_keep_three_digits_or_more() -> None:
    assert [common.short(v) for v in (None, 0.012345, 5.0, 99.512, 1234.6, -3.14159)] == ["", "0.0123", "5", "99.51", "1235", "-3.14"]


def test_own_work_and_that_of_ended_children_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 s on the clock, the cores were busy for 12 s; this process worked 4 s of these and its children 3 s."""
    ticks = os.sysconf("SC_CLK_TCK")
    states = iter([
        (100.0, (50, 0, 20, 1000, 30, 0, 0, 5), (1.0, 1.0, 0.0, 0.0)), (110.0, (50 + 9, 1, 21, 2000, 40, 0, 0, 6), (4.0, 2.0, 2.0, 1.0)),
    ])  # fmt: skip
    now: dict[str, Any] = {}

    def step() -> float:
        now["clock"], now["stat"], now["times"] = next(states)
        return now["clock"]

    lines = property(lambda self: ["cpu  " + " ".join(str(n * ticks) for n in now["stat"])])
    monkeypatch.setattr(common, "_lines", lambda name: (step(), lines.fget(None))[1])
    monkeypatch.setattr(common.time, "perf_counter", lambda: now["clock"])
    monkeypatch.setattr(common.os, "times", lambda: (*now["times"], 0.0))
    with common.Others() as others:
        pass
    assert others.cores == pytest.approx((12 - 7) / 10)


def test_without_the_systems_count_the_load_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "_lines", lambda name: [])
    monkeypatch.setattr(common.os, "getloadavg", lambda: (1.7, 0.0, 0.0), raising=False)
    with common.Others() as others:
        time.sleep(0.01)
    assert others.cores == 1.7


def test_a_busy_machine_is_named_and_a_quiet_one_is_not() -> None:
    assert common.warning({"load": 0.1}) == []
    assert "kept 0.53 cores busy" in common.warning({"load": 0.53})[1]


def test_threads_are_put_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="stop"), common.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError("stop")
    assert torch.get_num_threads() == before


def test_rates_are_positive_and_the_machine_is_described() -> None:
    found = common.rates(0.01)
    assert list(found) == ["reading", "fp32 products", "fp32 products by oneDNN", "bfloat16 products"] and min(found.values()) > 0
    assert {"cpu", "cores", "system", "python", "torch", "fastai"} <= set(common.machine())


def test_a_package_that_is_missing_is_said_to_be_missing() -> None:
    assert common._version("no-such-package-of-this-name") == "not installed"


@pytest.mark.parametrize("log", [False, True])
def test_bars_begin_at_the_top_and_say_what_they_are(log: bool) -> None:
    ax = Figure().subplots()
    common.bars(ax, [("usual", 10.0, "theirs", "10 ms"), ("ours", 2.0, "ours", "2 ms"), ("floor", 1.0, "floor", "1 ms")], "milliseconds", log)
    common.mark(ax, 5.0, "goal")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["usual", "ours", "floor"]
    assert [patch.get_width() for patch in ax.patches] == [10.0, 2.0, 1.0] and ax.patches[0].get_y() > ax.patches[2].get_y()
    assert {text.get_text() for text in ax.texts} == {"10 ms", "2 ms", "1 ms", "goal"} and ax.get_xlim()[1] > 10


def test_modules_for_runners_need_no_package_of_the_tutorials() -> None:
    """A machine with a GPU may lack fastai; then its recipes are left out."""
    code = "import sys; sys.modules['fastai'] = None; import bench.common, bench.half, bench.results, bench.gpu"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=common.HERE.parent)


# ---- bench/data.py and the digits of bench/training.py


def test_the_measurement_of_loading_runs_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(data, "COMMANDS", {name: ["-c", "pass"] for name in data.COMMANDS})
    for i in range(20):
        place = tmp_path / "few" / "train" / str(3 + 4 * (i % 2))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((28, 28), i, np.uint8)).save(place / f"{i}.png")
    assert data.main(["--rounds", "1", "--out", str(tmp_path)], tmp_path / "few" / "train") == 0
    report = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    assert capsys.readouterr().out == (tmp_path / "data.md").read_text(encoding="utf-8")
    assert [g["name"] for g in report["goals"]] == ["C8", "C8, again", "C9", "C9, help"] and report["dataset"] == "few"
    assert {row["images"] for row in report["rows"]} == {20, 0}


def test_loading_that_is_no_faster_misses_its_goals() -> None:
    usual = [{"images": n, "way": way, "median": 1.0, "times_faster": 1.0} for n, way in ((9, data.PIL_LOOP), (0, data.FASTAI))]
    names = (data.DECODE, data.CACHED, data.LIBRARY, data.HELP)
    ours = [{"images": n, "way": way, "median": 0.5, "times_faster": 2.0} for n in (9, 0, 70) for way in names]
    assert [g["reached"] for g in data.reached(usual + ours)] == ["goal", "missed", "missed", "missed"]


def test_only_ten_digits_of_the_standin_learn_more_slowly() -> None:
    digits = Digits(torch.zeros(2, 28, 28, dtype=torch.uint8), torch.tensor([3, 7]))
    sets = [DigitSplits(digits, digits, name, "") for name in ("MNIST", "stand-in")]
    rates = {(kind, splits.dataset): training.task_for(kind, splits).rate for kind in training.TASKS for splits in sets}
    differing = {kind for kind in training.TASKS if rates[kind, "MNIST"] != rates[kind, "stand-in"]}
    assert differing == {"ten digits"} and rates["ten digits", "MNIST"] == training.TASKS["ten digits"].rate == 1.0
