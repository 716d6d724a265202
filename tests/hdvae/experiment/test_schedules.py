"""Schedules: their values, and what is refused."""

import doctest
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

import hdvae.experiment.schedules
from hdvae.experiment.schedules import Ramp, ScheduleSpec, constant, joined_lines, ramp, schedule, values

SPEC = TypeAdapter(ScheduleSpec)
finite = st.floats(-1e6, 1e6)
points = st.lists(st.tuples(st.integers(0, 10**6), finite), min_size=1, max_size=6, unique_by=lambda p: p[0]).map(
    lambda found: tuple(sorted(found))
)


def test_the_examples_of_the_documentation():
    assert doctest.testmod(hdvae.experiment.schedules).failed == 0
    assert doctest.testmod(hdvae.experiment.schedules).attempted > 3


def test_constant():
    assert [constant(0.5)(step) for step in (0, 10**9)] == [0.5, 0.5]


def test_joined_lines_by_hand():
    value = joined_lines(((10, 1.0), (20, 3.0), (40, 2.0)))
    assert [value(step) for step in (0, 10, 15, 20, 30, 40, 99)] == [1.0, 1.0, 2.0, 3.0, 2.5, 2.0, 2.0]


def test_a_single_point_is_constant():
    assert [joined_lines(((5, 2.0),))(step) for step in (0, 5, 6)] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("shape", "middle"),
    [("linear", 0.5), ("exponential", math.sqrt(0.8 * 0.2)), ("cosine", 0.5)],
)
def test_ramps_by_hand(shape, middle):
    value = ramp(Ramp(start=0.8, end=0.2, steps=100, shape=shape))
    assert [value(step) for step in (0, 50, 100, 1000)] == pytest.approx([0.8, middle, 0.2, 0.2])


def test_shapes_differ_a_quarter_of_the_way():
    quarter = {s: ramp(Ramp(start=1.0, end=0.25, steps=8, shape=s))(2) for s in ("linear", "exponential", "cosine")}
    cosine = 0.25 + 0.75 * (1 + math.sqrt(0.5)) / 2
    assert quarter == pytest.approx({"linear": 0.8125, "exponential": 0.25**0.25, "cosine": cosine})


@given(points)
def test_joined_lines_go_through_their_points(found):
    value = joined_lines(found)
    for step, expected in found:
        assert value(step) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(points, st.integers(0, 10**6))
def test_extremes_of_a_schedule_are_among_its_values(found, step):
    low, high = min(values(found)), max(values(found))
    assert low - 1e-6 <= joined_lines(found)(step) <= high + 1e-6


@given(st.sampled_from(["linear", "exponential", "cosine"]), st.floats(0.01, 9), st.floats(0.01, 9), st.integers(0, 50))
def test_extremes_of_a_ramp_are_its_ends(shape, start, end, step):
    spec = Ramp(start=start, end=end, steps=30, shape=shape)
    assert min(values(spec)) * (1 - 1e-9) <= schedule(spec)(step) <= max(values(spec)) * (1 + 1e-9)
    assert schedule(spec)(30) == pytest.approx(end)


def test_schedule_of_each_written_form():
    assert schedule(SPEC.validate_python(2))(7) == 2.0
    assert schedule(SPEC.validate_python([[0, 1], [10, 2]]))(5) == 1.5
    assert schedule(SPEC.validate_python({"start": 1.0, "end": 0.0, "steps": 4}))(1) == 0.75
    assert values(2.0) == [2.0]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("0.5", "'0.5' is not a schedule: write a number, points"),
        (True, "True is not a schedule"),
        (None, "None is not a schedule"),
        (math.nan, "nan is not a schedule"),
        (math.inf, "inf is not a schedule"),
        ([], "a list of [step, value] pairs"),
        ([0, 0.8], "a list of [step, value] pairs"),
        ([[0, 0.8, 1]], "a list of [step, value] pairs"),
        ([[0, "0.8"]], "a list of [step, value] pairs"),
        ([[0, 0.8], [0, 0.1]], "must increase, got [0, 0]"),
        ([[10, 0.8], [5, 0.1]], "must increase, got [10, 5]"),
        ({"start": 1.0, "end": 0.1}, "steps is missing"),
        ({"start": 1.0, "end": 0.1, "step": 4}, "unknown field step; did you mean 'steps'?"),
        ({"start": 1.0, "end": 0.1, "steps": 4, "shape": "sine"}, "shape: "),
        ({"start": "x", "end": 0.1, "steps": 4}, "start: "),
    ],
)
def test_what_is_no_schedule(spec, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        SPEC.validate_python(spec)


@pytest.mark.parametrize(
    "spec", [0.5, ((0, 0.8), (10, 0.1)), Ramp(start=1.0, end=0.1, steps=5, shape="cosine"), 3, [[0, 1]]]
)
def test_written_schedules_come_back(spec):
    read = SPEC.validate_python(spec)
    assert SPEC.validate_python(SPEC.dump_python(read)) == read
    assert SPEC.validate_json(SPEC.dump_json(read)) == read


def test_points_have_one_form():
    """The same settings have the same fingerprint however their steps were written."""
    assert SPEC.dump_json(SPEC.validate_python([[0.0, 1], [1e3, 2]])) == SPEC.dump_json(
        SPEC.validate_python([[0, 1.0], [1000, 2.0]])
    )
