"""Short texts for people, made of what strangers and libraries say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def abridged(items: Sequence[str], most: int) -> str:
    """Enumerate the first few items: "a, b and 7 more"."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")


def printable(text: str) -> str:
    """A text with a question mark for whatever a terminal should not be sent; line breaks too."""
    return "".join(character if character.isprintable() else "?" for character in text)


def shortened(text: str, most: int) -> str:
    """A text, cut and marked so if it is longer than ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def one_line(said: Exception | str, most: int = 160) -> str:
    """What an exception says, without line breaks and not too long; its kind if it says nothing."""
    return shortened(" ".join(str(said).split()) or type(said).__name__, most)


def markdown_table(header: Sequence[str], rule: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table of cells that are Markdown already; the rule aligns: ``---`` or ``---:`` a column."""
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
