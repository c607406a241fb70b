"""Short texts for people, made from names and messages of others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def abridged(items: Sequence[str], most: int) -> str:
    """List the first few items: "a, b and 7 more"."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")


def printable(text: str) -> str:
    """Replace control characters, line breaks included, with question marks."""
    return "".join(character if character.isprintable() else "?" for character in text)


def escaped(text: str) -> str:
    """Plain text as Markdown: characters with a meaning in Markdown or HTML become character references."""
    return re.sub(r"[!\"#$&*:<>@\[\\\]^_`{|}~]", lambda found: f"&#{ord(found[0])};", printable(text))


def shortened(text: str, most: int) -> str:
    """Cut a text to ``most`` characters, the last one an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def one_line(said: Exception | str, most: int = 160) -> str:
    """A message on one line of at most ``most`` characters; the class name of an exception without a message."""
    return shortened(" ".join(str(said).split()) or type(said).__name__, most)


def gigabytes(n_bytes: int) -> str:
    """A number of bytes for people: "1.25 GB"."""
    return f"{n_bytes / 1e9:.3g} GB"


def gigaflops(number: float) -> str:
    """A number of GFLOPs for people, without an exponent: "2,231", "8.82"."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def parse_count(text: str) -> int:
    """A number with or without a suffix: 151000000, 151M, 1.5B or 10G; a ValueError if it is none."""
    factor = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9}.get(text[-1:].upper())
    try:
        return int(float(text[:-1]) * factor) if factor else int(text)
    except (ValueError, OverflowError):
        raise ValueError(f"'{text}' is not a number such as 200M or 1.5B") from None
