"""Format short texts from untrusted names and messages."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def abridged(items: Sequence[str], max_items: int, separator: str = ", ") -> str:
    """List the first items: "a, b and 7 more"."""
    more = len(items) - max_items
    return separator.join(items[:max_items]) + (f" and {more} more" if more > 0 else "")


def listed_reasons(reasons: Sequence[object]) -> str:
    """The first of many messages about untrusted things, in one printable line."""
    return abridged([printable(one_line(str(reason), 600)) for reason in reasons], 3)


def printable(text: str) -> str:
    """Replace control characters, including line breaks, with question marks."""
    return "".join(character if character.isprintable() else "?" for character in text)


def escaped(text: str) -> str:
    """Escape text for Markdown and HTML: special characters, and colons without a space, become references."""
    return re.sub(r"[!\"#$&*<>@\[\\\]^_`{|}~]|:(?! )", lambda found: f"&#{ord(found[0])};", printable(text))


def shortened(text: str, max_length: int) -> str:
    """Truncate a text to ``max_length`` characters, including an ellipsis."""
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def one_line(message: Exception | str, max_length: int = 160) -> str:
    """A message on one line, truncated; the class name of an exception without a message."""
    return shortened(" ".join(str(message).split()) or type(message).__name__, max_length)


def gigabytes(n_bytes: int) -> str:
    """Format a number of bytes: "1.25 GB"."""
    return f"{n_bytes / 1e9:.3g} GB"


def gigaflops(number: float) -> str:
    """Format a number of GFLOPs without an exponent: "2,231", "8.82"."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def parameter_count(number: float) -> str:
    """A number of parameters for people: "2.4 B", "987 M"."""
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.3g} M"


def parse_count(text: str) -> int:
    """Parse a number with an optional suffix: 151000000, 151M, 1.5B or 10G; a ValueError if invalid."""
    factor = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9}.get(text[-1:].upper())
    try:
        return int(float(text[:-1]) * factor) if factor else int(text)
    except (ValueError, OverflowError):
        raise ValueError(f"'{text}' is not a number such as 200M or 1.5B") from None


def normalized_name(text: str) -> str:
    """A name in one spelling: NFC, without control and invisible characters, one space between words.

    The joiners U+200C and U+200D stay: words of Persian and Indic scripts, and emoji, are spelled with them.
    """
    visible = (" " if c.isspace() else c for c in unicodedata.normalize("NFC", text) if c.isspace() or _is_visible(c))
    return " ".join("".join(visible).split())


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf") or character in "\u200c\u200d"
