"""bench/results.py: all measurements in one run, or RESULTS.md stays as it was."""
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import common, results
from bench.results import Options

GOAL = common.goal("C1", "an epoch: times faster", "the usual way, 40 ms", 5.0, 3, 4.5)


def a_report(*goals: dict[str, Any]) -> dict[str, Any]:
    """The least that a part reports."""
    return {"machine": common.machine(), "dataset": "some digits", "threads": 1, "load": 0.0, "goals": list(goals), "rows": []}


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `bench.results` on the CPU with parts that write a report at once, or fail: `quick(words, goals by part)`, and the output folder."""
    goals: dict[str, list[dict[str, Any]] | None] = {}

    def command_of(name: str, options: Options, folder: Path) -> list[str]:
        if goals.get(name, [GOAL]) is None:
            return [sys.executable, "-c", "raise SystemExit('the ways do not read the same digits')"]
        (folder / f"{name}.json").write_text(json.dumps(a_report(*goals.get(name, [GOAL]))), encoding="utf-8")
        (folder / f"{name}.md").write_text(f"# {name}\n", encoding="utf-8")
        return [sys.executable, "-c", "pass"]

    monkeypatch.setattr(results, "command_of", command_of)

    def run(*words: str, **given: list[dict[str, Any]] | None) -> int:
        goals.clear()
        goals.update(given)
        return results.main(["--device", "cpu", "--out", str(tmp_path), *words])

    return run


def test_a_real_trial_measures_writes_and_says_that_it_is_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert results.main(["--quick", "--device", "cpu", "--threads", "1", "--out", str(tmp_path), "--only", "training", "ninety_nine"]) == 0
    page, report = ((tmp_path / name).read_text(encoding="utf-8") for name in ("RESULTS.md", "bench/results.json"))
    assert page.startswith("# Results of a trial") and page == results.as_markdown(json.loads(report))
    assert {p.name for p in (tmp_path / "bench").iterdir()} >= {"results.png", "training.md", "training.png", "ninety_nine.json", "ninety_nine.png"}
    names = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if re.match(r"\| [CG]\d", line)]
    assert names == sorted(names) and {"C1", "C2", "C3", "C4", "C6", "C7"} <= set(names)
    assert "Not measured yet: C8, C9 (`--only data`), C5 (`--only resnet`)." in page and "No GPU was at hand" in page
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (tmp_path / target).exists() or (results.ROOT / target).exists(), target
    said = capfd.readouterr().out
    assert re.search(r"training: \d+ s, \d+ s in all", said) and not (tmp_path / ".work" / "bench").exists()


def test_a_trial_does_not_become_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "measure", lambda *how: "measured")
    with pytest.raises(SystemExit):
        results.main(["--quick", "--device", "cpu"])
    assert "must not become RESULTS.md" in capsys.readouterr().err


def test_a_part_that_fails_leaves_everything_as_it_was_and_the_rest_goes_on_later(
    quick: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "RESULTS.md").write_text("old", encoding="utf-8")
    assert quick(resnet=None) == 1
    assert (tmp_path / "RESULTS.md").read_text(encoding="utf-8") == "old" and not (tmp_path / "bench").exists()
    said = capsys.readouterr().err
    assert "resnet failed (the ways do not read the same digits). RESULTS.md is as it was. Finished: data, training;" in said
    asked: list[str] = []
    real = results.measure_part
    monkeypatch.setattr(results, "measure_part", lambda name, *rest: asked.append(name) or real(name, *rest))
    assert quick("--resume") == 0 and asked == ["resnet", "ninety_nine"]
    assert (tmp_path / "RESULTS.md").read_text(encoding="utf-8").startswith("# Results\n")


def test_what_was_measured_otherwise_is_measured_anew(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quick(resnet=None) == 1
    asked: list[str] = []
    real = results.measure_part
    monkeypatch.setattr(results, "measure_part", lambda name, *rest: asked.append(name) or real(name, *rest))
    assert quick("--resume", "--threads", "1", ninety_nine=None) == 1
    assert asked == ["data", "training", "resnet", "ninety_nine"]


def test_an_interrupted_run_keeps_what_is_finished(
    quick: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = subprocess.run, []

    def interrupted(*args: Any, **how: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **how)

    monkeypatch.setattr(results.subprocess, "run", interrupted)
    assert quick() == 1
    assert "training was interrupted. RESULTS.md is as it was. Finished: data; --resume" in capsys.readouterr().err
    assert not (tmp_path / "RESULTS.md").exists() and quick("--resume") == 0 and len(calls) == 5


def test_parts_measured_before_stay_beside_those_measured_anew(quick: Any, tmp_path: Path) -> None:
    assert quick() == 0
    slower = common.goal("C5", "an epoch of resnet18: times faster", "the tutorial's call, 20 s", 2.0, 3.5, 5)
    assert quick("--only", "resnet", resnet=[slower]) == 0
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "Of 4 lines, 3 reach the stretch, 0 the goal, and 1 miss it." in page and "| C5 " in page and "--only resnet`" in page
    assert "[data](bench/data.md)" in page and (tmp_path / "bench" / "data.md").exists()


def test_a_goal_that_is_missed_is_said_to_be_missed_in_page_and_picture() -> None:
    missed = common.goal("C4", "ten digits: times faster", "the usual way, 800 ms", 2.3, 2.4, 4)
    report = {"date": "", "command": "", "quick": False, "parts": {"training": {"begun": "", "seconds": 1.0, **a_report(GOAL, missed)}}}
    assert "| C4 | ten digits: times faster | the usual way, 800 ms | 2.3 | 2.4 | 4 | missed |" in results.as_markdown(report)
    bars = {patch.get_y(): patch for patch in results.draw(report).axes[0].patches}
    assert [bars[y].get_hatch() for y in sorted(bars, reverse=True)] == [None, "xx"]


def test_less_is_better_where_a_goal_says_at_most() -> None:
    limit = common.goal("C7", "microseconds", "fastai: 400", 30, 60, 25, at_most=True)
    assert results.share(limit) == 2 and results.share({**limit, "found": -5.0}) == 1000
    assert results.share(GOAL) == pytest.approx(5 / 3)


def test_on_a_gpu_its_section_has_the_goals_what_the_card_can_do_and_what_pays() -> None:
    part = {"begun": "", "seconds": 1.0, **a_report(common.goal("G1", "seconds", "0.4 s", 0.04, 0.05, 0.015, at_most=True))}
    part |= {"ceilings": {"memory read, GB/s": 4000.0}, "advice": ["resnet18: takes recorded turns of 97."]}
    page = results.as_markdown({"date": "", "command": "", "quick": False, "parts": {"gpu": part}})
    section = page.split("## On a GPU")[1]
    assert "| G1 | seconds | 0.4 s | 0.04 | at most 0.05 | at most 0.015 | goal |" in section
    assert "| memory read, GB/s | 4000 |" in section and "- resnet18: takes recorded turns of 97." in section and "No GPU" not in page


def test_only_the_gpus_part_may_see_the_gpu(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    real = subprocess.run

    def run(*args: Any, env: dict[str, str], **how: Any) -> Any:
        seen.append(env.get("CUDA_VISIBLE_DEVICES"))
        return real(*args, env=env, **how)

    monkeypatch.setattr(results.subprocess, "run", run)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert quick("--only", "data", "gpu", gpu=None) == 1
    assert seen == ["", "0"]


def test_every_part_has_a_command_that_knows_its_options() -> None:
    options = Options(quick=True, threads=3, device="cuda", seeds=4)
    assert results.PARTS.keys() >= {"data", "training", "resnet", "ninety_nine", "gpu"}
    assert options.words("gpu") == ["--threads", "3", "--device", "cuda", "--seeds", "4", "--quick"] and "cpu" in options.words("training")
    assert options.rounds(7, 5) == ["--rounds", "1", "--seeds", "4"] and Options().rounds(7, 5) == ["--rounds", "7", "--seeds", "5"]


def test_what_is_proved_without_a_gpu_is_proved_by_tests_that_exist() -> None:
    assert [name for name in results.PROVED if not (results.ROOT / name).exists()] == []


@pytest.mark.skipif(not (results.ROOT / "RESULTS.md").exists(), reason="RESULTS.md has not been written")
def test_the_results_are_those_of_the_saved_figures_and_of_no_trial() -> None:
    report = json.loads((common.HERE / "results.json").read_text(encoding="utf-8"))
    assert (results.ROOT / "RESULTS.md").read_text(encoding="utf-8") == results.as_markdown(report) and not report["quick"]
    names = {g["name"].split()[0].rstrip(",") for part in report["parts"].values() for g in part["goals"]}
    assert names >= {f"C{n}" for n in range(1, 10)}
    assert all(part["dataset"] == "MNIST" for part in report["parts"].values())
