"""Run a budgeted trial: try the models of a shortlist on a task's images, one by one."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError, MissingExtraError, ModelError
from mll_hf.selection.beliefs import prior_from_estimates
from mll_hf.selection.trial import plan_trial, run_trial
from mll_hf.selection.unlabeled import choose_with_images, trial_beliefs, trial_evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mll_hf.ensemble.run import Ensemble
    from mll_hf.selection import Selection, SelectionConfig
    from mll_hf.selection.beliefs import Beliefs
    from mll_hf.selection.trial import TrialPlan
    from mll_hf.utils.examples import Examples
    from mll_hf.utils.images import ImageLike

_log = logging.getLogger(__name__)


def try_models(
    ensemble: Ensemble,
    config: SelectionConfig,
    images: Sequence[ImageLike],
    examples: Examples,
    sizes: Sequence[int],
    approve: Callable[[TrialPlan], bool] | None = None,
) -> Selection:
    """Choose among the U models of a shortlist by a trial.

    Args:
        ensemble: The shortlist's models, not loaded yet.
        config: Gives the budget, ``k`` and ``shares``.
        images: Images of the task.
        examples: More images with ground truth; may be empty.
        sizes: [U] download sizes in bytes.
        approve: Called with the plan before anything is fetched; returns False to decline it.

    Raises:
        InputError: There are too few readable images, no model fits in the budget, or the plan is declined.
        ModelError: All models fail; this is the error of the last one.
    """
    shortlist, templates = ensemble.selection, ensemble.prompt_templates
    if shortlist.estimates is None:
        raise ValueError("the shortlist has no estimates")
    run = ensemble.model_runner([*examples.images, *images])
    estimates = shortlist.estimates.subset(shortlist.union)
    prior = prior_from_estimates(estimates)
    plan = plan_trial(prior, sizes, config.max_download, [shortlist.models[m].name for m in shortlist.union])
    if approve and not approve(plan):
        raise InputError("the trial was declined; nothing was downloaded")
    found: dict[int, NDArray[np.float32]] = {}
    failures: dict[int, ModelError | MissingExtraError] = {}

    def attempt(position: int) -> bool:
        try:
            found[position] = run(shortlist.union[position])
        except (ModelError, MissingExtraError) as error:
            failures[position] = error
            _log.warning("skipped in the trial: %s", error)
        return position in found

    def logits_of(tried: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Logits of the images with logits from all of these models, and the classes of the examples among them."""
        logits = np.stack([found[position] for position in tried])
        answered = np.asarray(np.isfinite(logits).all(axis=(0, 2)))
        return logits[:, answered], examples.classes[answered[: len(examples.classes)]]

    @cache
    def believe(tried: tuple[int, ...]) -> Beliefs:
        (logits, classes), rows = logits_of(tried), [shortlist.union[position] for position in tried]
        evidence = trial_evidence(shortlist, rows, logits, config, templates)
        return trial_beliefs(estimates, tried, logits, evidence, classes)

    tried = run_trial(prior, sizes, config.max_download, attempt, believe)
    if not tried:
        raise list(failures.values())[-1]
    if len(tried) == 1 and not examples.images:
        _log.warning(
            "only %s could be tried, so there is no other model to agree with: its accuracy is estimated from labels "
            "only; try more models, or give examples with their class",
            shortlist.models[shortlist.union[tried[0]]].name,
        )
    logits, classes = logits_of(tried)
    return choose_with_images(shortlist, tried, logits, config, templates, classes)
