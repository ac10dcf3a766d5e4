"""Diagrams: with Graphviz, without it, and with one that is broken or hangs; nothing overlaps; nothing of the machine is in them."""
from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest

from pixels_to_resnet import boxes
from pixels_to_resnet.boxes import assign_layers, in_words, place_slots, route_path
from pixels_to_resnet.diagram import Diagram, diagram, dot_source, draw_with_matplotlib, run_dot

LOOP = [("init", "predict"), ("predict", "loss"), ("loss", "gradient"), ("gradient", "step"), ("step", "predict", "repeat"), ("step", "stop")]
KNOT = [("a", "b"), ("b", "c", "once"), ("b", "b", "wait"), ("c", "d"), ("a", "d"), ("d", "b", "back\nagain"), ("d", "d"), ("b", "a")]
ODD = [('quo"ted', "co:lon:x"), ("co:lon:x", "back\\slash\\n"), ("<b>&amp;</b>", "$x_1$ and $", "50 % {x|y}"), ("\u03bb", "", ""), ("5", "graph")]
posix = pytest.mark.skipif(os.name != "posix", reason="the false `dot` is a shell script")
with_dot = pytest.mark.skipif(run_dot("digraph { a -> b }")[0] is None, reason="Graphviz is not installed")


@pytest.fixture
def no_dot(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def false_dot(no_dot):
    def write(script):
        path = no_dot / "dot"
        path.write_text(f"#!{shutil.which('sh', path=os.defpath)}\nPATH={os.defpath}\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
    return write


def check(picture, edges):
    """A well-formed, self-contained SVG that says in words what it shows."""
    assert isinstance(picture, Diagram) and picture._repr_svg_() == picture.svg
    root = ET.fromstring(picture.svg)
    tags = [child.tag.rpartition("}")[2] for child in root]
    assert tags[:2] == ["title", "desc"] and picture.svg.count("<title>") == 1
    assert root[1].text == in_words(edges) == repr(picture)
    assert not re.search(r"<!--|metadata|Generated|/tmp|/home|0x[0-9a-f]{6}", picture.svg)
    assert re.search(r'fill(: |=")(#ffffff|white)', picture.svg), "the background is opaque"


@with_dot
@pytest.mark.parametrize("edges", [LOOP, KNOT, ODD, [("a", "a")]])
@pytest.mark.parametrize("rankdir", ["LR", "TB"])
def test_with_graphviz(edges, rankdir, capsys):
    picture = diagram(edges, title="A & B", rankdir=rankdir)
    check(picture, edges)
    assert capsys.readouterr().out == ""
    assert picture == diagram(edges, title="A & B", rankdir=rankdir)


@pytest.mark.parametrize("edges", [LOOP, KNOT, ODD, [("a", "a")]])
@pytest.mark.parametrize("rankdir", ["LR", "TB"])
def test_without_graphviz(edges, rankdir, no_dot, capsys):
    picture = diagram(edges, title="A & B", rankdir=rankdir)
    check(picture, edges)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "`dot` was not found" in out and "install Graphviz" in out
    assert picture == diagram(edges, title="A & B", rankdir=rankdir)


@posix
@pytest.mark.parametrize("script, problem", [
    ("exit 3", "failed"),
    ("kill -9 $$", "failed"),
    ("exit 0", "drew nothing"),
    ('echo "no picture" > "$3"', "drew nothing"),
    ("sleep 30", "did not answer"),
    ("sleep 30 & sleep 30", "did not answer"),
    ("read answer || sleep 30", "did not answer"),
])
def test_a_dot_that_does_not_work(script, problem, false_dot, capsys):
    false_dot(script)
    start = time.perf_counter()
    check(diagram(LOOP, timeout=0.4), LOOP)
    assert time.perf_counter() - start < 8
    assert problem in capsys.readouterr().out


@posix
def test_a_dot_that_cannot_be_run(no_dot, capsys):
    (no_dot / "dot").write_text("#!/no/such/interpreter\n", encoding="utf-8")
    (no_dot / "dot").chmod(0o755)
    check(diagram(LOOP), LOOP)
    assert "failed" in capsys.readouterr().out


def test_pictures_do_not_depend_on_the_process(no_dot):
    code = f"from pixels_to_resnet.diagram import draw_with_matplotlib; print(hash('a') and draw_with_matplotlib({KNOT!r}))"
    for seed in "12":
        printed = subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, text=True, encoding="utf-8")
        assert printed.split() == draw_with_matplotlib(KNOT).split()


def test_the_sources_of_two_runs_are_equal_and_number_the_boxes():
    assert dot_source(ODD) == dot_source(ODD)
    assert re.search(r"^\s*0 -> 1$", dot_source(ODD), flags=re.M)


@pytest.mark.parametrize("edges, rankdir", [([], "LR"), (LOOP, "BT"), (LOOP, "")])
def test_wrong_arguments(edges, rankdir):
    with pytest.raises(ValueError, match="at least one edge"):
        diagram(edges, rankdir=rankdir)


def test_words():
    assert in_words(LOOP) == "init -> predict -> loss -> gradient -> step -(repeat)-> predict; step -> stop"
    assert in_words([("a", "b", ""), ("c", "c", "x")]) == "a -> b; c -(x)-> c"
    assert repr(Diagram("<svg></svg>", "a -> b")) == "a -> b"


def test_words_of_ones_own(no_dot):
    picture = diagram(LOOP, words="Seven steps & a loop")
    assert repr(picture) == "Seven steps & a loop" and "<desc>Seven steps &amp; a loop</desc>" in picture.svg


def random_graph(seed):
    r = random.Random(seed)
    return [(r.choice("abcdefg"), r.choice("abcdefg"), r.choice(["", "", "label", "a long\nlabel"])) for _ in range(r.randrange(1, 12))]


def rectangle(place, room=False):
    half = place.length / 2, (place.room if room else place.width) / 2
    return place.along - half[0], place.along + half[0], place.across - half[1], place.across + half[1]


@pytest.mark.parametrize("rankdir", ["LR", "TB"])
def test_no_box_or_label_overlaps_another(rankdir):
    for seed in range(60):
        placed = [rectangle(place, room=True) for place in place_slots(random_graph(seed), rankdir)[0].values() if place.text]
        for i, (a0, a1, a2, a3) in enumerate(placed):
            assert not any(a0 < b1 and b0 < a1 and a2 < b3 and b2 < a3 for b0, b1, b2, b3 in placed[:i]), seed


def curve(points, codes):
    """Points along a path of lines and Bezier curves."""
    i = 1
    while i < len(points):
        p0, step = points[i - 1], 3 if codes[i] == 4 else 1
        for t in (k / 20 for k in range(21)):
            if step == 1:
                yield tuple(a + t * (b - a) for a, b in zip(p0, points[i]))
            else:
                p1, p2, p3 = points[i:i + 3]
                weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3
                yield tuple(sum(w * p[axis] for w, p in zip(weights, (p0, p1, p2, p3))) for axis in (0, 1))
        i += step


@pytest.mark.parametrize("rankdir", ["LR", "TB"])
def test_no_arrow_runs_through_a_box_or_a_foreign_label(rankdir):
    for seed in range(30):
        places, routes = place_slots(random_graph(seed), rankdir)
        for route in filter(None, routes):
            others = [rectangle(place) for key, place in places.items() if place.text and (isinstance(key, str) or key not in route)]
            for x, y in curve(*route_path(places, route)):
                assert not any(x0 + 1 < x < x1 - 1 and y0 + 1 < y < y1 - 1 for x0, x1, y0, y1 in others), (seed, route)


def test_an_arrow_ends_where_it_should():
    layers, backward = assign_layers(LOOP)
    assert backward == [False] * 4 + [True, False] and layers["stop"] == 5
    places, routes = place_slots(LOOP)
    points, _ = route_path(places, routes[4])
    assert points[0][0] == pytest.approx(places["predict"].along + places["predict"].length / 2)
    assert points[-1][0] == pytest.approx(places["step"].along - places["step"].length / 2)


def test_importing_it_imports_no_plotting():
    code = "import sys, pixels_to_resnet.diagram; print([m for m in ('matplotlib', 'networkx', 'graphviz') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    assert boxes.text_size("")[0] == 0
