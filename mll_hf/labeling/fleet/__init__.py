"""Label many models: which ones, what is labeled already, and what became of each.

What is labeled already is found out before any weights are downloaded, and no file that the Hub counts as a download
is touched for it. A model that fails does not stop the others; a run that was killed goes on where it stopped.
"""

from __future__ import annotations

from mll_hf.labeling.fleet.destinations import CollectionRepo, Destination, OwnRepos, Question, check_login
from mll_hf.labeling.fleet.jobs import Jobs, start_jobs
from mll_hf.labeling.fleet.models import ModelFilter, list_models, paper_models, read_models
from mll_hf.labeling.fleet.runs import Fleet, ModelResult, Outcome, run, working_folder

__all__ = [
    "CollectionRepo",
    "Destination",
    "Fleet",
    "Jobs",
    "ModelFilter",
    "ModelResult",
    "Outcome",
    "OwnRepos",
    "Question",
    "check_login",
    "list_models",
    "paper_models",
    "read_models",
    "run",
    "start_jobs",
    "working_folder",
]
