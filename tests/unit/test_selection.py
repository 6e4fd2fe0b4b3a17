"""New branches, cuts and shorter lists, against plain loops; and which branches are features."""

import numpy as np
import pytest
from data_tools import jagged, to_lists
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.data.expressions import ShapeError
from mlaas_condor.data.selection import Cut, Definition, Selector, Steps, choose, shorten
from mlaas_condor.data.source import Branch

EVENTS = {
    "n": np.array([0, 3, 1, 7, 2], np.int32),
    "w": np.array([1.0, -0.5, 2.0, 0.25, 4.0]),
    "pt": jagged([[], [10, 250], [199], [300, 400, 500], [201, 5]], np.float32),
    "eta": jagged([[], [1, -3], [0.5], [2, 2, -2], [0, 0]]),
    "unused": np.zeros(5),
}


def cut(expression, *branches, elements=None):
    return Cut(expression=expression, branches=list(branches), elements=elements)


def new(name, expression, *branches):
    return Definition(name=name, expression=expression, branches=list(branches))


def only(selector, events=EVENTS):
    """Return the events as they are read: only what the selector asks for."""
    return {name: events[name] for name in selector.inputs}


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        (cut("pt>200", "pt", elements="any"), [False, True, False, True, True]),
        (cut("pt>200", "pt", elements="all"), [True, False, False, True, False]),
        (cut("1<=n<=3", "n"), [False, True, True, False, True]),
        (cut("max(pt)>=250 and n<5", "n", "pt"), [False, True, False, False, False]),
        (cut("pt>n", "n", "pt", elements="all"), [True, True, True, True, True]),
    ],
)
def test_cut_on_an_event_and_on_any_or_all_elements(which, wanted):
    assert which.passed(EVENTS).tolist() == wanted


def test_what_a_cut_is_called():
    assert cut("pt>200", "pt", elements="any").title == "any(pt>200)"
    assert cut("n<3", "n").title == "n<3"


LISTS = st.lists(st.lists(st.sampled_from([-1.0, 0.0, 2.0, 5.0, float("nan")]), max_size=4), max_size=15)


@given(LISTS, st.data())
def test_cuts_new_branches_flow_and_weights_are_those_of_a_plain_loop(lists, data):
    size = st.lists(st.integers(0, 6), min_size=len(lists), max_size=len(lists))
    n, weight = data.draw(size), data.draw(size)
    events = {"x": jagged(lists), "n": np.array(n, np.int8), "w": np.array(weight, np.float32) - 2}
    steps = Steps(
        definitions=[new("double", "2*x", "x"), new("more", "double+n", "double", "n")],
        cuts=[
            cut("more>3", "more", elements="any"),
            cut("x>=0", "x", elements="all"),
            cut("n!=4", "n"),
        ],
        max_length={"x": 2, "more": 0},
    )
    selector = Selector(steps, ["x", "more", "n"], "w")
    got = selector.apply({name: events[name] for name in selector.inputs})
    rows = [(each, [2 * x + k for x in each], k, w - 2) for each, k, w in zip(lists, n, weight, strict=True)]
    passed = [
        [any(y > 3 for y in more) for _, more, _, _ in rows],
        [all(x >= 0 for x in each) for each, _, _, _ in rows],
        [k != 4 for _, _, k, _ in rows],
    ]
    left = [[True] * len(rows)]
    for each in passed:
        left.append([before and now for before, now in zip(left[-1], each, strict=True)])
    assert got.mask.tolist() == left[-1]
    assert got.flow == tuple(map(sum, left))
    assert got.weights == tuple(
        sum(w for (*_, w), yes in zip(rows, mask, strict=True) if yes) for mask in left
    )
    kept = [row for row, yes in zip(rows, left[-1], strict=True) if yes]
    assert list(got.events) == ["x", "more", "n"]
    # Lists are cut short only after the cuts have seen all of them.
    assert repr(to_lists(got.events["x"])) == repr([each[:2] for each, *_ in kept])
    assert to_lists(got.events["more"]) == [[]] * len(kept)
    assert to_lists(got.events["n"]) == [k for _, _, k, _ in kept]
    counted = selector.count({name: events[name] for name in selector.cut_inputs}, len(rows))
    assert (counted.events, counted.flow, counted.weights) == ({}, got.flow, got.weights)
    assert counted.mask.tolist() == got.mask.tolist()


