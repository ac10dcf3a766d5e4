"""Draw the ladder, nbs/images/ladder.svg: `python -m tools.ladder`. The same versions always write the same bytes.

A rung whose notebook exists is solid, a planned one is an outline. A new chapter changes its line in RUNGS.
"""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle, FancyArrowPatch, Polygon, Rectangle

OUT = Path(__file__).resolve().parent.parent / "nbs" / "images" / "ladder.svg"


@dataclass(frozen=True)
class Rung:
    """One step: the number and name of its notebook, what the reader leaves with, and whether the notebook exists."""

    number: str
    name: str
    gain: str
    there: bool = False

    @property
    def notebook(self) -> str:
        return f"{self.number}_{self.name.replace(' ', '_')}.ipynb"


RUNGS = [
    Rung("00", "data", "an image is an array of numbers", there=True),
    Rung("01", "pixel similarity", "compare with the mean image: a baseline", there=True),
    Rung("02", "gradients", "which way is down, and how steep", there=True),
    Rung("03", "sgd", "seven steps that fit any parameters", there=True),
    Rung("04", "linear", "784 weights learn 3 against 7", there=True),
    Rung("05", "learner", "the training loop as one object", there=True),
    Rung("06", "mlp", "a second layer and a non-linearity", there=True),
    Rung("07", "multiclass", "all ten digits, softmax", there=True),
    Rung("08", "resnet", "convolutions and residual blocks", there=True),
    Rung("09", "own images", "your drawing and your photos", there=True),
    Rung("10", "climb", "every rung as one command", there=True),
]

INK, PAPER = "#17324d", "#ffffff"
WIDTH, ROW, STEP, LEFT, TOP = 860, 48, 26, 16, 48

THREE = np.array([[0, 1, 1, 1, 0], [1, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 1], [0, 1, 1, 1, 0]])


class Glyph:
    """Draws in a box of -1 to 1 around (x, y), in ink on paper or the reverse."""

    def __init__(self, ax: Axes, x: float, y: float, ink: str) -> None:
        self.ax, self.x, self.y, self.ink, self.r = ax, x, y, ink, ROW * 0.38

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.x + self.r * x, self.y - self.r * y

    def line(self, xs, ys, width: float = 1.6, **kw) -> None:
        self.ax.plot(self.x + self.r * np.asarray(xs), self.y - self.r * np.asarray(ys), color=self.ink, lw=width, solid_capstyle="round", **kw)

    def dot(self, x: float, y: float, size: float = 0.13, filled: bool = True) -> None:
        self.ax.add_patch(Circle(self.at(x, y), self.r * size, fc=self.ink if filled else "none", ec=self.ink, lw=1.2, zorder=3))

    def box(self, x: float, y: float, w: float, h: float, alpha: float = 1.0, filled: bool = True) -> None:
        left, top = self.at(x, y + h)
        colours = {"fc": self.ink, "ec": "none"} if filled else {"fc": "none", "ec": self.ink}
        self.ax.add_patch(Rectangle((left, top), self.r * w, self.r * h, lw=1.2, alpha=alpha, **colours))

    def arrow(self, a: tuple[float, float], b: tuple[float, float]) -> None:
        self.ax.add_patch(FancyArrowPatch(self.at(*a), self.at(*b), arrowstyle="-|>", mutation_scale=8, color=self.ink, lw=1.5, shrinkA=0, shrinkB=0))

    def pixels(self, values: np.ndarray) -> None:
        rows, columns = values.shape
        size = 2 / rows
        for i, j in np.argwhere(values > 0.02):
            self.box(-size * columns / 2 + j * size, 1 - (i + 1) * size, size * 0.94, size * 0.94, alpha=float(values[i, j]))


def data(g: Glyph) -> None:
    g.pixels(THREE.astype(float))


