"""The badges of chapter 09: the same everywhere, alike in brightness, mixed kits, transparent, and a folder that is whole or not there."""
from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixels_to_resnet.badges import CLUBS, KIT_COLOURS, badges_path, make_badges, write_badges
from pixels_to_resnet.idx import DataError
from pixels_to_resnet.picture_folder import split_per_class


@pytest.fixture(scope="module")
def badges() -> tuple[np.ndarray, np.ndarray]:
    """200 badges of each club."""
    return make_badges(200)


def field_is_red(image: np.ndarray) -> bool:
    """Whether more opaque pixels are red than teal."""
    redness = image[image[..., 3] == 255][:, 0].astype(int) - image[image[..., 3] == 255][:, 2]
    return bool((redness > 80).sum() > (redness < -80).sum())


def test_the_first_badges_do_not_depend_on_how_many_are_drawn(badges: tuple[np.ndarray, np.ndarray]) -> None:
    """In blocks of 25, also cut ones; another seed gives others."""
    images, labels = badges
    for n in (1, 25, 60):
        few, few_labels = make_badges(n)
        assert (few == np.concatenate([images[:n], images[200 : 200 + n]])).all()
        assert few_labels.tolist() == [0] * n + [1] * n
    assert (make_badges(1, seed=1)[0] != images[:1]).any()
    assert labels.dtype == np.int64


def test_colour_alone_is_right_for_21_of_25(badges: tuple[np.ndarray, np.ndarray]) -> None:
    """Kits are swapped between the clubs, and mixed exactly."""
    images, labels = badges
    red = np.array([field_is_red(image) for image in images])
    assert ((red == (labels == 0)).reshape(2, 8, 25).sum(-1) == 21).all()


def test_neither_brightness_nor_the_amount_of_emblem_tells_the_clubs_apart(badges: tuple[np.ndarray, np.ndarray]) -> None:
    """Both kit colours are equally bright, both emblems equally large."""
    assert len({sum(colour) for colour in KIT_COLOURS}) == 1
    assert len({Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0)) for colour in KIT_COLOURS}) == 1
    images, labels = badges
    light = ((images[..., :3].min(-1) > 150) & (images[..., 3] == 255)).sum((1, 2)) / (images[..., 3] == 255).sum((1, 2))
    clear = images[:, 0, 0, 3] == 0
    shares = [light[clear & (labels == label)] for label in (0, 1)]
    assert abs(shares[0].mean() - shares[1].mean()) < 0.01


def test_badges_lie_wholly_in_the_picture_three_quarters_of_them_on_nothing(badges: tuple[np.ndarray, np.ndarray]) -> None:
    """No transparent badge touches the border; hidden colours differ from picture to picture."""
    images, _ = badges
    clear = images[:, 0, 0, 3] == 0
    assert 0.68 < clear.mean() < 0.82
    alpha = images[clear][..., 3]
    assert not (alpha[:, [0, -1]].any() or alpha[:, :, [0, -1]].any())
    assert len(np.unique(images[clear][:, 0, 0, :3], axis=0)) > 0.95 * clear.sum()


@pytest.mark.parametrize("size", [8, 57, 70, 141])
def test_other_sizes_show_the_same_badges(size: int) -> None:
    """Even and odd sizes, with the same kits."""
    images, _ = make_badges(25, size=size)
    assert images.shape == (50, size, size, 4)
    if size >= 57:
        assert sum(map(field_is_red, images[:25])) == 21


def test_bad_requests_get_a_sentence(tmp_path: Path) -> None:
    """Nothing to draw, and a place that is taken."""
    for arguments in ({"n_per_class": 0}, {"size": 0}):
        with pytest.raises(ValueError, match="give at least"):
            make_badges(**arguments)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_badges(tmp_path / "file" / "badges", n_per_class=1)


def test_the_folder_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A break while writing leaves nothing; afterwards the pixels are those drawn."""
    save, calls = Image.Image.save, []
    def stop(self: Image.Image, *args: object, **kwargs: object) -> None:
        calls.append(1)
        if len(calls) > 5:
            raise KeyboardInterrupt
        save(self, *args, **kwargs)
    monkeypatch.setattr(Image.Image, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        write_badges(tmp_path / "badges", n_per_class=4)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    monkeypatch.undo()
    folder, images = write_badges(tmp_path / "badges", n_per_class=4), make_badges(4)[0]
    for i, path in enumerate(folder / club / f"{j:04}.png" for club in CLUBS for j in range(4)):
        assert (np.asarray(Image.open(path)) == images[i]).all()
    assert len(list(folder.rglob("*.png"))) == 8


def test_two_thousand_are_drawn_and_written_in_under_ten_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in the time of the processor, which other programs do not change much."""
    monkeypatch.setenv("PIXELS_TO_RESNET_HOME", str(tmp_path))
    start = time.process_time()
    folder = badges_path(say=lambda line: None)
    assert time.process_time() - start < 10
    assert [len(list((folder / club).iterdir())) for club in CLUBS] == [1000, 1000]


def test_a_linear_look_at_the_mean_colour_stops_at_the_share_of_home_kits() -> None:
    """The lesson's plateau: nearest mean colour, on a split, is right about 21 of 25 times."""
    images, labels = make_badges(500, size=28)
    train, valid = split_per_class(labels)
    inked = images[..., 3:].astype(float) / 255 * (images[..., :3].astype(float) - 116)
    colours = inked.mean((1, 2))
    means = np.stack([colours[train][labels[train] == label].mean(0) for label in (0, 1)])
    answers = ((colours[valid][:, None] - means) ** 2).sum(-1).argmin(1)
    assert 0.74 < (answers == labels[valid]).mean() < 0.9
