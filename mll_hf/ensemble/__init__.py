"""Run the chosen models as one classifier."""

from mll_hf.ensemble.rules import Rule, combine

__all__ = ["Rule", "combine"]
