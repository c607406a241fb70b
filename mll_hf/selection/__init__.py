"""Estimate accuracies from the evidence and select models."""

from mll_hf.selection.base import Candidates, Evidence, NoModelFitsError, SelectionConfig, Strategy
from mll_hf.selection.result import MatchedConcept, SelectedModel, Selection
from mll_hf.selection.select import choose, choose_at_most, score, select, select_by_imagenet
from mll_hf.selection.unlabeled import choose_with_images, shortlist_config

__all__ = [
    "Candidates",
    "Evidence",
    "MatchedConcept",
    "NoModelFitsError",
    "SelectedModel",
    "Selection",
    "SelectionConfig",
    "Strategy",
    "choose",
    "choose_at_most",
    "choose_with_images",
    "score",
    "select",
    "select_by_imagenet",
    "shortlist_config",
]
