"""`climb --junit`: what build servers read, in every case, also when the climb ends early."""
from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from pixels_to_resnet import climb, data, fast_path, runner
from pixels_to_resnet.data import Digits, load_digits
from pixels_to_resnet.rungs import ClimbError
from pixels_to_resnet.scoreboard import junit_xml

COUNT, SECONDS, TEXT = r"\d+", r"\d+\.\d{3}", r"(?s).+"
SUITE = {
    "name": TEXT, "tests": COUNT, "failures": COUNT, "errors": COUNT, "skipped": COUNT, "time": SECONDS,
    "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "hostname": TEXT,
}  # fmt: skip
ATTRIBUTES = {
    "property": {"name": TEXT, "value": r"(?s).*"}, "testcase": {"classname": TEXT, "name": TEXT, "time": SECONDS},
    "failure": {"message": TEXT, "type": TEXT}, "error": {"message": TEXT, "type": TEXT}, "skipped": {"message": TEXT},
    "properties": {}, "system-out": {}, "system-err": {},
}  # fmt: skip


def faults(suite: ElementTree.Element) -> list[str]:
    """What the schemas of Ant and of Jenkins would both accept, as far as it is used here: complaints."""
    order = " ".join(part.tag for part in suite)
    found = [] if re.fullmatch(r"properties( testcase)+ system-out system-err", order) else [f"a suite of {order}"]
    for element in suite.iter():
        wanted = SUITE if element is suite else ATTRIBUTES.get(element.tag, {"": ""})
        if element.keys() - wanted.keys() or wanted.keys() - element.keys():
            found.append(f"{element.tag} has {sorted(element.keys())}")
        found += [f"{element.tag}: {key} is {text!r}" for key, text in element.items() if not re.fullmatch(wanted.get(key, ""), text)]
    kinds = [part.tag for part in suite.iterfind("testcase/*")]
    counted = {
        "tests": len(suite.findall("testcase")),
        **{f"{kind}s": kinds.count(kind) for kind in ("failure", "error")},
        "skipped": kinds.count("skipped"),
    }
    found += [f"{key} is {suite.get(key)}, not {n}" for key, n in counted.items() if suite.get(key) != str(n)]
    return found + ["two verdicts about one case" for case in suite.iter("testcase") if len(case) > 1]


def fit_one_epoch(train: Digits, epochs: int | None = None, seed: int = 0) -> torch.nn.Module:
    return fast_path.fit_linear(train, epochs=1, seed=seed)


def fit_no_numbers(train: Digits, epochs: int | None = None, seed: int = 0) -> torch.nn.Module:
    raise FloatingPointError("the loss is \x1b[31m <nan> & \x00 \ud800; choose a smaller learning rate.")


def fit_too_much(train: Digits, epochs: int | None = None, seed: int = 0) -> torch.nn.Module:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB.")


def fit_until_interrupted(train: Digits, epochs: int | None = None, seed: int = 0) -> torch.nn.Module:
    raise KeyboardInterrupt


def rung(name: str, fit: object = fit_one_epoch, bands: dict | None = None) -> climb.Rung:
    return climb.Rung(name, "", "mnist_sample", fit, {"stand-in": (0.5, 1.0)} if bands is None else bands)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_digits("mnist_sample", "standin", lambda line: None)
    monkeypatch.setattr(data, "load_digits", lambda *ignored: digits)
    monkeypatch.setattr(runner, "_picture", lambda *ignored: b"PNG")


def climb_to(folder: Path, *rungs: climb.Rung, words: tuple[str, ...] = ()) -> tuple[int, ElementTree.Element]:
    """The status of a climb, and what its file for build servers says."""
    file = folder / "a folder" / "climb.xml"
    status = climb.main(["--quiet", "--device", "cpu", "--data", "standin", "--out", str(folder / "out"), "--junit", str(file), *words], rungs)
    assert [path.name for path in file.parent.iterdir()] == ["climb.xml"]
    suite = ElementTree.fromstring(file.read_bytes())
    assert faults(suite) == []
    return status, suite


def verdicts(suite: ElementTree.Element) -> dict[str, list[str]]:
    return {case.get("name"): [part.tag for part in case] for case in suite.iter("testcase")}


def test_a_case_for_each_rung_and_the_facts_as_properties(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rungs = rung("good"), rung("low", bands={"stand-in": (0.999, 1.0)}), rung("unknown", bands={})
    status, suite = climb_to(tmp_path, *rungs, words=("--seed", "3"))
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert status == 0 and verdicts(suite) == {"good": [], "low": ["failure"], "unknown": ["skipped"]}
    accuracy = report["rungs"][1]["accuracy"]
    assert suite.find("testcase/failure").get("message") == f"accuracy {accuracy:.4f} is outside the band from 0.999 to 1.0"
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert properties["seed"] == "3" and properties["device.type"] == "cpu" and properties["versions.torch"] == report["versions"]["torch"]
    assert properties["data.mnist_sample.checksum.train"] == report["data"]["mnist_sample"]["checksum"]["train"]
    for case, record in zip(suite.iter("testcase"), report["rungs"]):
        assert float(case.get("time")) == pytest.approx(sum(record["seconds"].values()), abs=0.001)
    assert "climb.xml" in capfd.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("fit, message, status", [
    (fit_no_numbers, r"The training of wild failed: the loss is \x1b[31m <nan> & \x00 \ud800; choose a smaller learning rate.", 2),
    (fit_too_much, "There is not enough memory on cpu for the rung wild; end other programs", 2),
    (fit_until_interrupted, "KeyboardInterrupt", 130),
])  # fmt: skip
def test_a_climb_that_ends_early_says_where_and_why(
    fit: object, message: str, status: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found, suite = climb_to(tmp_path, rung("good"), rung("wild", fit), rung("never"))
    assert found == status and verdicts(suite) == {"good": [], "wild": ["error"], "never": ["skipped"]}
    assert suite.find("testcase/error").get("message").startswith(message)
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_request_that_cannot_be_met_is_an_error_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, suite = climb_to(tmp_path, rung("good"), words=("--rungs", "better"))
    assert status == 2 and verdicts(suite) == {"climb": ["error"]}
    assert suite.find("testcase/error").get("message") == "There is no rung 'better'; choose from good."


def test_an_error_while_saving_is_not_taken_for_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def save(*ignored: object) -> None:
        raise ClimbError("the disk is full.")

    monkeypatch.setattr("pixels_to_resnet.results.save_climb", save)
    status, suite = climb_to(tmp_path, rung("good"))
    assert status == 2 and verdicts(suite) == {"good": [], "climb": ["error"]}


def test_a_file_that_cannot_be_written_is_found_out_before_the_climb(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("precious")
    for name, sentence in (("taken", "taken is a folder; move it away"), ("file/climb.xml", "choose another folder with --junit")):
        words = ["--quiet", "--device", "cpu", "--out", str(tmp_path / "out"), "--junit", str(tmp_path / name)]
        assert climb.main(words, [rung("wild", fit_until_interrupted)]) == 2
        said = capfd.readouterr().err
        assert sentence in said and said.count("\n") == 1
    assert (tmp_path / "file").read_text() == "precious"


def test_the_schema_check_can_fail() -> None:
    good = junit_xml({}, ["a"], "why")
    assert faults(ElementTree.fromstring(good)) == []
    for before, after in ((b'errors="1"', b'errors="0"'), (b'time="0.000"', b'time="0"'), (b'message="why"', b""), (b"<properties />", b"")):
        assert before in good and faults(ElementTree.fromstring(good.replace(before, after)))
