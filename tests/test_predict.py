"""`climb predict`: every rung's answer to pictures of the reader's own, and one sentence for whatever is not in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from pixels_to_resnet import climb, predictions, runner
from pixels_to_resnet.data import checksum, load_digits
from pixels_to_resnet.manifest import read_manifest, save_trained
from pixels_to_resnet.predictions import ADVICE, answers_and_scores, known, printable
from tests.odd_pictures import make_odd_pictures

NAMES = [rung.name for rung in climb.RUNGS]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of all rungs: the quick ones for 3 and 7 trained, the others untrained, which is enough to answer."""
    folder, models, facts = tmp_path_factory.mktemp("climb_out") / "weights", {}, {}
    for rung in climb.RUNGS:
        splits = load_digits(rung.task)
        if rung in climb.RUNGS[:3]:
            record, _, models[rung.name] = runner.examine(rung, splits, torch.device("cpu"), seed=0)
        else:
            record, models[rung.name] = {"accuracy": 0.1}, runner.untrained(rung)
        sums = {"train_checksum": checksum(splits.train), "valid_checksum": checksum(splits.valid)}
        facts[rung.name] = {"accuracy": record["accuracy"], "seed": 0, "epochs": None, "data": splits.dataset, **sums}
    save_trained(folder, models, facts)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A 3 and a 7 of the digits in force, enlarged, black on white, and a file that is no picture."""
    folder, found = tmp_path_factory.mktemp("pictures"), {}
    valid = load_digits("mnist_sample").valid
    for label in (3, 7):
        found[str(label)] = folder / f"{label}.png"
        Image.fromarray(255 - valid.of_class(label)[0].numpy()).resize((112, 112)).save(found[str(label)])
    found["text"] = folder / "text.png"
    found["text"].write_text("no picture")
    return found


def predict(weights: Path, *words: object) -> int:
    return climb.main(["predict", *map(str, words), "--weights", str(weights)])


def test_every_rung_names_the_digit(weights: Path, pictures: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert predict(weights, pictures["3"], pictures["7"]) == 0
    said = capfd.readouterr()
    lines = [line.split() for line in said.out.splitlines()]
    head = next(i for i, words in enumerate(lines) if words[:1] == ["picture"])
    assert lines[head] == ["picture", *NAMES] and said.err == ""
    assert lines[head + 1][:4] == ["knows", "3", "or", "7"] and lines[head + 2][1] == f"{read_manifest(weights)['pixel_similarity']['accuracy']:.4f}"
    rows = lines[head + 3 : head + 5]
    assert [row[1::2][1:3] for row in rows] == [["3", "3"], ["7", "7"]], "linear and MLP are right"
    assert all(len(row) == 1 + 2 * len(NAMES) and all(0 <= float(score) <= 1 for score in row[2::2]) for row in rows)
    assert said.out.splitlines()[-1] == ADVICE and "not the chance that it is right" in ADVICE


def test_json_is_all_there_is_and_complete(weights: Path, pictures: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert predict(weights, pictures["3"], pictures["text"], "--json", "--rungs", "mlp", "multiclass") == 2
    said = capfd.readouterr()
    found = json.loads(said.out)
    assert [r["name"] for r in found["rungs"]] == ["mlp", "multiclass"] and found["rungs"][0]["classes"] == [7, 3]
    good, bad = found["pictures"]
    assert good["file"] == str(pictures["3"]) and good["error"] is None and [a["rung"] for a in good["answers"]] == ["mlp", "multiclass"]
    assert good["answers"][0]["answer"] == 3 and 0.5 <= good["answers"][0]["score"] <= 1
    assert bad["answers"] == [] and bad["error"] and said.err == f"climb: {bad['error']}\n"


def test_one_bad_picture_does_not_stop_the_others(weights: Path, pictures: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert predict(weights, pictures["text"], pictures["7"], "nowhere.png", "--rungs", "linear") == 2
    said = capfd.readouterr()
    assert said.err.count("\n") == 2 and all(line.startswith("climb: ") and line.endswith(".") for line in said.err.splitlines())
    assert "7.png" in said.out and "text.png" not in said.out
    assert predict(weights, pictures["text"]) == 2
    assert capfd.readouterr().out == "", "no table without a row"


def test_without_weights_it_says_what_to_do(tmp_path: Path, pictures: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert predict(tmp_path / "nowhere", pictures["3"]) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "run climb first, or name the folder with --weights" in said.err


def test_a_rung_that_cannot_be_loaded_does_not_silence_the_others(
    weights: Path, tmp_path: Path, pictures: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    for file in weights.glob("*.*"):
        if "resnet" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "linear.safetensors").write_bytes(b"x")
    assert predict(tmp_path, pictures["3"]) == 2
    said = capfd.readouterr()
    assert "linear.safetensors has 1 bytes" in said.err and said.err.count("\n") == 3 and "mlp" in said.out and "linear" not in said.out
    assert predict(tmp_path, pictures["3"], "--rungs", "mlp") == 0
    assert predict(tmp_path, pictures["3"], "--rungs", "mlp", "cubic") == 2
    assert "There is no rung 'cubic'" in capfd.readouterr().err
    assert predict(tmp_path, pictures["3"], "--rungs", "linear") == 2
    assert "has no weights that can be used; run climb again" in capfd.readouterr().err


def test_a_score_belongs_to_the_answer() -> None:
    class Fixed(torch.nn.Module):
        def __init__(self, logits: list[float], classes: tuple[int, ...]) -> None:
            super().__init__()
            self.logits, self.classes = torch.tensor(logits), classes

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits.expand(len(x), -1)

    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    for logits, classes, answer, score in [
        ([2.0], (7, 3), 3, 0.8808),
        ([-2.0], (7, 3), 7, 0.8808),
        ([0.0, 1.0, 0.0], (4, 5, 6), 5, 0.5761),
        ([200.0, 0.0], (3, 7), 3, 1.0),
    ]:
        (found,) = answers_and_scores(Fixed(logits, classes), image)
        assert found[0] == answer and abs(found[1] - score) < 1e-4
    assert [known(c) for c in ((7, 3), range(10))] == ["3 or 7", "0 to 9"]


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such names")
def test_names_do_not_garble_the_terminal(weights: Path, tmp_path: Path, pictures: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\x1b[31mred\n\r\x07\u202e\x9b3.png"
    for name, source in ((evil, "3"), ("bad" + evil, "text"), ("x" * 240 + ".png", "3")):
        (tmp_path / name).write_bytes(pictures[source].read_bytes())
    names = [os.fsencode(tmp_path / "\udcff.png"), *(tmp_path / n for n in (evil, "bad" + evil, "x" * 240 + ".png", "missing" + evil))]
    assert predict(weights, *[os.fsdecode(n) for n in names], "--rungs", "linear") == 2
    said = capfd.readouterr()
    assert all(c.isprintable() or c == "\n" for c in said.out + said.err) and "\\x1b[31mred\\n\\r\\x07\\u202e\\x9b3.png" in said.err
    assert said.err.count("\n") == 3 and max(map(len, said.out.splitlines())) < 260
    assert printable("größe 3.png") == "größe 3.png"


PEAK = """
import re, sys
from pixels_to_resnet.climb import main
status = main(sys.argv[1:])
print(status, re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""
BOUND = 200


def in_a_process(weights: Path, *names: Path) -> tuple[int, float, str]:
    """Exit status, peak of the memory in MiB, and standard error of `climb predict`, with every rung."""
    command = [sys.executable, "-c", PEAK, "predict", *map(str, names), "--weights", str(weights)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, errors="backslashreplace")
    status, peak = done.stdout.splitlines()[-1].split()
    return int(status), int(peak) / 1024, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
def test_odd_and_hostile_pictures_each_get_their_sentence_in_little_memory(weights: Path, pictures: dict[str, Path], tmp_path: Path) -> None:
    odd = make_odd_pictures(tmp_path)
    assert len(odd) >= 40
    refused = [name for name, (_, expected) in odd.items() if expected.outcome != "answered"]
    status, alone, _ = in_a_process(weights, pictures["3"])
    assert status == 0
    status, peak, said = in_a_process(weights, *(path for path, _ in odd.values()))
    lines = said.splitlines()
    assert status == 2 and "Traceback" not in said and len(lines) == len(refused), (len(lines), len(refused), said)
    for name, line in zip(refused, lines):
        assert line.startswith("climb: ") and line.endswith(".") and line.isprintable(), (name, line)
        assert printable(odd[name][0].name)[-40:] in line or len(odd[name][0].name) > 100, (name, line)
    print(f"peak {peak:.0f} MiB, {alone:.0f} MiB for one ordinary picture")
    assert peak - alone < BOUND, f"{peak:.0f} MiB at most, {alone:.0f} for one ordinary picture"


def test_without_the_word_nothing_has_changed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["3.png"], ["--quiet", "predict"], ["predict"], ["predict", "--list"]):
        with pytest.raises(SystemExit) as stopped:
            climb.main(words)
        assert stopped.value.code == 2 and "error:" in capfd.readouterr().err
    assert climb.main(["--list"]) == 0 and [line.split()[0] for line in capfd.readouterr().out.splitlines()] == NAMES


def test_trouble_of_the_system_is_a_sentence_too(
    weights: Path, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(name: str) -> None:
        raise MemoryError

    monkeypatch.setattr("pixels_to_resnet.own_images.read_digit", refuse)
    assert predict(weights, pictures["3"], "--rungs", "linear") == 2
    assert "cannot be read (MemoryError); save it again as PNG." in capfd.readouterr().err
    assert predictions.read_pictures([], print) == []
