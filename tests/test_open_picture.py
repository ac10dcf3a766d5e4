"""Any picture a reader may have is opened upright and small, or refused in one sentence; nothing is printed and memory stays bounded."""
from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from pixels_to_resnet import open_picture as module
from pixels_to_resnet.idx import DataError
from pixels_to_resnet.open_picture import MAX_DECODED_BYTES, MAX_FILE_BYTES, MAX_SIDE, on_paper, open_picture
from tests.odd_pictures import Expectation, digit, fine_pictures, make_odd_pictures, packed_zeros, png_claiming, saved

Made = dict[str, tuple[Path, Expectation]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The odd pictures, written once."""
    return make_odd_pictures(tmp_path_factory.mktemp("odd"))


def fate(path: Path) -> tuple[str, str]:
    """What `open_picture` did with a file, in words."""
    try:
        picture = open_picture(path)
    except DataError as e:
        return "refused", str(e)
    assert picture.image.mode == "RGBA" and max(picture.image.size) <= MAX_SIDE
    return "opened", " ".join(picture.remarks)


def test_every_odd_picture_meets_its_fate(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    """All of them: the outcome, the words, one line, the name, no remark where none is due, and nothing printed."""
    assert len(made) > 100
    wrong = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, (path, expected) in made.items():
            outcome, text = fate(path)
            good = (outcome == "refused") == (expected.outcome == "refused") and expected.words in text and text.isprintable()
            if outcome == "refused":
                good &= text.endswith(".") and module.one_line(path)[:60] in text and len(text) < 400
            else:
                good &= bool(text) == bool(expected.words)
            if not good:
                wrong.append((name, expected, outcome, text))
    assert not wrong
    assert capfd.readouterr() == ("", "")


def test_damaged_bytes_raise_nothing_but_data_errors_and_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """A thousand spoilt copies of small pictures of all kinds, with PIL's and libtiff's complaints kept quiet."""
    rng = np.random.default_rng(0)
    pool = [data for data, _ in fine_pictures().values() if len(data) < 60_000]
    outcomes = {True: 0, False: 0}
    for i in range(1000):
        data = bytearray(pool[i % len(pool)])
        places = rng.integers(0, min(len(data), (40, 400, 60_000)[i % 3]), (1, 3, 20)[i // 3 % 3])
        for place, value in zip(places, rng.integers(0, 256, len(places))):
            data[place] = value
        try:
            outcomes[open_picture(bytes(data)).image.mode == "RGBA"] += 1
        except DataError as e:
            outcomes[False] += 1
            assert str(e).isprintable()
    assert min(outcomes.values()) > 100
    assert capfd.readouterr() == ("", "")


def test_every_digit_comes_out_upright_and_dark_on_light(made: Made) -> None:
    """What is marked as answered shows the digit, whatever it was turned, packed or laid under."""
    wanted = np.asarray(digit(56)) / 255
    for name, (path, expected) in made.items():
        if expected.outcome != "answered":
            continue
        seen = np.asarray(on_paper(open_picture(path).image).convert("L").resize((56, 56))) / 255
        likeness = np.corrcoef(wanted.ravel(), seen.ravel())[0, 1]
        assert (-likeness if name == "white_on_black.png" else likeness) > 0.85, (name, likeness)


def test_bytes_are_opened_like_their_file(made: Made) -> None:
    """As ipywidgets' FileUpload hands them over: bytes or a memoryview, with a name."""
    path = made["turned_6.jpg"][0]
    for data in (path.read_bytes(), memoryview(path.read_bytes())):
        picture = open_picture(data, name="upload.png")
        assert picture.image == open_picture(path).image
        assert picture.remarks == ("It is a JPEG file in spite of its name.", "It was turned upright, as its EXIF data says.")
    with pytest.raises(DataError, match=r"^my\\nphoto is empty"):
        open_picture(b"", name="my\nphoto")
    with pytest.raises(DataError, match="^The picture is a text"):
        open_picture(b"text")


@pytest.mark.parametrize("name", ["a\0b.png", "\udcff.png", "\u202egnp.exe", "", " "])
def test_names_that_no_file_has_stay_in_one_sentence(name: str) -> None:
    """Null bytes, lone surrogates, marks that turn the text around."""
    with pytest.raises(DataError) as caught:
        open_picture(name)
    assert str(caught.value).isprintable()
    str(caught.value).encode("utf-8")


def test_nothing_global_changes_and_files_are_closed(made: Made) -> None:
    """PIL's limits, Python's filters of warnings, and open files are as before."""
    def state() -> tuple[object, ...]:
        open_files = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters), open_files

    for path in (made["grey.png"][0], made["cut.jpg"][0]):
        fate(path)
    before = state()
    for path, _ in made.values():
        fate(path)
    assert state() == before