def pixel_similarity(g: Glyph) -> None:
    padded = np.pad(THREE.astype(float), 1)
    shifted = [np.roll(padded, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    g.pixels(0.55 * padded + 0.45 * np.mean(shifted, axis=0))


def gradients(g: Glyph) -> None:
    xs = np.linspace(-0.9, 0.9, 40)
    g.line(xs, 2.1 * xs**2 - 0.9)
    g.line([-0.05, 0.95], [-0.9, 0.62], 1.1)
    g.dot(0.41, -0.3)


def sgd(g: Glyph) -> None:
    xs = np.linspace(-0.95, 0.95, 40)
    g.line(xs, 1.9 * xs**2 - 0.85, 1.0)
    for x in (-0.9, 0.66, -0.44, 0.25, -0.08):
        g.dot(x, 1.9 * x**2 - 0.85, 0.14)


def linear(g: Glyph) -> None:
    g.line([-0.8, 0.8], [-0.9, 0.9])
    for x, y in ((-0.7, 0.3), (-0.35, 0.75), (-0.2, 0.25)):
        g.dot(x, y)
    for x, y in ((0.65, -0.35), (0.25, -0.8), (0.15, -0.2)):
        g.dot(x, y, filled=False)


def learner(g: Glyph) -> None:
    for start in (100, 220, 340):
        g.ax.add_patch(Arc(g.at(0, 0), 1.6 * g.r, 1.6 * g.r, theta1=start, theta2=start + 85, color=g.ink, lw=1.7))
        a, b = np.radians([-(start - 2), -(start - 16)])
        g.arrow((0.8 * np.cos(a), 0.8 * np.sin(a)), (0.8 * np.cos(b), 0.8 * np.sin(b)))
    g.dot(0, 0, 0.16)


def mlp(g: Glyph) -> None:
    layers = [(-0.85, (-0.6, 0, 0.6)), (0, (-0.85, -0.28, 0.28, 0.85)), (0.85, (0,))]
    for (x, ys), (x2, ys2) in zip(layers, layers[1:]):
        for y in ys:
            for y2 in ys2:
                g.line([x, x2], [y, y2], 0.5)
    for x, ys in layers:
        for y in ys:
            g.dot(x, y, 0.15)


def multiclass(g: Glyph) -> None:
    for i, height in enumerate((0.15, 0.1, 0.35, 1.75, 0.1, 0.5, 0.1, 0.2, 0.4, 0.15)):
        g.box(-1 + i * 0.2, -0.85, 0.14, height)


def resnet(g: Glyph) -> None:
    g.line([-1.0, 0.62], [-0.35, -0.35], 1.2)
    g.box(-0.55, -0.85, 0.38, 1.0)
    g.box(0.02, -0.85, 0.38, 1.0)
    g.line([-0.85, -0.85, 0.8, 0.8], [-0.35, 0.7, 0.7, -0.15], 1.4)
    g.dot(0.8, -0.35, 0.19, filled=False)


def own_images(g: Glyph) -> None:
    g.box(-0.95, -0.75, 1.9, 1.5, filled=False)
    g.dot(-0.5, 0.35, 0.16)
    g.line([-0.9, -0.3, 0.05, 0.4, 0.9], [-0.7, 0.0, -0.4, 0.2, -0.45], 1.4)


def climb(g: Glyph) -> None:
    g.line([-0.5, -0.5], [-0.95, 0.95], 1.8)
    g.ax.add_patch(Polygon([g.at(-0.5, 0.9), g.at(0.8, 0.5), g.at(-0.5, 0.1)], fc=g.ink, ec="none"))


def draw() -> Figure:
    """The staircase, bottom rung first, as a figure of WIDTH pixels at 100 dots an inch."""
    legend = [] if all(rung.there for rung in RUNGS) else [(LEFT, INK, "-", "there now"), (LEFT + 132, PAPER, (0, (4, 2.5)), "planned")]
    top = TOP if legend else 12
    height = top + ROW * len(RUNGS) + 14
    fig = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor=PAPER)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(height, 0))
    ax.axis("off")
    for i, rung in enumerate(RUNGS):
        x, y = LEFT + i * STEP, top + ROW * (len(RUNGS) - 1 - i)
        fill, ink = (INK, PAPER) if rung.there else (PAPER, INK)
        step = Rectangle((x, y + 2), WIDTH - LEFT - x, ROW - 4, fc=fill, ec=INK, lw=1.2, ls="-" if rung.there else (0, (4, 2.5)))
        step.set_gid(f"rung-{rung.number}-{'there' if rung.there else 'planned'}")
        ax.add_patch(step)
        globals()[rung.name.replace(" ", "_")](Glyph(ax, x + 32, y + ROW / 2, ink))
        middle = y + ROW / 2 + 0.5
        ax.text(x + 66, middle, rung.number, color=ink, size=10.5, va="center", family="DejaVu Sans Mono")
        ax.text(x + 94, middle, rung.name, color=ink, size=11.5, va="center", weight="bold")
        ax.text(WIDTH - LEFT - 14, middle, rung.gain, color=ink, size=10.5, va="center", ha="right")
    for x, fill, style, label in legend:
        ax.add_patch(Rectangle((x, 15), 26, 16, fc=fill, ec=INK, lw=1.2, ls=style))
        ax.text(x + 34, 23.5, label, color=INK, size=10.5, va="center")
    return fig


def write(out: Path) -> None:
    """Save the ladder as `out`; what would differ between two runs (a date, random ids) is left out."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "ladder", "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
        draw().savefig(out, metadata={"Date": None, "Creator": None} if out.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="an .svg or .png file")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
