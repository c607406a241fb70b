"""The parser of the command line: short help, errors of one line, and what most resembles a mistyped word."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable


class Parser(argparse.ArgumentParser):
    """A parser whose help shows the options of the group ``more`` only with ``--help-all``."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - those of argparse
        super().__init__(**options)
        self.more = self.add_argument_group("more options")
        self.add_argument("--help-all", action=_HelpAll, nargs=0, help="show all options")
        self.more.add_argument(
            "-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="print no notes, only the result"
        )

    def format_help(self) -> str:
        """The usual options."""
        texts = [(action, action.help) for action in self.more._group_actions]
        for action, _ in texts:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, text in texts:
                action.help = text

    def error(self, message: str) -> NoReturn:
        """Exit with one line."""
        self.exit(2, f"mll-hf: error: {message}; see: {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # noqa: ANN401
        """Refuse an unknown option in the name of the command that it was given to."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            nearest = _nearest(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{nearest}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:  # noqa: ANN401
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            hint = _nearest(str(value), known) or f"; there are {', '.join(known)}"
            raise argparse.ArgumentError(action, f"there is no '{value}'{hint}")


def _nearest(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, known, 1, 0.75)
    return f"; did you mean {near[0]}?" if near else ""


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:  # noqa: ANN401
        print(argparse.ArgumentParser.format_help(parser), end="")
        parser.exit()