def test_threads_do_not_disturb_each_other(made: Made) -> None:
    """Eight threads over the same pictures: the same fates, and the filters of warnings as before."""
    small = [path for path, _ in made.values() if not path.name.startswith(("huge", "bomb", "thousands", "many"))]
    alone, before, together = [fate(path) for path in small], list(warnings.filters), []
    threads = [threading.Thread(target=lambda: together.append([fate(path) for path in small])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [alone] * 8
    assert list(warnings.filters) == before


def test_a_limit_of_the_readers_own_is_respected(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has lowered PIL's limit gets a sentence, not PIL's error."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "pixels" in fate(made["grey.png"][0])[1]


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it takes the place of the file after the first look."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes in folders")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "file.png").write_bytes(saved(digit(), "PNG"))
    regular, look = os.stat(tmp_path / "file.png"), os.stat
    monkeypatch.setattr(module.os, "stat", lambda path, **how: regular if str(path).endswith("pipe.png") else look(path, **how))
    assert "no regular file" in fate(tmp_path / "pipe.png")[1]


def test_a_large_palette_keeps_its_transparency() -> None:
    """Reduced band by band, transparent pixels stay transparent and lend no colour to their neighbours."""
    image = Image.new("P", (4100, 4100), 1)
    image.putpalette([10, 20, 30, 255, 0, 255])
    image.paste(0, (0, 0, 2050, 4100))
    small = open_picture(saved(image, "PNG", transparency=1)).image
    assert small.getpixel((0, 700)) == (10, 20, 30, 255)
    assert small.getpixel((small.width - 1, 700))[3] == 0
    edge = np.asarray(small)[700]
    assert np.abs(edge[edge[:, 3] > 0, :3].astype(int) - [10, 20, 30]).max() <= 3


MEASURE = """
import sys
from pathlib import Path
from pixels_to_resnet.idx import DataError
from pixels_to_resnet.open_picture import open_picture
def peak(): return 1024 * int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])
open_picture(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    try: open_picture(path)
    except DataError: pass
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is measured as Linux reports it")
def test_memory_stays_below_the_bound_that_is_stated(made: Made, tmp_path: Path) -> None:
    """All odd pictures, and the largest of each kind that are still opened."""
    heavy = {
        "rgba.png": png_claiming(9000, 7000, 8, 6, packed_zeros(7000 * 36001)),
        "sixteen.png": png_claiming(9000, 7000, 16, 0, packed_zeros(7000 * 18001)),
        "grey.png": png_claiming(12000, 12000, 8, 0, packed_zeros(12000 * 12001)),
        "baseline.jpg": saved(Image.new("RGB", (12000, 9000)), "JPEG"),
        "progressive.jpg": saved(Image.new("L", (6600, 6600)), "JPEG", progressive=True),
        "large.webp": saved(Image.new("RGBA", (4000, 4000)), "WEBP"),
        "one_strip.tif": saved(Image.new("RGB", (5700, 5700)), "TIFF", compression="tiff_lzw", tiffinfo={278: 5700}),
    }
    for name, data in heavy.items():
        (tmp_path / name).write_bytes(data)
        assert fate(tmp_path / name)[0] == "opened", name
    paths = [str(made["grey.png"][0]), *(str(tmp_path / name) for name in heavy), *(str(path) for path, _ in made.values())]
    needed = int(subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True, timeout=300).stdout)
    assert MAX_DECODED_BYTES * 0.5 < needed < MAX_FILE_BYTES + 1.25 * MAX_DECODED_BYTES
