"""The pictures of the pages: SVG that says in words what it shows."""

import math
import xml.etree.ElementTree as ET

import pytest

from mlaas_condor.server.pages import dag
from mlaas_condor.server.pages.drawing import Axis, Series, chart
from mlaas_condor.state import StageState

SVG = "{http://www.w3.org/2000/svg}"
STAGES = (
    StageState("specs", 40, done=40, started=0.0, ended=125.0),
    StageState("merge", 1, done=1, reused=True),
    StageState("preprocess", 12, done=6, running=3, idle=1, held=1, failed=1),
    StageState("train", 1),
    StageState("report", 0),
)


def parsed(svg):
    return ET.fromstring(str(svg).replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))


def drawn(*series, x=None, y=None, **more):
    made = chart("key", "Title", "Words.", series, x or Axis("x"), y or Axis("y"), **more)
    return parsed(made.svg)


def curves(root):
    return [each.get("d") for each in root.iter(f"{SVG}path") if "curve" in each.get("class", "")]


def ticks(root):
    return [each.text for each in root.iter(f"{SVG}text") if each.get("class") == "tick"]


def test_a_curve_goes_through_its_points():
    (path,) = curves(drawn(Series("a", [0, 1, 2], [0.0, 5.0, 10.0]), x=Axis("x", 0, 2), y=Axis("y", 0, 10)))
    points = [tuple(map(float, each.split())) for each in path[1:].split("L")]
    assert points[1] == pytest.approx(tuple((a + b) / 2 for a, b in zip(points[0], points[2], strict=True)))
    assert points[0][0] < points[2][0]
    assert points[0][1] > points[2][1]  # upwards


@pytest.mark.parametrize("hole", [None, math.nan, math.inf])
def test_what_is_no_number_leaves_a_gap(hole):
    (path,) = curves(drawn(Series("a", range(5), [1.0, 2.0, hole, 2.0, 1.0])))
    assert path.count("M") == 2
    assert "nan" not in path
    assert "inf" not in path


def test_a_single_point_is_a_dot():
    root = drawn(Series("a", [1], [0.5]), x=Axis("epoch", 1, 2, whole=True))
    assert not curves(root)
    assert len(list(root.iter(f"{SVG}circle"))) == 1


@pytest.mark.parametrize("values", [[], [None], [math.nan]])
def test_without_points_there_is_an_empty_picture(values):
    assert not curves(drawn(Series("a", values, values)))


@pytest.mark.parametrize("values", [[0.0, 0.0], [3.5, 3.5], [-2.0, -2.0], [1e-300, 2e-300], [1e12, 1e12 + 1]])
def test_any_range_has_ticks(values):
    root = drawn(Series("a", [0, 1], values))
    assert curves(root)
    assert len(ticks(root)) >= 4


def test_epochs_are_whole():
    root = drawn(Series("a", [1, 2, 3], [0.3, 0.2, 0.1]), x=Axis("epoch", 1, 3, whole=True))
    assert ticks(root)[:3] == ["1", "2", "3"]


def test_names_are_text_and_never_markup():
    made = chart("key", "<script>", '"><b>', [Series("<i>", [0, 1], [0, 1])], Axis("<u>"), Axis("&"))
    root = parsed(made.svg)
    assert root.find(f"{SVG}title").text == "<script>"
    assert root.find(f"{SVG}desc").text == '"><b>'
    assert "<u>" in {each.text for each in root.iter(f"{SVG}text")}


def test_the_picture_says_what_it_shows():
    root = drawn(Series("a", [0, 1], [0, 1]), diagonal=True)
    assert root.get("role") == "img"
    named = {each.get("id") for each in root.iter() if each.get("id")}
    assert set(root.get("aria-labelledby").split()) == named
    assert "diagonal" in {each.get("class") for each in root.iter()}


@pytest.mark.parametrize("tall", [False, True])
def test_the_stages_are_told_in_words_and_drawn(tall):
    root = parsed(dag.picture(STAGES, tall))
    words = root.find(f"{SVG}desc").text
    assert "specs done, 40 of 40 done" in words
    assert "merge reused" in words
    assert "preprocess failed, 6 of 12 done, 3 running, 1 idle, 1 held, 1 failed" in words
    texts = {each.text for each in root.iter(f"{SVG}text")}
    assert {"specs", "40 of 40 done", "2:05", "1 of 1 reused", "0 of 1 done", "not planned yet"} <= texts
    assert len([each for each in root.iter(f"{SVG}path") if "arrow" in each.get("class", "")]) == 4


def test_the_parts_of_a_bar_add_up_to_its_tasks():
    root = parsed(dag.bar(STAGES[2:3]))
    parts = [each for each in root.iter(f"{SVG}rect") if "part" in each.get("class")]
    assert [each.get("class").removeprefix("part is-") for each in parts] == list(dag.KINDS)
    track = next(each for each in root.iter(f"{SVG}rect") if each.get("class") == "track")
    assert sum(float(each.get("width")) for each in parts) == pytest.approx(
        float(track.get("width")), abs=0.2
    )


def test_one_task_of_very_many_is_still_seen():
    root = parsed(dag.bar([StageState("preprocess", 100_000, done=99_999, held=1)]))
    last = [each for each in root.iter(f"{SVG}rect") if "is-held" in each.get("class")]
    assert float(last[0].get("width")) > 0.5
