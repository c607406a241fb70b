"""Short texts for people."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf import errors
from mll_hf.errors import MLLError
from mll_hf.utils.text import abridged, gigaflops, normalized_name, one_line, printable, shortened
from worlds import examples


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("cat\u200b", "cat"),
        ("\ufeffcat\u00ad", "cat"),
        (" red\u00a0 \tcar\n", "red car"),
        ("a\x00b", "ab"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0631\u062f", "\u0645\u06cc\u200c\u062e\u0648\u0631\u062f"),
        ("\u200b", ""),
    ],
)
def test_names_have_one_spelling(spelling, name):
    assert normalized_name(spelling) == name
    assert normalized_name(name) == name


def test_enumerations():
    assert abridged([], 3) == ""
    assert abridged(["a"], 3) == "a"
    assert abridged(["a", "b", "c"], 3) == "a, b, c"
    assert abridged(["a", "b", "c", "d", "e"], 3) == "a, b, c and 2 more"


def test_gflops_of_small_and_of_very_large_models():
    assert [gigaflops(number) for number in (0, 0.021, 8.82, 99.5, 380.2, 2231.15)] == [
        "0", "0.021", "8.82", "99.5", "380", "2,231",
    ]  # fmt: skip


def test_an_exception_is_told_in_one_line():
    assert one_line(ValueError(" a\n  b ")) == "a b"
    assert one_line(ValueError()) == "ValueError"
    assert one_line("x" * 300) == "x" * 159 + "…"


@examples
@given(st.text(), st.integers(1, 20))
def test_texts_are_fit_to_print(text, most):
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
    assert printable(printable(text)) == printable(text)
    assert len(shortened(text, most)) <= most or text == shortened(text, most)
    assert text.startswith(shortened(text, most).removesuffix("…")) or text == shortened(text, most)
    assert "\n" not in one_line(text)


def every_error():
    path = Path("a\x1bb")
    yield errors.InputError("a\x1bb\nc")
    yield errors.GraphError("a\x1bb\nc", path)
    yield errors.LabelError("a\x1bb\nc", path)
    yield errors.CardError("a\x1bb\nc")
    yield errors.ModelError("a\x1bb", "c\nd")
    yield errors.HubError("a\x1bb", "c\nd")
    yield errors.DescribeError("a\x1bb\nc")
    yield errors.EncoderError("a\x1bb\nc")
    yield errors.StorageError(path, OSError(28, "no\nspace"))
    yield errors.MissingExtraError("a\x1bb", "models")


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_no_message_plays_with_the_terminal(error):
    assert isinstance(error, MLLError)
    assert str(error).isprintable()
    assert "a?b" in str(error)


def test_every_error_was_tried():
    ours = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MLLError)}
    assert ours - {MLLError} == {type(error) for error in every_error()}
