"""bench/bands.py: what it trains, how it judges, the page it writes. The full run is `python -m bench.bands`."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import bands
from pixels_to_resnet.data import load_digits
from pixels_to_resnet.linear import LinearModel


def test_the_accuracy_is_noted_after_each_number_of_epochs_asked_for() -> None:
    splits = load_digits("mnist_sample")
    first, second = bands.trained(LinearModel, splits, 1.0, (1, 2), True, seed=0)
    assert [first] == bands.trained(LinearModel, splits, 1.0, (1,), True, seed=0)
    assert 0.9 < first < 0.99 and 0.9 < second < 0.99
    assert bands.trained(LinearModel, splits, 1.0, (1,), True, seed=1) != [first]


def test_sorted_digits_end_the_first_epoch_at_always_3() -> None:
    assert bands.trained(LinearModel, load_digits("mnist_sample"), 1.0, (1,), False, seed=0) == [pytest.approx(1010 / 2038)]


def test_a_result_outside_the_reference_is_counted_as_such() -> None:
    assert bands.verdict([0.9819, 0.98185, 0.9829], (0.9819, 0.9829)) == "3 of 3 inside 0.9819 to 0.9829"
    assert bands.verdict([0.9814, 0.9834, 0.9825], (0.9819, 0.9829)) == "1 of 3 inside 0.9819 to 0.9829"
    assert bands.verdict([0.5], None) == ""


def test_every_reference_belongs_to_a_way_and_an_epoch_that_are_measured() -> None:
    assert set(bands.REFERENCE) <= {(name, epoch) for name, epochs, _ in bands.WAYS for epoch in epochs}


def test_the_page_and_the_data_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bands, "WAYS", [("one epoch", (1,), lambda splits, seed: bands.trained(LinearModel, splits, 1.0, (1,), True, seed))])
    assert bands.main(["--seeds", "2", "--data", "standin", "--out", str(tmp_path)]) == 0
    page, report = (tmp_path / "bands.md").read_text(encoding="utf-8"), json.loads((tmp_path / "bands.json").read_text(encoding="utf-8"))
    assert capsys.readouterr().out == page and "| stand-in | one epoch | 1 |" in page
    assert [len(row["accuracies"]) for row in report["rows"]] == [2]


def test_the_saved_results_are_inside_the_reference_results() -> None:
    """What bench/bands.json holds of the trained models with small starts; the large start's reference came from ten other draws."""
    report = json.loads((bands.HERE / "bands.json").read_text(encoding="utf-8"))
    found = {(row["way"], row["epochs"]): row for row in report["rows"] if row["digits"] == "MNIST"}
    first = found[bands.WAYS[1][0], 1]
    assert first["accuracies"] == [pytest.approx(1010 / 2038)] * 10
    for way, epochs in ((1, 20), (2, 20), (4, 40)):
        row = found[bands.WAYS[way][0], epochs]
        assert bands.verdict(row["accuracies"], bands.REFERENCE[row["way"], epochs]).startswith("10 of 10"), row
