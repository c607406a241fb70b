"""Combine the chosen models' answers into one prediction per image."""

from mll_hf.ensemble.rules import Rule, combine

__all__ = ["Rule", "combine"]
