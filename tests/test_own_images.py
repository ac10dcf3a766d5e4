"""From a picture file to a digit like MNIST's: exact where it can be exact, right where it cannot, and a sentence for everything else."""
from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from pixels_to_resnet.data import Digits, load_digits
from pixels_to_resnet.idx import DataError
from pixels_to_resnet.own_images import area_average, bent_surface, drop_specks, ink_box, like_mnist, overlap_shares, paper_colour, read_digit, to_ink

WHITE = (255, 255, 255)


@pytest.fixture(scope="module")
def ten() -> Digits:
    """The test digits in force, 0 to 9."""
    return load_digits("mnist_png").valid


def enlarged(image: torch.Tensor, factor: int = 3) -> torch.Tensor:
    """Each pixel `factor` by `factor` times, as ink from 0 to 1."""
    return image.repeat_interleave(factor, 0).repeat_interleave(factor, 1) / 255


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def as_picture(image: torch.Tensor, factor: int = 10, dark_on_light: bool = True) -> Image.Image:
    """A digit, uint8 (28, 28), as a clean grey picture."""
    grey = (enlarged(image, factor) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(255 - grey if dark_on_light else grey)


def a_seven(size: tuple[int, int] = (300, 400), paper: object = WHITE, pen: object = "black", mode: str = "RGB") -> Image.Image:
    """A 7 in thick lines."""
    image = Image.new(mode, size, paper)
    points = [(0.2 * size[0], 0.22 * size[1]), (0.77 * size[0], 0.2 * size[1]), (0.4 * size[0], 0.85 * size[1])]
    ImageDraw.Draw(image).line(points, fill=pen, width=round(0.09 * size[0]), joint="curve")
    return image


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The mean absolute difference of two digits, in shares of full ink, where they fit best when moved by at most a pixel."""
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return min((torch.roll(a, shift, (0, 1)).float() - b.float()).abs().mean().item() for shift in shifts) / 255


SEVEN = read_digit(saved(a_seven()))[0]


def test_9997_of_the_10000_test_digits_come_back_exactly(ten: Digits, data_in_force: str) -> None:
    if data_in_force != "mnist":
        pytest.skip("the stand-in was not made by this rule")
    changed = [i for i, image in enumerate(ten.images) if not torch.equal(like_mnist(enlarged(image)), image)]
    longer = [max(bottom - top, right - left) for top, bottom, left, right in (ink_box(ten.images[i]) for i in changed)]
    assert longer == [19, 19, 19]


@pytest.mark.parametrize("factor", [1, 2, 7, 13])
def test_they_come_back_at_other_sizes(ten: Digits, data_in_force: str, factor: int) -> None:
    if data_in_force != "mnist":
        pytest.skip("the stand-in was not made by this rule")
    assert all(torch.equal(like_mnist(enlarged(image, factor)), image) for image in ten.images[::200])


@pytest.mark.parametrize("factor", [1, 4, 30])
@pytest.mark.parametrize("dark_on_light", [True, False])
def test_they_come_back_exactly_through_a_png_file(ten: Digits, data_in_force: str, dark_on_light: bool, factor: int) -> None:
    if data_in_force != "mnist":
        pytest.skip("the stand-in was not made by this rule")
    for image in ten.images[::500]:
        assert torch.equal(read_digit(saved(as_picture(image, factor, dark_on_light)))[0], image)


def test_two_applications_are_one(ten: Digits) -> None:
    for image in ten.images[::400]:
        once = like_mnist(image / 255)
        top, bottom, left, right = ink_box(once)
        centre = [(once.double().sum(axis) @ (torch.arange(28).double() + 0.5) / once.double().sum()).item() for axis in (1, 0)]
        assert max(bottom - top, right - left) <= 20
        assert all(13.98 < c < 15.02 for c in centre) or 0 in (top, left) or 28 in (bottom, right)


@pytest.mark.parametrize(("before", "after"), [(5, 3), (3, 5), (1, 20), (20, 1), (28, 28), (101, 20), (20, 19)])
def test_shares_are_those_of_overlapping_intervals(before: int, after: int) -> None:
    shares, width = overlap_shares(before, after), before / after
    assert shares.shape == (after, before)
    for i in range(after):
        for j in range(before):
            overlap = max(0.0, min((i + 1) * width, j + 1) - max(i * width, j)) / width
            assert math.isclose(shares[i, j].item(), overlap, abs_tol=1e-12)
    assert torch.allclose(shares.sum(1), torch.ones(after, dtype=torch.float64))


def test_area_average_is_torchs_where_no_pixel_is_cut_and_keeps_the_mean() -> None:
    image = torch.rand(3, 12, 18, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(area_average(image, (4, 6)), F.interpolate(image[None], (4, 6), mode="area")[0], atol=1e-6)
    assert torch.allclose(area_average(image, (5, 7)).mean((1, 2)), image.mean((1, 2)), atol=1e-6)


def test_a_centre_of_eight_that_is_computed_a_hair_too_small_does_not_move_the_digit() -> None:
    for width in range(2, 60):
        ink = torch.full((3 * width, width), 0.1, dtype=torch.float64)
        top, bottom, left, right = ink_box(like_mnist(ink))
        assert (bottom - top, right - left) == (20, round(20 / 3)) and (top, left) == (4, 14 - math.floor(round(20 / 3) / 2 + 1e-6))


def test_what_would_go_over_the_edge_stays_on_the_page() -> None:
    ink = torch.zeros(100, 100)
    ink[0, :], ink[:, 0], ink[90:, 90:] = 0.2, 0.2, 10
    assert ink_box(like_mnist(ink.clamp(max=1))) == (0, 20, 0, 20)
    assert ink_box(like_mnist(ink.flip(0, 1).clamp(max=1))) == (8, 28, 8, 28)


def test_no_ink_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no ink"):
        like_mnist(torch.zeros(9, 9))
    assert not to_ink(Image.new("RGB", (50, 40), (10, 200, 30))).any()


def test_a_clean_picture_is_its_own_ink(ten: Digits) -> None:
    for image in ten.images[:5]:
        assert torch.equal((to_ink(as_picture(image, 5)) * 255).round().float(), (enlarged(image, 5) * 255).round())


@pytest.mark.parametrize("flat", [(255, 255, 255), (30, 30, 30), (120, 60, 10)])
def test_paper_of_one_colour_is_flat_and_bent_paper_is_found(flat: tuple[int, int, int]) -> None:
    rgb = torch.tensor(flat).double()[:, None, None].expand(3, 60, 80) / 255
    assert torch.equal(paper_colour(rgb), rgb)
    bent = bent_surface((60, 80)) @ torch.tensor([0.6, 0.1, -0.1, 0.05, 0.02, -0.05], dtype=torch.float64)
    with_ink = bent.clone()
    with_ink[20:40, 30:36] = 0.05
    assert torch.allclose(paper_colour(with_ink.expand(3, 60, 80)), bent.expand(3, 60, 80), atol=0.02)


def test_specks_go_and_touching_corners_hold() -> None:
    ink = torch.zeros(30, 30, dtype=torch.float64)
    ink[5:20, 5:8], ink[20:25, 8:12], ink[28, 28] = 1, 1, 1
    kept = drop_specks(ink)
    assert kept[28, 28] == 0 and kept.sum() == ink.sum() - 1
    assert torch.equal(drop_specks(ink, share=0.001), ink)


DRESSES: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: saved(a_seven(), "JPEG", quality=30),
    "WebP": lambda: saved(a_seven(), "WEBP"),
    "GIF": lambda: saved(a_seven(), "GIF"),
    "light on dark": lambda: saved(a_seven(paper="black", pen="white")),
    "black on nothing": lambda: saved(a_seven(paper=(9, 200, 80, 0), pen=(0, 0, 0, 255), mode="RGBA")),
    "white on nothing": lambda: saved(a_seven(paper=(9, 200, 80, 0), pen=(255, 255, 255, 255), mode="RGBA")),
    "yellow on white": lambda: saved(a_seven(pen=(255, 240, 0))),
    "red on green of the same brightness": lambda: saved(a_seven(paper=(0, 110, 0), pen=(216, 0, 0))),
    "pencil on grey": lambda: saved(a_seven(paper=(200, 200, 195), pen=(120, 120, 120))),
    "held sideways": lambda: saved(a_seven().rotate(90, expand=True), "JPEG", exif=sideways()),
    "huge": lambda: saved(a_seven((3000, 4000))),
    "shaded and noisy": lambda: saved(shaded(a_seven())),
    "shaded, light on dark": lambda: saved(Image.eval(shaded(a_seven()), lambda v: 255 - v)),
    "small": lambda: saved(a_seven((60, 80))),
}


def sideways() -> bytes:
    """EXIF data of a camera that was held sideways."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def shaded(image: Image.Image, noise: float = 0.03) -> Image.Image:
    """As photographed: darker to one side, and noisy."""
    rgb = np.asarray(image) / 255 * 0.8 + 0.15
    light = np.linspace(1, 0.6, rgb.shape[1])[None, :, None] * np.linspace(1, 0.8, rgb.shape[0])[:, None, None]
    rgb = rgb * light + np.random.default_rng(0).normal(0, noise, rgb.shape)
    return Image.fromarray((rgb.clip(0, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize("dress", DRESSES)
def test_the_same_drawing_is_the_same_digit_in_every_dress(dress: str) -> None:
    digit, _ = read_digit(DRESSES[dress](), dress)
    assert digit.dtype == torch.uint8 and digit.shape == (28, 28)
    assert difference(digit, SEVEN) < 0.03
    assert difference(torch.rot90(digit), SEVEN) > 0.1


def test_remarks_say_what_looks_odd(tmp_path: object) -> None:
    cut = a_seven().crop((0, 100, 300, 400))
    said = {
        "laid on paper": DRESSES["black on nothing"](),
        "upright": DRESSES["held sideways"](),
        "only": saved(a_seven((16, 20))),
        "touches the edge": saved(cut),
        "wider than high": saved(a_seven((900, 80))),
        "in spite of its name": saved(a_seven(), "JPEG"),
    }
    for words, data in said.items():
        remarks = read_digit(data, "drawing.png")[1]
        assert any(words in remark for remark in remarks), (words, remarks)
        assert all(remark.endswith(".") and "\n" not in remark for remark in remarks)
    assert read_digit(saved(a_seven()), "drawing.png")[1] == ()


def claiming(width: int, height: int) -> bytes:
    """A small PNG file that claims to be of this size, with a right checksum."""
    data = saved(a_seven())
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]
    return data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:]


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))


