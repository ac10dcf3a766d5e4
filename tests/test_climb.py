"""The command `climb`: what it prints, saves and returns, on the digits in force and on bad requests."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pixels_to_resnet import climb, fast_path, pixel_similarity, runner
from pixels_to_resnet.data import Digits, DigitSplits, load_digits
from pixels_to_resnet.idx import IDX_FILES, idx_bytes
from pixels_to_resnet.layouts import LAYOUTS
from pixels_to_resnet.manifest import load_trained, read_manifest

BIN = Path(sys.executable).parent
QUICK = climb.FIRST_RUNGS
NAMES = [rung.name for rung in QUICK]


def call(tmp_path: Path, *words: str, rungs: tuple[climb.Rung, ...] = QUICK) -> int:
    """`climb` with `words`, in this process, on the CPU, into a folder of its own."""
    return climb.main([*words, "--quiet", "--device", "cpu", "--out", str(tmp_path / "out")], rungs)


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One real run of the console script with --json and --check."""
    out = tmp_path_factory.mktemp("climb") / "a folder" / "out"
    command = [str(BIN / "climb"), "--json", "--check", "--out", str(out), "--rungs", *NAMES]
    return subprocess.run(command, capture_output=True, text=True, timeout=300), out


def test_the_console_script_prints_only_json_and_saves_the_same(climbed: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, out = climbed
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (out / "scoreboard.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == ["report.json", "scoreboard.png", "weights"]
    saved = sorted(p.name for p in (out / "weights").iterdir() if not p.name.startswith("."))
    assert saved == ["linear.safetensors", "manifest.json", "mlp.safetensors", "pixel_similarity.safetensors"]


def test_the_weights_load_with_a_check_of_all_of_it(climbed: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    splits, report = load_digits("mnist_sample"), json.loads(climbed[0].stdout)
    for rung, record in zip(QUICK, report["rungs"]):
        model, entry = load_trained(climbed[1] / "weights", rung.name, lambda rung=rung: runner.untrained(rung), splits)
        assert (entry["accuracy"], entry["n_parameters"]) == (record["accuracy"], record["n_parameters"]) and not model.training
        assert entry["train_checksum"] == report["data"]["mnist_sample"]["checksum"]["train"] and entry["data"] == splits.dataset


@pytest.mark.parametrize("rung", climb.RUNGS, ids=lambda rung: rung.name)
def test_every_rung_fits_few_digits_and_its_model_can_be_rebuilt(rung: climb.Rung) -> None:
    splits = load_digits(rung.task)
    these = torch.cat([(splits.train.labels == c).nonzero()[:13, 0] for c in LAYOUTS[rung.task].classes])
    few = Digits(splits.train.images[these], splits.train.labels[these])
    record, answers, model = runner.examine(rung, DigitSplits(few, few, splits.dataset, "here"), torch.device("cpu"), epochs=1)
    again = runner.untrained(rung)
    assert type(again) is type(model) and tuple(again.classes) == tuple(model.classes) and not model.training
    assert {n: (t.shape, t.dtype) for n, t in again.state_dict().items()} == {n: (t.shape, t.dtype) for n, t in model.state_dict().items()}
    assert record["n_parameters"] == sum(p.numel() for p in again.parameters()) and set(answers.tolist()) <= set(few.labels.tolist())
    assert set(rung.bands) == {"MNIST", "stand-in"} and all(0.5 < low < high <= 1 for low, high in rung.bands.values())


def test_the_report_says_what_it_was_made_from(climbed: tuple[subprocess.CompletedProcess[str], Path], data_in_force: str) -> None:
    report = json.loads(climbed[0].stdout)
    data = report["data"]["mnist_sample"]
    assert data["name"] == {"mnist": "MNIST", "standin": "stand-in"}[data_in_force]
    assert (data["n_train"], data["n_valid"]) == (12396, 2038)
    assert all(len(data["checksum"][part]) == 16 for part in ("train", "valid"))
    assert data["is_mnist"] is (data_in_force == "mnist") and data["classes"] == [3, 7]
    assert set(report["versions"]) == {"pixels_to_resnet", "python", "torch", "numpy"}
    assert report["seed"] == 0 and report["device"]["type"] in ("cpu", "cuda", "mps")
    assert (report["processes"], report["deterministic"], [rung["continued"] for rung in report["rungs"]]) == (1, False, [False] * 3)
    assert [rung["name"] for rung in report["rungs"]] == ["pixel_similarity", "linear", "mlp"]
    assert [rung["n_parameters"] for rung in report["rungs"]] == [2 * 784, 785, 785 * 30 + 31]
    assert all(rung["within_band"] is True and rung["seconds"]["fit"] > 0 and rung["images_per_second"] > 0 for rung in report["rungs"])


def test_the_published_numbers(climbed: tuple[subprocess.CompletedProcess[str], Path], data_in_force: str) -> None:
    rung = json.loads(climbed[0].stdout)["rungs"][0]
    found = rung["accuracy_by_class"]["3"], rung["accuracy_by_class"]["7"], rung["mean_of_classes"]
    if data_in_force == "mnist":
        assert tuple(round(share, 4) for share in found) == (0.9168, 0.9854, 0.9511)
        assert round(rung["accuracy"] * 2038) == 1939
    else:
        assert 0.75 < found[0] < 0.81 and 0.94 < found[1] < 1 and 0.85 < found[2] < 0.91


@pytest.mark.parametrize("rung", QUICK[1:], ids=lambda rung: rung.name)
def test_other_seeds_end_in_the_band_too(rung: climb.Rung, data_in_force: str) -> None:
    splits = load_digits(rung.task)
    for seed in (1, 2, 3):
        record, _, _ = runner.examine(rung, splits, torch.device("cpu"), seed=seed)
        assert record["within_band"] is True, f"seed {seed}: {record['accuracy']} is not in {record['band']}"


def test_epochs_and_seed_reach_the_rung(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = []
    for words in (["--epochs", "1"], ["--epochs", "2"], ["--epochs", "1", "--seed", "1"]):
        assert call(tmp_path, "--rungs", "linear", *words) == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
        assert [report["epochs"], report["seed"]] == [int(words[1]), int(words[3]) if len(words) > 2 else 0]
        found.append(tuple(report["rungs"][0]["accuracy_by_class"].values()))
    assert len(set(found)) == 3 and all(min(shares) > 0.5 for shares in found)


def fit_to_nan(train: Digits, epochs: int | None, seed: int) -> torch.nn.Module:
    model = fast_path.fit_linear(train, epochs=1, seed=seed)
    torch.nn.init.constant_(model.linear.bias, float("nan"))
    return model


def fit_too_fast(train: Digits, epochs: int | None, seed: int) -> torch.nn.Module:
    return fast_path.fit_linear(train, epochs=3, seed=seed, learning_rate=float("inf"))


def fit_and_notice(train: Digits, epochs: int | None, seed: int) -> torch.nn.Module:
    raise FloatingPointError("the loss is nan; choose a smaller learning rate.")


FAILURES = [
    (fit_to_nan, "its weights are no longer numbers; try another --seed or fewer --epochs."),
    (fit_too_fast, "The weights are not finite; begin again with a smaller learning rate."),
    (fit_and_notice, "the loss is nan; choose a smaller learning rate."),
]


@pytest.mark.parametrize("fit, sentence", FAILURES)
def test_a_training_that_fails_is_one_sentence(fit: object, sentence: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, rungs=(climb.Rung("wild", "too far", "mnist_sample", fit, {}),)) == 2
    said = capfd.readouterr()
    assert said.err.splitlines()[-1] == f"climb: The training of wild failed: {sentence}" and "Traceback" not in said.err and said.out == ""
    assert not list(tmp_path.glob("out/*"))


def test_a_second_run_gives_the_same_report_but_for_the_clock(climbed: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path) -> None:
    assert call(tmp_path) == 0
    again, first = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")), json.loads(climbed[0].stdout)
    for report in (again, first):
        report.pop("finished")
        report.pop("device")
        for rung in report["rungs"]:
            rung.pop("seconds")
            rung.pop("images_per_second")
    assert again == first


def test_python_m_works_and_lists_the_rungs() -> None:
    done = subprocess.run([sys.executable, "-m", "pixels_to_resnet.climb", "--list"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [rung.name for rung in climb.RUNGS]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pixels_to_resnet.climb import make_parser; make_parser().format_help();"
        "print(sorted({'torch', 'numpy', 'matplotlib', 'fastai', 'sklearn', 'tqdm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.strip() == "[]"
    assert "climb predict IMAGE..." in " ".join(climb.make_parser().format_help().split())


def test_help_and_list_are_quick(capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["predict", "--help"], ["--list"]):
        command = [sys.executable, "-X", "importtime", "-m", "pixels_to_resnet.climb", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and ("usage: climb" if "--help" in words else "pixel_similarity  ") in done.stdout
        imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "|" in line}
        assert not imported & {"torch", "numpy", "PIL", "matplotlib", "fastai", "sklearn", "tqdm"}


BAD_REQUESTS = {
    "an unknown rung": (["--rungs", "resnet_9000"], "There is no rung 'resnet_9000'; choose from pixel_similarity, linear, mlp, multiclass,"),
    "a GPU that is not there": (["--device", "cuda"], "PyTorch finds no cuda device here"),
    "an IDX folder that is not there": (["--data", "mnist"], "does not exist"),
}


@pytest.mark.parametrize("words, sentence", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_gets_one_sentence_and_status_2(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("FASTAI_HOME", str(tmp_path / "fastai"))
    monkeypatch.setenv("PIXELS_TO_RESNET_IDX", str(tmp_path / "nowhere"))
    assert climb.main([*words, "--quiet", "--out", str(tmp_path / "out")]) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.startswith("climb: ") and said.err.count("\n") == 1 and sentence in said.err
    assert not list(tmp_path.glob("out/*"))


REFUSED = "--epochs 0|--epochs many|--data cifar|--device abacus|--no-such-flag|--seed -1|--seed " + "9" * 30


@pytest.mark.parametrize("words", [words.split() for words in REFUSED.split("|")])
def test_a_word_the_parser_does_not_know_is_refused(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        climb.main(words)
    assert refused.value.code == 2 and "climb: error:" in capfd.readouterr().err


def test_an_output_folder_that_is_a_file_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("precious")
    assert call(tmp_path) == 2
    said = capfd.readouterr().err
    assert str(tmp_path / "out") in said and "Traceback" not in said
    assert (tmp_path / "out").read_text() == "precious"


def test_check_rejects_a_result_outside_its_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def fit_spoiled(train: object, epochs: int | None, seed: int) -> pixel_similarity.PixelSimilarity:
        model = pixel_similarity.fit_pixel_similarity(train, epochs, seed)
        model.classes = model.classes[::-1]
        return model

    monkeypatch.setattr(pixel_similarity, "fit_spoiled", fit_spoiled, raising=False)
    spoiled = climb.Rung("spoiled", "classes swapped", "mnist_sample", "pixel_similarity:fit_spoiled", climb.RUNGS[0].bands)
    assert call(tmp_path, "--check", rungs=(*QUICK, spoiled)) == 1
    said = capfd.readouterr()
    assert "OUTSIDE" in said.out and "spoiled" in said.err and "pixel_similarity" not in said.err
    assert call(tmp_path, rungs=(*QUICK, spoiled)) == 0


def test_check_rejects_digits_for_which_nothing_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for (images, labels), n in zip(IDX_FILES.values(), (400, 100)):
        (tmp_path / images).write_bytes(idx_bytes(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)))
        (tmp_path / labels).write_bytes(idx_bytes(np.arange(n, dtype=np.uint8) % 10))
    monkeypatch.setenv("FASTAI_HOME", str(tmp_path / "fastai"))
    monkeypatch.setenv("PIXELS_TO_RESNET_IDX", str(tmp_path))
    assert call(tmp_path) == 0
    assert "unknown digits" in capfd.readouterr().out
    assert call(tmp_path, "--check") == 1


def test_a_new_rung_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = climb.Rung("twin", "the same again", "mnist_png", "pixel_similarity:fit_pixel_similarity", {"MNIST": (0.66, 0.67), "stand-in": (0.6, 0.7)})
    assert call(tmp_path, "--check", rungs=(*QUICK, line)) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [r["name"] for r in report["rungs"]] == [*NAMES, "twin"]
    assert report["data"]["mnist_png"]["n_valid"] == 10_000 and len(report["rungs"][-1]["accuracy_by_class"]) == 10
    said = capfd.readouterr().out
    assert "worst" in said and "twin              0 to 9" in said and "asked about different digits cannot be compared" in said


def test_examine_agrees_with_counting_by_hand() -> None:
    images = torch.zeros(6, 28, 28, dtype=torch.uint8)
    images[3:] = 255
    digits = Digits(images, torch.tensor([3, 3, 3, 7, 7, 3]))
    splits = DigitSplits(Digits(images[[0, 3]], torch.tensor([3, 7])), digits, "tiny", "here")
    record, answers, _ = runner.examine(climb.RUNGS[0], splits, torch.device("cpu"))
    assert answers.tolist() == [3, 3, 3, 7, 7, 7]
    assert record["accuracy"] == 5 / 6 and record["accuracy_by_class"] == {"3": 3 / 4, "7": 1.0}
    assert record["band"] is None and record["within_band"] is None


@pytest.mark.skipif(os.name == "nt", reason="signals work differently on Windows")
def test_an_interrupt_leaves_nothing_half_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, time; from pixels_to_resnet import climb, pixel_similarity as p; fit = p.fit_pixel_similarity\n"
        "def slow(*a, **k): print('fitting', flush=True); time.sleep(60); return fit(*a, **k)\n"
        f"p.fit_pixel_similarity = slow; sys.exit(climb.main(['--quiet', '--out', {str(out)!r}], climb.RUNGS[:3]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "fitting\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130 and "interrupted" in said and "Traceback" not in said
    assert not list(out.glob("*"))


@pytest.mark.skipif(os.name == "nt", reason="signals work differently on Windows")
@pytest.mark.parametrize("seconds", [0.4, 0.9, 1.6])
def test_an_early_interrupt_says_one_line(seconds: float, tmp_path: Path) -> None:
    """During the imports, too, where some libraries swallow an interrupt or fall over it."""
    command = [sys.executable, "-m", "pixels_to_resnet.climb", "--quiet", "--out", str(tmp_path / "out"), "--rungs", *NAMES]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode in (0, 130) and "Traceback" not in said
    assert not list(tmp_path.glob("out/.*"))


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell is needed")
@pytest.mark.parametrize(
    "line, status, json_on_stdout",
    [
        ("climb --json --quiet --rungs linear 2>&-", 0, True),
        ("climb --rungs linear 2>&-", 0, False),
        ("climb --list | true; exit ${PIPESTATUS[0]}", None, False),
    ],
)
def test_odd_streams_cause_no_traceback(line: str, status: int | None, json_on_stdout: bool, tmp_path: Path) -> None:
    line = line.replace("climb", f"'{BIN / 'climb'}' --out '{tmp_path / 'out'}'", 1)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=300)
    assert status is None or done.returncode == status, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    if json_on_stdout:
        assert json.loads(done.stdout)["rungs"]


def test_a_name_the_terminal_cannot_show_is_no_reason_to_fail(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pixels_to_resnet.climb", "--quiet", "--out", str(tmp_path / "caf\u00e9"), "--rungs", *NAMES]
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_a_report_that_cannot_be_saved_is_found_out_before_the_climb(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / "report.json").mkdir(parents=True)
    assert call(tmp_path) == 2
    said = capfd.readouterr()
    assert said.out == "" and "report.json is a folder" in said.err
    (tmp_path / "out" / "report.json").rmdir()
    (tmp_path / "out" / "weights").write_text("precious")
    assert call(tmp_path) == 2
    assert "weights cannot be used for the report" in capfd.readouterr().err and (tmp_path / "out" / "weights").read_text() == "precious"
    (tmp_path / "out" / "weights").unlink()
    (tmp_path / "out" / "weights" / "mlp.safetensors").mkdir(parents=True)
    assert call(tmp_path) == 2
    assert "mlp.safetensors is a folder; move it away" in capfd.readouterr().err


def test_what_is_not_printable_in_a_request_does_not_reach_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert climb.main(["--rungs", "x\x1b[31m\n", "--out", str(tmp_path / "out")]) == 2
    (tmp_path / "red\x1b[31m").write_text("a file")
    assert climb.main(["--rungs", "linear", "--out", str(tmp_path / "red\x1b[31m")]) == 2
    with pytest.raises(SystemExit):
        climb.main(["--data", "x\x1b[31m"])
    said = capfd.readouterr().err
    assert "\x1b" not in said and said.count("\\x1b[31m") == 3


def test_only_some_rungs_leave_the_weights_of_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "--rungs", "pixel_similarity", "linear", "--epochs", "1") == 0
    weights = tmp_path / "out" / "weights"
    before, kept = read_manifest(weights), (weights / "pixel_similarity.safetensors").read_bytes()
    assert call(tmp_path, "--rungs", "linear", "mlp", "--epochs", "2") == 0
    after = read_manifest(weights)
    assert list(after) == ["pixel_similarity", "linear", "mlp"] and after["pixel_similarity"] == before["pixel_similarity"]
    assert (before["linear"]["epochs"], after["linear"]["epochs"]) == (1, 2) and before["linear"]["sha256"] != after["linear"]["sha256"]
    assert (weights / "pixel_similarity.safetensors").read_bytes() == kept
    for rung in QUICK:
        load_trained(weights, rung.name, lambda rung=rung: runner.untrained(rung), load_digits(rung.task))


def test_a_rung_that_cannot_be_rebuilt_is_not_saved(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, rungs=(climb.Rung("twin", "", "mnist_sample", "pixel_similarity:fit_pixel_similarity", {}),)) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.json", "scoreboard.png"]
    assert "weights" not in capfd.readouterr().out


def test_data_mnist_takes_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for (images, labels), n in zip(IDX_FILES.values(), (40, 20)):
        (tmp_path / images).write_bytes(idx_bytes(np.zeros((n, 28, 28), np.uint8)))
        (tmp_path / labels).write_bytes(idx_bytes(np.arange(n, dtype=np.uint8) % 10))
    monkeypatch.setenv("FASTAI_HOME", str(tmp_path / "fastai"))
    monkeypatch.setenv("PIXELS_TO_RESNET_IDX", str(tmp_path))
    assert call(tmp_path, "--data", "mnist") == 2
    assert "MNIST was not found (PIXELS_TO_RESNET_IDX names unknown digits" in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals work differently on Windows")
def test_a_request_to_end_leaves_nothing_half_written(tmp_path: Path) -> None:
    """SIGTERM is what a build server sends when its time is up, and `torchrun` when another process has died."""
    out = tmp_path / "out"
    code = (
        "import sys, time; from pixels_to_resnet import climb, runner\n"
        "def slow(*a): print('drawing', flush=True); time.sleep(60)\n"
        f"runner._picture = slow; sys.exit(climb.main(['--quiet', '--out', {str(out)!r}], climb.RUNGS[:1]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "drawing\n"
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 143 and "interrupted" in said and "Traceback" not in said
    assert not list(out.glob("*"))


def test_a_signal_handler_of_the_caller_is_put_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert call(tmp_path, "--rungs", "resnet_9000") == 2 and call(tmp_path, "--rungs", "pixel_similarity") == 0
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
