"""bench/gpu.py, the whole of it, on the CPU with few digits; and on a GPU where there is one."""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu
from pixels_to_resnet.data import Digits, DigitSplits
from pixels_to_resnet.fast_path import FastTrainer

CPU = torch.device("cpu")


def some_digits(n: int, seed: int = 0) -> Digits:
    """Noise, labelled 0 to 9 in turn; the first row of pixels is blank in nine of ten images."""
    images = torch.randint(0, 256, (n, 28, 28), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    images[torch.arange(n) % 10 > 0, 0] = 0
    return Digits(images, torch.arange(n) % 10)


def a_row(goal: str, seconds: float, accuracy: float, ours: bool = True, way: str = "ours") -> dict[str, Any]:
    return {"goal": goal, "way": way, "ours": ours, "seconds": [seconds] * 3, "accuracies": [accuracy] * 3, "prepared": 0.0, "first": 0.0}


def check_trial(folder: Path, device: str) -> None:
    """Runs everything with few digits, and looks at the three files."""
    assert gpu.main(["--device", device, "--quick", "--threads", "1", "--out", str(folder)]) == 0
    report, page = json.loads((folder / "gpu.json").read_text(encoding="utf-8")), (folder / "gpu.md").read_text(encoding="utf-8")
    assert (folder / "gpu.png").read_bytes().startswith(b"\x89PNG")
    assert [g["name"] for g in report["goals"]] == list(gpu.GOALS)
    measured = {row["goal"] for row in report["rows"]}
    assert all((g["reached"] == "not attempted") == (g["name"] not in measured) for g in report["goals"]) and len(measured) >= 7
    assert all(row["way"] in page and min(row["seconds"]) > 0 and 0 <= min(row["accuracies"]) for row in report["rows"])
    theirs = {row["way"] for row in report["rows"] if not row["ours"]}
    assert theirs >= {"tuomaso/train_mnist_fast, written anew", "torch's DataLoader, a loop by hand"}
    assert all(value > 0 for value in report["ceilings"].values()) and len(report["advice"]) == 4 + 2 * len(gpu.STACKS)
    assert all(line in page for line in report["advice"]) and len(report["tried"]) == 12


@pytest.mark.filterwarnings("ignore")
def test_all_of_it_runs_on_the_cpu_with_few_digits(tmp_path: Path) -> None:
    check_trial(tmp_path, "cpu")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_all_of_it_runs_on_a_gpu_with_few_digits(tmp_path: Path) -> None:
    check_trial(tmp_path, "cuda")


def test_a_cpu_is_refused_except_for_a_trial(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu"])
    assert "on a CPU add --quick" in capsys.readouterr().err


def test_fast_training_that_is_not_accurate_enough_misses_its_goal() -> None:
    judged = {g["name"]: g for g in gpu.reached([a_row("G1", 0.001, 0.9899), a_row("G2", 0.001, 0.9951), a_row("G6", 0.013, 0.98)])}
    assert (judged["G1"]["reached"], judged["G2"]["reached"], judged["G3"]["reached"]) == ("missed", "stretch", "not attempted")
    assert judged["G6"]["found"] == pytest.approx(13) and judged["G6"]["reached"] == "missed"


def test_of_our_ways_the_fastest_that_is_accurate_enough_counts() -> None:
    ways = {"too short": (0.2, 0.98), "long": (0.9, 0.993), "right": (0.7, 0.9925)}
    rows = [*(a_row("G5", *found, way=way) for way, found in ways.items()), a_row("G5", 30.0, 0.99, False, "fastai")]
    judged = next(g for g in gpu.reached(rows) if g["name"] == "G5")
    assert (judged["found"], judged["reached"]) == (0.7, "goal") and "(right;" in judged["what"] and judged["against"] == "fastai: 30 s, 99.00 %"


@pytest.mark.parametrize("n_steps", [1, 7, 97, 140, 141, 352, 704, 1407, 2 * 997])
def test_no_step_of_a_run_is_left_over_after_the_recorded_turns(n_steps: int) -> None:
    n = gpu.a_turn(n_steps)
    assert n_steps % n == 0 and (n >= 8 or n == n_steps)


def test_a_change_is_advised_if_it_saves_a_tenth_and_costs_no_accuracy() -> None:
    def tried(n: int, records: bool, how: str, seconds: float) -> dict[str, Any]:
        return {"model": "net", "steps a turn": n, "recorded": records, "products": how, "seconds": [seconds]}

    nets = [tried(1, True, gpu.HALF, 0.5), tried(20, True, gpu.HALF, 0.2), tried(90, True, gpu.HALF, 0.19), tried(20, False, gpu.HALF, 1.0)]
    nets += [tried(20, True, gpu.TF32, 0.3), tried(20, True, gpu.FULL, 0.21)]
    ways = {"fast path, 32 bits, calls one by one": (1.0, 0.98), "fast path, 32 bits, recorded": (0.5, 0.98)}
    ways |= {"fast path, TF32, recorded": (0.4, 0.98), "fast path, bfloat16, recorded": (0.1, 0.95)}
    rows = [a_row("G6", seconds, accuracy, way=way) for way, (seconds, accuracy) in ways.items()]
    assert gpu.advice(rows, nets) == [
        "net, steps: takes recorded turns of 90, which saves 81 % (of 1e+03 ms).",
        "net, products: can stay with 32 bits: bfloat16 saves 5 % (of 210 ms).",
        "ten digits, epochs: takes a recording, which saves 50 % (of 1e+03 ms).",
        "ten digits, products: takes TF32, which saves 20 % (of 500 ms).",
    ]


def test_the_setting_for_products_is_put_back_after_an_error() -> None:
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [setting.fp32_precision for setting in settings]
    with pytest.raises(RuntimeError, match="stop"), gpu.products(gpu.TF32):
        assert [setting.fp32_precision for setting in settings] == ["tf32", "tf32"]
        raise RuntimeError("stop")
    with gpu.products(gpu.FULL):
        assert [setting.fp32_precision for setting in settings] == ["ieee", "ieee"]
    assert [setting.fp32_precision for setting in settings] == before


def test_without_fastai_its_recipes_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "fastai" or name in ("bench.resnet", "bench.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastai", None)
    splits = DigitSplits(some_digits(40), some_digits(20), "some digits", "")
    assert gpu.by_fastai("G5", CPU, splits, tmp_path) is None
    assert gpu.by_learner(gpu.STACKS["ten digits"], splits.train, splits.valid, tmp_path) is None
    assert not any(tmp_path.iterdir())


def test_products_with_16_bits_give_nearly_the_same_weights_and_leave_nothing_to_a_list() -> None:
    stack, digits = gpu.STACKS["ten digits"], some_digits(300)
    ends = {}
    for make in (FastTrainer, gpu.Recordable):
        model = gpu.new(stack, CPU)
        layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        trainer = make(layers, digits.images, stack.slope_targets(digits.labels), stack.slope, 0.1, 100)
        begin = layers[0].weight.detach().clone()
        with torch.no_grad():
            for order in trainer.orders(2):
                trainer.epoch(order)
            trainer.store()
        ends[make] = layers[0].weight.detach() - begin
    full, half = ends.values()
    assert (half - full).norm() / full.norm() < 0.05 and trainer.replayable and len(trainer.rare) == 0


def test_the_runs_take_turns_after_one_of_each_that_does_not_count() -> None:
    calls: list[tuple[str, int]] = []

    def way(name: str, n_seeds: int | None = None) -> gpu.Way:
        return gpu.Way("G1", name, lambda seed: (calls.append((name, seed)) or 0.5, lambda: 0.9), n_seeds=n_seeds)

    rows = gpu.measure_ways([way("usual", 1), way("ours")], gpu.Sizes(seeds=2))
    assert calls == [("usual", 2), ("ours", 2), ("usual", 0), ("ours", 0), ("ours", 1)]
    assert [len(row["seconds"]) for row in rows] == [1, 2]
