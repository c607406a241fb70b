"""Commands and options that messages name exist, and can be followed as they are written."""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import shlex
from pathlib import Path

import pytest

import mll_hf
from mll_hf.cli import build_parser

SOURCES = sorted(Path(mll_hf.__file__).parent.rglob("*.py"))
COMMAND = re.compile(r"mll-hf ((?:[a-z]+ ?){1,2}(?:'[^']*' ?|[^\s;,`'()>]+ ?)*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]{3,}")
ELSEWHERE = {"--push-to", "--data-binary"}  # of scripts/label_models.py and curl


def texts(path):
    """The texts of messages in a source, joined where Python joins them; X for what is filled in."""
    tree = ast.parse(path.read_text("utf-8"))
    filled = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {part for node in filled for part in node.values}
    for node in filled:
        yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield node.value.replace("%s", "X")


ADVICE = sorted({found.rstrip(" .:") for path in SOURCES for text in texts(path) for found in COMMAND.findall(text)})


def options(parser):
    """All option strings of a parser and its commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options(command)


def parses(words):
    try:
        build_parser().parse_args(words)
    except SystemExit as end:
        return end.code == 0
    return True


def test_there_is_advice():
    assert len(ADVICE) >= 20


@pytest.mark.parametrize("advice", ADVICE)
def test_every_command_in_a_message_is_one(advice, capsys):
    """What has a value for an option or a placeholder is parsed; of prose such as "by 'mll-hf fit'", the command."""
    words = shlex.split(advice)
    names = list(itertools.takewhile(lambda word: re.fullmatch("[a-z]+", word), words))
    is_whole = bool(re.search("[A-Z/]", advice))
    is_command = not is_whole and any(parses([*names[:n], "--help"]) for n in (2, 1))
    assert is_command or parses(words), capsys.readouterr().err


def test_every_option_in_a_message_is_one():
    known = {*options(build_parser()), *ELSEWHERE}
    named = {(option, path.name) for path in SOURCES for text in texts(path) for option in OPTION.findall(text)}
    assert not [each for each in named if each[0] not in known]
