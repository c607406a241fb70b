"""The source from which this package can be installed.

The distribution is not on PyPI, and its name is not reserved there. So it must never be installed by name alone: anyone
who registers the name could run code with the user's token.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

DISTRIBUTION = "mll-hf"  # [project] name in pyproject.toml
PACKAGE_VARIABLE = "MLL_HF_PACKAGE"
_CHECKOUT = Path(__file__).resolve().parents[1]


def package_source() -> str | None:
    """The source of this package: the path of a wheel, a URL, or a name on a registry that the user trusts.

    Returns:
        ``$MLL_HF_PACKAGE``, or else the newest wheel in ``dist/`` of this checkout; None if there is neither.
    """
    if named := os.environ.get(PACKAGE_VARIABLE, "").strip():
        return named
    wheels = list(_CHECKOUT.glob("dist/mll_hf-*.whl"))
    return str(max(wheels, key=lambda wheel: wheel.stat().st_mtime)) if wheels else None


def wheel_of(source: str) -> Path | None:
    """The path of a source that is a local wheel; None for other sources."""
    return Path(source) if source.endswith(".whl") and "://" not in source else None


def requirement(source: str, extra: str = "") -> str:
    """A source as a requirement specifier that may be published: ``mll-hf[models] @ https://...``.

    User, password and query of a URL, which may hold tokens, are left out.

    Args:
        source: Result of :func:`package_source`.
        extra: One or more extras, separated by commas.
    """
    extras = f"[{extra}]" if extra else ""
    if wheel := wheel_of(source):
        return f"{DISTRIBUTION}{extras} @ {wheel.absolute().as_uri()}"
    if "://" in source:
        url = urlsplit(source)
        return f"{DISTRIBUTION}{extras} @ {url._replace(netloc=url.netloc.rpartition('@')[2], query='').geturl()}"
    name, version = re.fullmatch(r"([\w.-]*)(.*)", source, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{name}{extras}{version}"