HOSTILE = {
    "empty": b"",
    "text": b"no picture",
    "cut": saved(a_seven())[:300],
    "bomb": claiming(60000, 60000),
    "blank": saved(Image.new("L", (300, 400), 255)),
    "nothing but transparent": saved(Image.new("RGBA", (30, 40))),
    "noise": saved(NOISE),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_cannot_be_read_gets_one_sentence_with_its_name(what: str) -> None:
    with pytest.raises(DataError) as caught:
        read_digit(HOSTILE[what], "my drawing.png")
    text = str(caught.value)
    assert text.startswith("my drawing.png ") and text.endswith(".") and "\n" not in text and len(text) < 250


def test_a_path_and_its_bytes_give_the_same(tmp_path: object) -> None:
    file = tmp_path / "seven.png"
    file.write_bytes(saved(a_seven()))
    for given in (file, str(file)):
        digit, remarks = read_digit(given)
        assert torch.equal(digit, SEVEN) and remarks == ()
    with pytest.raises(DataError, match="does not exist"):
        read_digit(tmp_path / "none.png")


def test_pictures_of_one_pixel_and_thin_strips_do_not_crash() -> None:
    for size in ((1, 1), (1, 2), (2, 1), (3, 3), (40, 1), (1, 40)):
        image = Image.new("L", size, 255)
        image.putpixel((size[0] // 2, size[1] // 2), 0)
        try:
            assert read_digit(saved(image))[0].shape == (28, 28)
        except DataError as e:
            assert str(e).endswith(".")


def test_it_leaves_the_global_seed_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    read_digit(DRESSES["shaded and noisy"]())
    assert torch.equal(torch.rand(2), expected)