def test_only_the_branches_needed_are_read():
    steps = Steps(
        definitions=[
            new("a", "n+1", "n"), new("b", "a*w", "a", "w"), new("c", "pt+eta", "pt", "eta"),
            new("idle", "unused", "unused"),
        ],
        cuts=[cut("b>0", "b")],
    )  # fmt: skip
    selector = Selector(steps, ["pt"])
    assert selector.inputs == ["n", "pt", "w"] and selector.cut_inputs == ["n", "w"]
    selector = Selector(steps, ["c", "n"])
    assert selector.inputs == ["eta", "n", "pt", "w"]
    got = selector.apply(only(selector))
    assert got.mask.tolist() == [True, False, True, True, True]  # (n+1)*w
    assert to_lists(got.events["c"]) == [[], [199.5], [302.0, 402.0, 498.0], [201.0, 5.0]]
    # Weights have to be known as soon as it is counted.
    assert Selector(Steps(), ["n"], "b").cut_inputs == ["b"]
    assert Selector(steps, [], "unused").inputs == ["n", "unused", "w"]


def test_nothing_to_do_reads_nothing_and_copies_nothing():
    selector = Selector(Steps(), [])
    assert selector.inputs == [] and selector.cut_inputs == []
    counted = selector.count({}, 5)
    assert counted.mask.tolist() == [True] * 5 and counted.flow == (5,) and counted.weights == ()
    selector = Selector(Steps(), ["n", "pt"])
    got = selector.apply(only(selector))
    assert got.events["n"] is EVENTS["n"] and got.events["pt"] is EVENTS["pt"]


def test_weights_may_be_a_new_branch():
    selector = Selector(
        Steps(definitions=[new("ww", "2*w", "w")], cuts=[cut("n>1", "n"), cut("n<0", "n")]), ["n"], "ww"
    )
    got = selector.apply(only(selector))
    assert got.weights == (13.5, 7.5, 0.0) and got.flow == (5, 3, 0)
    assert to_lists(got.events["n"]) == []


def test_taking_a_part_of_the_events_counted():
    selector = Selector(Steps(cuts=[cut("n>0", "n")], max_length={"pt": 1}), ["pt"])
    mask = np.array([True, False, True, True, False])
    assert to_lists(selector.take(only(selector), mask)["pt"]) == [[], [199.0], [300.0]]


def test_lists_of_different_lengths_cannot_be_added():
    steps = Steps(definitions=[new("sum", "pt+id", "pt", "id")])
    with pytest.raises(ShapeError, match="lists of different lengths"):
        Selector(steps, ["sum"]).apply({"pt": jagged([[1], [2]]), "id": jagged([[1], []])})


@given(LISTS, st.integers(0, 5))
def test_shortening(lists, longest):
    got = shorten(jagged(lists, np.float32), longest)
    assert repr(to_lists(got)) == repr([each[:longest] for each in lists])
    assert got.values.dtype == np.float32


def test_lists_that_are_short_already_are_not_copied():
    assert shorten(EVENTS["pt"], 3) is EVENTS["pt"]


KINDS = {
    "met": "flat", "jet_pt": "jagged", "jet_eta": "jagged", "njets": "flat", "evtNo": "flat", "a[b]": "flat",
}  # fmt: skip
BRANCHES = {name: Branch(name, kind, "float32") for name, kind in KINDS.items()}


@pytest.mark.parametrize(
    ("selected", "excluded", "flat", "jagged_ones", "unmatched"),
    [
        ([], [], ["a[b]", "met", "njets"], ["jet_eta", "jet_pt"], []),
        (["*"], ["jet_*"], ["a[b]", "met", "njets"], [], []),
        (["jet_*", "met"], ["*_eta"], ["met"], ["jet_pt"], []),
        (["evtNo", "met", "mett"], ["nothing*"], ["met"], [], ["mett", "nothing*"]),
        (["a[b]"], [], ["a[b]"], [], []),
        (["met"], ["met"], [], [], []),
    ],
)
def test_choosing_features(selected, excluded, flat, jagged_ones, unmatched):
    chosen = choose(BRANCHES, selected, excluded, {"evtNo"})
    assert (chosen.flat, chosen.jagged, chosen.unmatched) == (flat, jagged_ones, unmatched)


@given(
    st.lists(st.sampled_from(["*", "jet*", "met", "n?ets", "x"]), max_size=3),
    st.lists(st.sampled_from(["jet_pt", "m*", "x"]), max_size=2),
    st.sets(st.sampled_from(list(BRANCHES))),
)
def test_what_is_chosen_is_sorted_and_never_what_may_not_be(selected, excluded, never):
    chosen = choose(BRANCHES, selected, excluded, never)
    for names, kind in ((chosen.flat, "flat"), (chosen.jagged, "jagged")):
        assert names == sorted(names) and not never & set(names)
        assert all(BRANCHES[name].kind == kind for name in names)
    everything = choose(BRANCHES, selected, [], [])
    assert set(chosen.flat + chosen.jagged) <= set(everything.flat + everything.jagged)
