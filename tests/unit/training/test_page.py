import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mlaas_condor.training import comparison, metrics
from mlaas_condor.training.report import page, pictures, plots, tables
from mlaas_condor.training.report.page import Content
from mlaas_condor.training.scan import Row

EVIL = "<script>alert('x')</script>&\"{{ 7 * 7 }}"
VOID = {"meta", "img", "br", "hr", "link"}


class Page(HTMLParser):
    """Reads a page, and complains where a tag is not closed, or another one is."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.ids, self.links = [], [], [], []
        self.images, self.resources, self.text = [], [], ""
        self.feed(path.read_text("utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        assert len(given) == len(attrs), f"{tag} has an attribute twice"
        self.tags.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a":
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given)
        self.resources += [given[name] for name in ("src", "srcset", "data", "background") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data


def content(tmp_path, classes=("b", "s"), name="luca_1", **more):
    """Return what a page shows of a training that told these classes apart."""
    rng = np.random.default_rng(5)
    count = len(classes) or 2
    measured, scores, labels = {}, {}, {}
    for split, n in (("train", 400), ("validation", 100), ("test", 100)):
        y = rng.integers(0, count, n)
        table = rng.dirichlet(np.ones(count), n) + np.eye(count)[y]
        table /= table.sum(axis=1, keepdims=True)
        scores[split], labels[split] = table[:, 1] if count == 2 else table, y
        measured[split] = metrics.classification(y, scores[split])
    path = tmp_path / "roc.png"
    plots.roc({"test": measured["test"]}, path, classes)
    given = {
        "name": name,
        "made": "2026-11-20T18:20:35+00:00",
        "task": "classification",
        "framework": "Keras (keras 3.15.1)",
        "classes": list(classes),
        "metrics": measured,
        "history": [{"epoch": 1, "seconds": 30.0}, {"epoch": 2, "seconds": 50.0, "best": True}],
        "provenance": {
            "versions": {"python": "3.11.7", "htcondor": None},
            "inputs": [
                {"path": f"/data/{EVIL}.root", "label": "b", "bytes": 10**7, "entries": 5000,
                 "entries_used": 4000, "events_kept": 3000},
            ],
            "lost": [], "left_out": [], "not_finite": {}, "seed": 21, "specs_key": "abc", "chunks_key": "def",
        },
        "plan": {"stages": [{"stage": "train", "jobs": 1, "cpus": 2, "gpus": 0, "memory": 2048, "disk": 500,
                             "seconds": 95.0}]},
        "request": {"job": {"name": name, "labels": "labels.txt"}, "params": {"branch": EVIL}},
        "cutflow": [["", "a.root", "b.root", "all"], ["all entries", "1000", "20", "1020"],
                    [EVIL, "900", "10", "910"]],
        "model": ("model.py", f"# {EVIL}\ndef model(idim):\n    return None if idim < 3 else idim\n"),
        "overtraining": comparison.overtraining(scores, labels),
        "pictures": {"roc": path},
    }  # fmt: skip
    return Content(**{**given, **more})


def write(tmp_path, shown):
    path = tmp_path / "report.html"
    page.write(path, shown)
    return Page(path)


def test_the_page_is_whole_and_needs_nothing_else(tmp_path):
    found = write(tmp_path, content(tmp_path))
    assert found.tags[:2] == ["html", "head"] and found.tags.count("h1") == 1
    assert not {"script", "link", "iframe", "object", "embed", "audio", "video"} & set(found.tags)
    assert found.resources and all(each.startswith("data:image/png;base64,") for each in found.resources)
    style = re.search(r"<style>(.*?)</style>", (tmp_path / "report.html").read_text(), re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert "prefers-color-scheme: dark" in style and "@media print" in style
    assert len(style) < 6000
    assert all("alt" in image and int(image["width"]) > 100 for image in found.images)
    assert len(set(found.ids)) == len(found.ids)
    assert [link.removeprefix("#") for link in found.links] == found.ids, "the contents are the sections"


def test_what_the_user_named_is_text(tmp_path):
    classes = [EVIL, "</table>", "{% raw %}"]
    found = write(tmp_path, content(tmp_path, classes, name=f"luca{EVIL}_1"))
    assert found.text.count(EVIL) >= 8
    assert "</table>" in found.text and "{% raw %}" in found.text
    assert "49" not in re.findall(r"\b49\b", (tmp_path / "report.html").read_text()[:3000])
    assert "script" not in found.tags


def test_a_picture_comes_back_out_of_the_page(tmp_path):
    import base64

    found = write(tmp_path, content(tmp_path))
    (image,) = found.images
    assert base64.b64decode(image["src"].partition(",")[2]) == (tmp_path / "roc.png").read_bytes()
    assert int(image["width"]) / int(image["height"]) == pytest.approx(14 / 6.8, rel=0.01)


def test_headline_of_two_classes(tmp_path):
    shown = content(tmp_path)
    text = write(tmp_path, shown).text
    head = text[: text.index("Performance")]
    assert f"{shown.metrics['test']['auc']:.4g}" in head
    assert "on 100 events the training never saw" in head
    assert "Kolmogorov-Smirnov p-value, of b / s" in head
    assert "at 50 % signal efficiency" in head
    assert "in 2 epochs, 1:20 min; the model is of epoch 2" in head
    assert "Keras (keras 3.15.1), 2 classes. 2026-11-20 18:20 UTC." in head


def test_numbers_stand_side_by_side(tmp_path):
    shown = content(tmp_path)
    table = tables.of_metrics(shown.metrics, shown.classes)
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.head == ["", "train", "validation", "test"]
    assert rows["Events"] == ["400", "100", "100"]
    assert rows["AUC"] == [f"{shown.metrics[split]['auc']:.4g}" for split in ("train", "validation", "test")]
    assert "Best threshold" in rows and "… of s" in rows
    rejection = tables.of_rejection(shown.metrics["test"], shown.classes)
    assert [row[0] for row in rejection.rows] == ["30 %", "50 %", "70 %", "80 %", "90 %"]
    text = write(tmp_path, shown).text
    for word in (
        "True class",
        "precision",
        "recall",
        "F1",
        "rejection",
        "p-value",
        "all entries",
        "1,020",
    ):
        assert word in text, word


def test_jobs_events_software_and_wishes(tmp_path):
    shown = content(
        tmp_path,
        resources=[
            {"stage": "train", "asked": {"memory": 2048, "cpus": 2, "gpus": 0},
             "used": {"memory": 812, "cpu_seconds": 7261.0, "odd": "much"}},
        ],
        branches="Pictures are in pdfs/.",
    )  # fmt: skip
    lost = [{"path": "b.root", "first_entry": 1000, "last_entry": 1499, "reason": "a damaged basket"}]
    shown.provenance.update(
        lost=lost,
        left_out=[{"path": "c.root", "entries": 5000, "reason": "no such file"}],
        not_finite={"met": 12345},
    )
    text = write(tmp_path, shown).text
    for word in (
        "2.0 GB", "812 MB", "2:01 h", "much", "1:35 min", "1,000 to 1,499", "a damaged basket", "about 5,000",
        "12,345", "3.11.7", "abc", "return None if idim < 3 else idim", '"labels": "labels.txt"', "9.5 MB",
    ):  # fmt: skip
        assert word in text, word
    assert "htcondor" not in text, "no version is known of it"
    without = write(tmp_path, content(tmp_path)).text
    for word in ("Entries lost", "Files left out", "Asked for and used", "Scan and folds"):
        assert word not in without, word


def test_scan_and_folds(tmp_path):
    shown = content(tmp_path)
    rows = [
        Row(
            {"batch_size": size, "model.act": "relu"},
            0.8 + size / 1000,
            0.011,
            math.nan,
            None,
            0,
            size == 100,
        )
        for size in (50, 100)
    ]
    (tmp_path / "plots").mkdir()
    folds = [shown.metrics["test"]] * 3
    drawn = {
        **pictures.draw_scan(rows, False, tmp_path / "plots"),
        **pictures.draw_folds(folds, False, tmp_path / "plots"),
    }
    more = content(tmp_path, scan=rows, folds=folds, cross_validated=shown.metrics["train"], pictures=drawn)
    found = write(tmp_path, more)
    assert len(found.images) == 2
    table = tables.of_scan(rows, "AUC")
    assert table.head == ["", "batch_size", "model.act", "validation AUC", "test AUC"]
    assert table.rows[1] == ["★", "100", "relu", "0.9 ± 0.011", "–"]
    of_folds = tables.of_folds(folds, shown.metrics["train"], False)
    assert [row[:2] for row in of_folds.rows] == [["0", "100"], ["1", "100"], ["2", "100"], ["all", "400"]]
    assert "model.act" in found.text and "validation AUC" in found.text and "Fold" in found.text


def test_onnx_is_told(tmp_path):
    there = {"file": "model.onnx", "events": 1000, "largest_difference": 3.21e-7}
    assert (
        "on 1,000 events its predictions differ by 3.2e-07"
        in write(tmp_path, content(tmp_path, onnx=there)).text
    )
    gone = {"file": None, "reason": "its layer Odd has no like there"}
    assert "its layer Odd has no like there" in write(tmp_path, content(tmp_path, onnx=gone)).text


@pytest.mark.parametrize("count", [3, 30])
def test_several_classes(tmp_path, count):
    found = write(tmp_path, content(tmp_path, [f"species {k}" for k in range(count)]))
    assert "Class against the rest" in found.text
    assert ("True class" in found.text) == (count < 15), "a large matrix is only a picture"


def test_a_regression(tmp_path):
    rng = np.random.default_rng(1)
    measured = {}
    for split in ("train", "validation", "test"):
        y = rng.normal(0, 5, 300)
        measured[split] = metrics.regression(y, y + rng.normal(0, 1, 300))
    shown = content(
        tmp_path, task="regression", classes=[], metrics=measured, overtraining={}, pictures={},
        request={"job": {"labels": "jet_pt"}},
    )  # fmt: skip
    text = write(tmp_path, shown).text
    assert "regression of jet_pt" in text and "Test RMSE" in text and "R²" in text
    assert f"{measured['test']['rmse']:.4g}" in text
    assert "AUC" not in text and "Scores and classes" not in text


def test_what_is_undefined_or_from_before_is_a_dash(tmp_path):
    alone = metrics.classification(np.zeros(5, int), np.linspace(0, 1, 5))
    found = write(tmp_path, content(tmp_path, metrics=dict.fromkeys(("train", "validation", "test"), alone)))
    assert "–" in found.text
    new = ("average_precision", "precision_recall", "best_threshold", "rejection", "auc_by_class")
    old = {key: value for key, value in alone.items() if key not in new}
    write(tmp_path, content(tmp_path, metrics=dict.fromkeys(("train", "test"), old), overtraining={}))


def test_with_weights_sums_are_shown(tmp_path):
    rng = np.random.default_rng(2)
    y, w = rng.integers(0, 2, 50), rng.uniform(0, 2, 50)
    weighted = metrics.classification(y, rng.random(50), weights=w)
    found = write(tmp_path, content(tmp_path, metrics=dict.fromkeys(("train", "test"), weighted)))
    assert "Sum of weights of s" in found.text and "sum of weights" in found.text
    assert tables.number(w[y == 1].sum()) in found.text


def test_long_tables_end():
    table = tables.cut(tables.Table(["a", "b"], [["x", "1"]] * 1000), "rows")
    assert len(table.rows) == tables.MOST_ROWS + 1
    assert table.rows[-1] == ["… and 800 rows", ""]


def test_numbers_for_people():
    numbers = [None, 0, 1234567, 0.92345, 1640.0, 123456.7, 1e-7, 1e30, -0.5]
    assert [tables.number(each) for each in numbers] == [
        "–", "0", "1,234,567", "0.9234", "1,640", "123,457", "1e-07", "1e+30", "-0.5",
    ]  # fmt: skip
    assert [tables.mib(each) for each in (None, 0.31, 9.44, 512, 1536)] == [
        "–", "0.31 MB", "9.4 MB", "512 MB", "1.5 GB",
    ]  # fmt: skip
    assert [tables.duration(each) for each in (None, 0.25, 42, 187, 3720)] == [
        "–", "0.2 s", "42 s", "3:07 min", "1:02 h",
    ]  # fmt: skip


def test_frameworks_for_people():
    assert page.framework("torch", {"torch": "2.13.0"}) == "PyTorch (torch 2.13.0)"
    assert page.framework("keras2", {}) == "Keras 2"


def test_all_pictures_are_explained():
    assert set(pictures.EXPLAINED) == {
        "roc", "precision_recall", "scores", "confusion_matrix", "residuals", "learning_curves", "importance",
        "features", "scan", "folds",
    }  # fmt: skip


def test_the_request_can_be_taken_out_of_the_page(tmp_path):
    shown = content(tmp_path)
    text = write(tmp_path, shown).text
    start = text.index("{", text.index("Request, with defaults"))
    assert json.JSONDecoder().raw_decode(text[start:])[0] == shown.request
