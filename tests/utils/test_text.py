"""Short texts for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from mll_hf import errors
from mll_hf.errors import MLLError
from mll_hf.utils.text import normalized_name


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


def every_error():
    path = Path("a\x1bb")
    yield errors.InputError("a\x1bb\nc")
    yield errors.NoLabelsError("a\x1bb\nc")
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
    ours = {
        kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, MLLError) and not name.startswith("_")
    }
    assert ours - {MLLError} == {type(error) for error in every_error()}
