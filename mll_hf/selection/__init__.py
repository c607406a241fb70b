"""From evidence to estimates to a selection."""

from mll_hf.selection.base import Candidates, Evidence, NoneFitsError, SelectionConfig, Strategy
from mll_hf.selection.result import MatchedConcept, SelectedModel, Selection
from mll_hf.selection.select import choose, choose_within, score, select, select_by_imagenet
from mll_hf.selection.unlabeled import choose_with_images, shortlisting

__all__ = [
    "Candidates",
    "Evidence",
    "MatchedConcept",
    "NoneFitsError",
    "SelectedModel",
    "Selection",
    "SelectionConfig",
    "Strategy",
    "choose",
    "choose_with_images",
    "choose_within",
    "score",
    "select",
    "select_by_imagenet",
    "shortlisting",
]
