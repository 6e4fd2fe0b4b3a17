"""Raw events as users have them in Python."""

from __future__ import annotations

from decimal import Decimal

import awkward as ak
import numpy as np
import pytest
from data_tools import jagged, same_column, to_lists

from mlaas_condor.errors import RequestError
from mlaas_condor.inference.events import to_columns

INPUTS = {"met": "flat", "n": "flat", "pt": "jagged"}
MET, N, PT = [30.5, 12.0, 7.25], [2, 0, 1], [[50.0, 40.0], [], [20.0]]


def columns(events, inputs=INPUTS, may_lack=None):
    found, n = to_columns(events, inputs, may_lack or {})
    return {name: to_lists(column) for name, column in found.items()}, n


@pytest.mark.parametrize(
    "events",
    [
        {"met": MET, "n": N, "pt": PT},
        {"met": tuple(MET), "n": np.array(N, np.int8), "pt": tuple(map(tuple, PT))},
        {"met": np.array(MET, ">f4"), "n": np.array(N, np.uint64), "pt": [np.array(each) for each in PT]},
        {"met": [Decimal("30.5"), 12, 7.25], "n": N, "pt": np.array(PT, object)},
        {"met": np.ma.array(MET), "n": ak.Array(N), "pt": ak.Array(PT)},
        ak.Array({"met": MET, "n": N, "pt": PT}),
        ak.Array([{"met": m, "n": n, "pt": p} for m, n, p in zip(MET, N, PT, strict=True)]),
        {"met": MET, "n": N, "pt": PT, "unknown": ["a", "b"], "other": [[[1]]]},
    ],
    ids=["lists", "tuples", "arrays", "objects", "awkward", "record array", "records", "more than needed"],
)
def test_every_form_gives_the_same(events):
    assert columns(events) == ({"met": MET, "n": N, "pt": PT}, 3)


def test_numpy_structured_arrays_and_data_frames():
    from mlaas_condor.inference.events import as_branches

    class Frame:
        """What data frames have in common."""

        def keys(self):
            return ["met", "n"]

        def __getitem__(self, name):
            return np.array({"met": MET, "n": N}[name])

    structured = np.array(list(zip(MET, N, strict=True)), [("met", "f8"), ("n", "i4")])
    for events in (structured, Frame()):
        assert columns(as_branches(events), {"met": "flat", "n": "flat"}) == ({"met": MET, "n": N}, 3)
    assert as_branches(np.zeros((2, 3))) is None
    assert as_branches(ak.Array([[1.0, 2.0]])) is None
    assert as_branches([1, 2]) is None


@pytest.mark.parametrize(
    "event",
    [
        {"met": 30.5, "n": 2, "pt": [50.0, 40.0]},
        {"met": np.float32(30.5), "n": np.int8(2), "pt": np.array([50.0, 40.0])},
        {"met": np.array(30.5), "n": 2, "pt": (50.0, 40.0)},
        ak.Array({"met": MET, "n": N, "pt": PT})[0],
    ],
    ids=["plain", "numpy", "scalar array", "awkward record"],
)
def test_one_event(event):
    assert columns(event) == ({"met": [30.5], "n": [2], "pt": [[50.0, 40.0]]}, 1)


def test_one_event_with_an_empty_list():
    assert columns({"met": 1.0, "n": 0, "pt": []}) == ({"met": [1.0], "n": [0], "pt": [[]]}, 1)
    assert columns({"pt": [1.0, 2.0]}, {"pt": "jagged"}) == ({"pt": [[1.0, 2.0]]}, 1)


@pytest.mark.parametrize(
    "events",
    [
        {"met": [], "n": [], "pt": []},
        {"met": np.zeros(0), "n": np.zeros(0, int), "pt": np.zeros((0, 3))},
        ak.Array({"met": MET, "n": N, "pt": PT})[:0],
    ],
)
def test_no_event(events):
    found, n = to_columns(events, INPUTS, {})
    assert n == 0 and to_lists(found["pt"]) == [] and to_lists(found["met"]) == []


def test_what_is_missing_in_a_branch_is_nan_and_a_missing_list_is_empty():
    events = {"met": [1.0, None, 3.0], "n": [1, 2, 3], "pt": [[1.0, None], None, []]}
    masked = {
        "met": np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]),
        "n": [1, 2, 3],
        "pt": ak.Array(events["pt"]),
    }
    for given in (events, ak.Array(events), masked):
        found, _ = to_columns(given, INPUTS, {})
        assert np.array_equal(found["met"], [1.0, np.nan, 3.0], equal_nan=True)
        assert found["pt"].counts.tolist() == [2, 0, 0]
        assert np.array_equal(found["pt"].values, [1.0, np.nan], equal_nan=True)
    (alone,) = to_columns({"met": None, "n": 1, "pt": [1.0]}, INPUTS, {})[0]["met"]
    assert np.isnan(alone)


def test_lists_that_are_all_empty_or_of_one_length():
    empty = ak.Array([[], []])
    for given in (empty, [[], []], np.zeros((2, 0))):
        found, n = to_columns({"pt": given}, {"pt": "jagged"}, {})
        assert n == 2 and found["pt"].counts.tolist() == [0, 0]
    regular = ak.to_regular(ak.Array([[1.0, 2.0], [3.0, 4.0]]))
    for given in (regular, [[1.0, 2.0], [3.0, 4.0]], np.array([[1.0, 2.0], [3.0, 4.0]])):
        found, _ = to_columns({"pt": given}, {"pt": "jagged"}, {})
        assert same_column(found["pt"], jagged([[1.0, 2.0], [3.0, 4.0]]))


