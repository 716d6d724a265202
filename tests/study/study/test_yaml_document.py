"""YAML as study files may have it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdvae.errors import InputError
from hdvae_platform.study.yaml_document import Document, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:40", "1:40"),
        ("040", 40),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("+12", 12),
        ("2e-3", 2e-3),
        ("1E5", 1e5),
        ("2.", 2.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("e5", "e5"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("True", True),
        ("~", None),
        ("", None),
        ("2026-11-28", "2026-11-28"),
        ("0x_", "0x_"),
        ("'1'", "1"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ("{<<: {a: 1}}", {"<<": {"a": 1}}),
        ("[&a {x: 1}, *a]", [{"x": 1}, {"x": 1}]),
    ],
)
def test_scalars_are_those_of_the_core_schema(text, value):
    found = read_yaml(text, "x")
    assert (found, type(found)) == (value, type(value))


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2", "x:2: field a is given twice"),
        ("a: 1\n2: b", "x:2: a field's name must be a text"),
        ("? [1]\n: b", "x:1: a field's name must be a text"),
        ("a: &a [*a]", "x:1: a value holds itself"),
        (BOMB, "more than 100000 values"),
        ("[" * 3000, "x: nested too deeply"),
        ("a: !!int x", "x:1: no number: x"),
        ("a: !!float [1]", "x:1: expected a scalar node"),
        ("a: " + "9" * 5000, "x:1: no number: 99999999999999999999"),
        ("a: !!python/object/apply:os.system ['true']", "x:1: could not determine a constructor"),
        ("a: !!timestamp 2026-13-45", "x:1: could not determine a constructor"),
        ("a: !!binary x", "x:1: could not determine a constructor"),
        ("a: *b", "x:1: not valid YAML: found undefined alias"),
        ("a: 1\n---\nb: 2", "x:2: not valid YAML"),
        ("a: \x07", "x: not valid YAML: unacceptable character"),
    ],
)
def test_what_is_refused_in_one_line(text, told):
    with pytest.raises(InputError) as fault:
        read_yaml(text, "x")
    assert told in str(fault.value)
    assert "\n" not in str(fault.value)


@given(st.text(alphabet=st.sampled_from("ab01:-,[]{}&*!'\"|>#?%@ \n\t.~e_")))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        read_yaml(text, "x")
    except InputError as fault:
        told = str(fault)
    else:
        told = ""
    assert len(told.splitlines()) <= 1


def test_messages_that_begin_with_a_field_get_its_line():
    document = Document.read("a:\n  b: 1\nspace:\n  p.q:\n    low: 2\nlist:\n- c: 1\n- c: 2\n", "x")
    for message, line in (
        ("a.b: bad", 2),
        ("unknown field a.b.c; d", 2),
        ("a.z is missing", 1),
        ("space.p.q.low: no", 5),
    ):
        assert document.located(f"x: {message}") == f"x:{line}: {message}"
    assert (
        document.located("x: list.1.c: bad\nx: a: so\nx: nothing: so")
        == "x: nothing: so\nx:1: a: so\nx:8: list.1.c: bad"
    )
    assert document.located("--set: a.b: bad") == "--set: a.b: bad"
