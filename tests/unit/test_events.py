"""Events as columns do what the same events as lists would."""

from itertools import pairwise

import numpy as np
import pytest
from data_tools import jagged, same_column, to_lists
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.data import events
from mlaas_condor.data.events import Jagged

LISTS = st.lists(st.lists(st.integers(-99, 99), max_size=4), max_size=20)


@st.composite
def some(draw):
    """Draw events: a flat branch, a jagged one, another with the same lengths, and one with others."""
    lists = draw(LISTS)
    other = draw(st.lists(st.lists(st.integers(0, 9), max_size=2), min_size=len(lists), max_size=len(lists)))
    return {
        "flat": np.arange(len(lists)) * 1.5,
        "pt": jagged(lists, np.int16),
        "eta": jagged([[-x for x in each] for each in lists], np.float32),
        "other": jagged(other, np.uint8),
    }


def as_lists(columns):
    return {name: to_lists(column) for name, column in columns.items()}


@given(some(), st.data())
def test_part_is_a_slice(columns, data):
    n = events.number_of(columns)
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    for name, column in columns.items():
        piece = events.part(column, start, stop)
        assert to_lists(piece) == to_lists(column)[start:stop], name
        values, whole = (piece.values, column.values) if isinstance(column, Jagged) else (piece, column)
        assert not len(values) or np.shares_memory(values, whole)


@given(some(), st.data())
def test_picking_by_mask_and_by_position(columns, data):
    n = events.number_of(columns)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_)
    rows = data.draw(st.lists(st.integers(0, n - 1), max_size=30)) if n else []  # also twice, and backwards
    lists = as_lists(columns)
    kept = events.pick(columns, mask)
    assert as_lists(kept) == {
        name: [x for x, yes in zip(each, mask, strict=True) if yes] for name, each in lists.items()
    }
    ordered = events.pick(columns, np.array(rows, np.int64))
    assert as_lists(ordered) == {name: [each[i] for i in rows] for name, each in lists.items()}
    for name in ("pt", "eta", "other"):
        assert ordered[name].values.dtype == columns[name].values.dtype
        assert ordered[name].counts.dtype == np.int64


@given(some(), st.lists(st.integers(0, 20), max_size=4))
def test_parts_join_to_the_whole(columns, cuts):
    n = events.number_of(columns)
    places = sorted({0, n, *(min(cut, n) for cut in cuts)})
    pieces = [
        {name: events.part(column, low, high) for name, column in columns.items()}
        for low, high in pairwise(places)
    ] or [columns]
    joined = events.concatenate(pieces)
    assert list(joined) == list(columns)
    assert all(same_column(joined[name], columns[name]) for name in columns)


def test_number_of_events():
    assert events.number_of({}) == 0
    assert events.number_of({"a": np.zeros(3)}) == 3
    assert events.number_of({"a": jagged([[], [], [1], [2, 3]])}) == 4


def test_offsets_of_equal_lengths_are_worked_out_once():
    counts = np.array([2, 0, 3])
    shapes = events.Shapes()
    offsets = shapes.offsets(counts)
    assert offsets.tolist() == [0, 2, 2, 5]
    assert shapes.offsets(counts) is offsets and shapes.offsets(counts.copy()) is offsets
    assert shapes.offsets(np.array([2, 3, 0])).tolist() == [0, 2, 5, 5]
    # Those that are shorter, but begin alike, are others.
    assert shapes.offsets(np.array([2, 0])).tolist() == [0, 2, 2]


def test_picking_a_position_that_is_not_there():
    with pytest.raises(IndexError):
        events.pick({"a": np.zeros(3), "b": jagged([[1], [2], []])}, np.array([3]))