def test_numbers_keep_their_type():
    events = {"met": np.array([2**63], np.uint64), "n": [True], "pt": [np.array([1], np.int8)]}
    found, _ = to_columns(events, INPUTS, {})
    assert (found["met"].dtype, found["n"].dtype) == (np.uint64, np.bool_)
    assert found["pt"].values.dtype.kind == "i"


def test_names_with_dots_may_be_nested():
    inputs = {"jet.pt": "jagged", "jet.lead.eta": "flat", "a.b": "flat"}
    events = {"jet": {"pt": PT, "lead": {"eta": MET}}, "a.b": N}
    expected = {"jet.pt": PT, "jet.lead.eta": MET, "a.b": N}
    assert columns(events, inputs) == (expected, 3)
    nested = ak.Array(
        [
            {"jet": [{"pt": p} for p in each], "a.b": n, "jet.lead": {"eta": m}}
            for each, n, m in zip(PT, N, MET, strict=True)
        ]
    )
    assert columns(nested, inputs) == (expected, 3)


def test_a_branch_of_unknown_kind_is_what_it_looks_like():
    inputs = {"met": "flat", "x": None}
    assert columns({"met": MET, "x": PT}, inputs)[0]["x"] == PT
    assert columns({"met": MET, "x": N}, inputs)[0]["x"] == N
    assert columns({"met": 1.0, "x": [1.0, 2.0]}, inputs)[0]["x"] == [[1.0, 2.0]]
    assert columns({"met": 1.0, "x": 5}, inputs)[0]["x"] == [5]


def test_branches_that_may_be_missing_are_padding():
    found, n = to_columns({"met": MET}, INPUTS, {"n": "flat", "pt": "jagged"})
    assert n == 3 and np.isnan(found["n"]).all() and found["pt"].counts.tolist() == [0, 0, 0]


def problems(events, inputs=INPUTS, may_lack=None):
    with pytest.raises(RequestError) as caught:
        to_columns(events, inputs, may_lack or {})
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"n": ["a", "b", "c"]}, "events: n: holds text"),
        ({"n": [1, "b", None]}, "events: n: holds text"),
        ({"n": "abc"}, "events: n: holds text"),
        ({"n": [1j, 2, 3]}, "events: n: holds complex numbers"),
        ({"n": np.array(["2020-01-01"] * 3, "M8[D]")}, "events: n: holds times"),
        ({"n": [object()] * 3}, "events: n: holds no numbers"),
        ({"n": {"a": 1}}, "events: n: holds a dict, not numbers"),
        ({"n": [1, [2], 3]}, "events: n: holds numbers and lists side by side"),
        ({"n": PT}, "events: n: holds lists; the model was trained with one number an event"),
        ({"n": np.ma.array(N, mask=[1, 0, 0])}, "events: n: is a masked array of integers: fill it"),
        ({"n": ak.Array(["a", "b", "c"])}, "events: n: holds"),
        ({"n": ak.Array([{"a": 1}] * 3)}, "events: n: holds records of a"),
        ({"pt": [[[1]], [[2]], [[3]]]}, "events: pt: holds arrays of 1x1 numbers an event"),
        ({"pt": [[[1], [2, 3]], [], []]}, "events: pt: holds lists of lists"),
        ({"pt": ak.Array([[[1], [2, 3]], [], []])}, "events: pt: holds lists of lists"),
        ({"pt": [["a"], [], []]}, "events: pt: holds text"),
        ({"pt": MET}, "events: pt hold one event, met, n several"),
        ({"n": 5}, "events: n hold one event, met, pt several"),
        ({"n": N[:2]}, "events: the branches have different numbers of events: 3 in met, pt, 2 in n"),
        ({"n": None}, "events: n hold one event"),
    ],
)
def test_what_does_not_fit_is_told(change, expected):
    (found, *others) = problems({"met": MET, "n": N, "pt": PT} | change)
    assert found.startswith(expected) and not others


def test_a_number_where_a_list_is_needed():
    assert problems({"met": 1.0, "n": 1, "pt": 5.0}) == [
        "events: pt: is a number; the model was trained with a list an event"
    ]


def test_everything_that_is_wrong_comes_at_once():
    events = {"Met": MET, "n": ["x"] * 3, "pt": PT, "q": N[:2], "p": PT, "r": N}
    found = problems(events, INPUTS | {"q": "flat", "p": "flat", "r": "flat"})
    assert found == [
        "events: n: holds text",
        "events: met: is missing (did you mean 'Met'?)",
        "events: p: holds lists; the model was trained with one number an event",
        "events: the branches have different numbers of events: 3 in pt, r, 2 in q",
    ]


def test_a_missing_branch_names_what_there_is():
    assert problems({"jet": {"pT": PT}, "x": N}, {"jet.pt": "jagged"}) == [
        "events: jet.pt: is missing (did you mean 'jet.pT'?)"
    ]
    assert problems({}, {"met": "flat"}) == ["events: met: is missing"]
    assert problems({}, {"met": "flat"}, {"met": "flat"}) == [
        "events: hold none of the branches that the model needs"
    ]
