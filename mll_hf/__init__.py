"""Choose and reuse open vision-language models from the Hugging Face Hub without trying them all."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mll_hf.client import Client
    from mll_hf.ensemble import Rule
    from mll_hf.errors import MLLError
    from mll_hf.labels.label import Label
    from mll_hf.pipelines import pipeline
    from mll_hf.selection import Selection, SelectionConfig, Strategy

__version__ = "0.1.0"
__all__ = [
    "Client",
    "Label",
    "MLLError",
    "Rule",
    "Selection",
    "SelectionConfig",
    "Strategy",
    "__version__",
    "pipeline",
]

_HOMES = {
    "Client": "mll_hf.client",
    "MLLError": "mll_hf.errors",
    "Label": "mll_hf.labels.label",
    "Rule": "mll_hf.ensemble",
    "Selection": "mll_hf.selection",
    "SelectionConfig": "mll_hf.selection",
    "Strategy": "mll_hf.selection",
    "pipeline": "mll_hf.pipelines",
}


def __getattr__(name: str) -> object:
    """Import public names on first use, to keep `import mll_hf` fast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
