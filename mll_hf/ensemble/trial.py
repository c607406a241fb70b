"""Run a budgeted trial: try the models of a shortlist on a task's images, one by one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError, MissingExtraError, ModelError
from mll_hf.selection.budget import plan_trial, run_trial
from mll_hf.selection.with_images import choose_with_images, estimate_in_trial, trial_prior

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mll_hf.ensemble.run import Ensemble
    from mll_hf.selection import Estimate, Selection, SelectionConfig, Task
    from mll_hf.selection.budget import TrialPlan

_log = logging.getLogger(__name__)


def try_models(
    ensemble: Ensemble,
    config: SelectionConfig,
    task: Task,
    sizes: Sequence[int],
    approve: Callable[[TrialPlan], bool] | None = None,
) -> Selection:
    """Choose among the U models of a shortlist by a trial.

    Args:
        ensemble: The shortlist's models, not loaded yet.
        config: Gives the budget and ``k``.
        task: The task, with images or examples.
        sizes: [U] download sizes in bytes.
        approve: Called with the plan before anything is fetched; returns False to decline it.

    Raises:
        InputError: There are too few readable images, no model fits in the budget, or the plan is declined.
        ModelError: All models fail; this is the error of the last one.
    """
    shortlist, templates = ensemble.selection, ensemble.prompt_templates
    if shortlist.estimate is None:
        raise ValueError("the shortlist has no estimate")
    run = ensemble.model_runner([*task.examples.images, *task.images])
    prior = trial_prior(shortlist.estimate.subset(shortlist.chosen_models))
    names = [shortlist.models[m].name for m in shortlist.chosen_models]
    plan = plan_trial(prior, sizes, config.max_download, names)
    if approve and not approve(plan):
        raise InputError("the trial was declined; nothing was downloaded")
    found: dict[int, NDArray[np.float32]] = {}
    failures: dict[int, ModelError | MissingExtraError] = {}

    def attempt(position: int) -> bool:
        try:
            found[position] = run(shortlist.chosen_models[position])
        except (ModelError, MissingExtraError) as error:
            failures[position] = error
            _log.warning("skipped in the trial: %s", error)
        return position in found

    def logits_of(tried: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Logits of the images with logits from all of these models, and the classes of the examples among them."""
        logits = np.stack([found[position] for position in tried])
        answered = np.asarray(np.isfinite(logits).all(axis=(0, 2)))
        return logits[:, answered], task.examples.classes[answered[: len(task.examples.classes)]]

    def estimated(tried: tuple[int, ...]) -> Estimate:
        return estimate_in_trial(shortlist, tried, *logits_of(tried), task.shares)

    tried = run_trial(prior, sizes, config.max_download, attempt, estimated)
    if not tried:
        raise list(failures.values())[-1]
    if len(tried) == 1 and not task.examples.images:
        _log.warning(
            "only %s could be tried, so there is no other model to compare it with; try more models, or give examples "
            "with their class",
            names[tried[0]],
        )
    logits, classes = logits_of(tried)
    return choose_with_images(shortlist, tried, logits, config, templates, classes, task.shares)
