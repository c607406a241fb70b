"""Estimate accuracies on a task and select models."""

from mll_hf.selection.candidates import Candidates, Figures, SelectedModel
from mll_hf.selection.estimate import Basis, Estimate
from mll_hf.selection.head import Head
from mll_hf.selection.result import MatchedConcept, Selection
from mll_hf.selection.select import select
from mll_hf.selection.strategies import STRATEGIES, SelectionConfig, Strategy
from mll_hf.selection.task import Task
from mll_hf.selection.with_images import choose_with_images, shortlist_config

__all__ = [
    "STRATEGIES",
    "Basis",
    "Candidates",
    "Estimate",
    "Figures",
    "Head",
    "MatchedConcept",
    "SelectedModel",
    "Selection",
    "SelectionConfig",
    "Strategy",
    "Task",
    "choose_with_images",
    "select",
    "shortlist_config",
]
