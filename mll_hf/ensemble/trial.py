"""Run a budgeted trial: try the models of a shortlist on a task's images, one by one."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.ensemble.embedding import image_digest
from mll_hf.ensemble.rules import linear_pool
from mll_hf.errors import InputError, MissingExtraError, ModelError
from mll_hf.labels.label import UNPINNED
from mll_hf.selection.budget import Shortlist, plan_trial, run_trial
from mll_hf.selection.candidates import NOMINATED
from mll_hf.selection.suggest import suggest
from mll_hf.selection.task import MIN_IMAGES, check_image_count, trial_sample
from mll_hf.selection.with_images import choose_with_images, estimate_in_trial, trial_prior
from mll_hf.utils.images import warn_of_unreadable
from mll_hf.utils.reach import hub_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mll_hf.ensemble.embedding import EmbeddingCache
    from mll_hf.ensemble.run import Ensemble
    from mll_hf.selection import Estimate, Selection, SelectionConfig, Task
    from mll_hf.selection.budget import TrialPlan
    from mll_hf.selection.candidates import SelectedModel
    from mll_hf.selection.head import Head
    from mll_hf.utils.images import ImageLike

_log = logging.getLogger(__name__)


def try_models(
    ensemble: Ensemble,
    config: SelectionConfig,
    task: Task,
    sizes: Sequence[int] | None = None,
    approve: Callable[[TrialPlan], bool] | None = None,
    cache: EmbeddingCache | None = None,
) -> Selection:
    """Fit the U models of a shortlist, which are not loaded yet, to a task's images in a trial, and choose among them.

    ``config`` gives the budget and ``k``; ``sizes`` [U] are download sizes in bytes, by default looked up. ``approve``
    is called with the plan before anything is fetched, and returns False to decline it.

    Raises:
        InputError: There are too few readable images, no model fits in the budget, or the plan is declined.
        ModelError: No model is pinned to a commit, or all models fail; this is the error of the last one.
    """
    selection = ensemble.selection
    if selection.estimate is None:
        raise ValueError("the shortlist has no estimate")
    images = [*task.examples.images, *task.images]
    _check_different(images)
    run = ensemble.model_runner(images, cache)
    models = [selection.models[m] for m in selection.chosen_models]
    sizes = sizes or _download_sizes(models, ensemble.token)
    prior = trial_prior(selection.estimate.subset(selection.chosen_models))
    names, nominated = [model.name for model in models], [model.figures in NOMINATED for model in models]
    shortlist = Shortlist(prior, sizes, config.max_download, nominated)
    plan = plan_trial(shortlist, names)
    if approve and not approve(plan):
        raise InputError("the trial was declined; nothing was downloaded")
    found: dict[int, tuple[NDArray[np.float32], Head]] = {}
    failures: list[ModelError | MissingExtraError] = []

    def attempt(position: int) -> bool:
        try:
            found[position] = run(selection.chosen_models[position])
        except (ModelError, MissingExtraError) as error:
            failures.append(error)
            _log.warning("skipped in the trial: %s", error)
        return position in found

    def embedded(
        tried: Sequence[int],
    ) -> tuple[list[tuple[NDArray[np.float32], Head]], NDArray[np.int64], NDArray[np.float64]]:
        """Images that all of these models embedded, with the models' heads; classes and weights of the examples."""
        answered = np.all([np.isfinite(found[position][0]).all(axis=1) for position in tried], axis=0)
        pairs = [(found[position][0][answered], found[position][1]) for position in tried]
        known = answered[: len(task.examples.classes)]
        return pairs, task.examples.classes[known], task.examples.weights[known]

    def estimated(tried: tuple[int, ...]) -> Estimate:
        return estimate_in_trial(prior, tried, *embedded(tried)[:2], task.shares)

    tried = run_trial(shortlist, attempt, estimated)
    if not tried:
        raise failures[-1]
    warn_of_unreadable([images[n] for n in np.flatnonzero(~np.isfinite(found[tried[0]][0]).all(axis=1))])
    pairs, classes, weights = embedded(tried)
    check_image_count(len(pairs[0][0]))
    if len(tried) == 1 and not len(classes):
        _log.warning(
            "only %s could be tried, so there is no other model to compare it with; try more models, or give examples "
            "with their class",
            names[tried[0]],
        )
    return choose_with_images(selection, tried, pairs, config, classes, task.shares, weights)


def _check_different(images: Sequence[ImageLike]) -> None:
    """Read images until enough different ones are found; InputError if there are too few."""
    digests = set[str]()
    for image in images:
        digests.add(image_digest(image))
        if len(digests) == MIN_IMAGES:
            return
    check_image_count(len(digests), "different")


def _download_sizes(models: Sequence[SelectedModel], token: str | None) -> list[int]:
    from mll_hf.hub.connection import map_parallel
    from mll_hf.models.source import bytes_to_fetch

    def size(model: SelectedModel) -> int:
        if model.ref.revision == UNPINNED:  # cannot be fetched, so it uses none of the budget
            return sys.maxsize
        return bytes_to_fetch(model.ref, model.cost.parameters, token)

    if all(model.ref.revision == UNPINNED for model in models):
        reason = f"none of the {len(models)} to try is in the local cache, and {hub_error()}" if hub_error() else ""
        raise ModelError(models[0].ref.repo_id, f"{reason or 'no commit is known'}; go online once")
    return map_parallel(size, models)


def fitted_probabilities(ensemble: Ensemble, images: Sequence[ImageLike], cache: EmbeddingCache) -> NDArray[np.float64]:
    """[N, C] probabilities by the heads of a selection; NaN for unreadable images.

    Embeddings that the fit kept are in the cache; what is missing is computed.
    """
    selection, run = ensemble.selection, ensemble.model_runner(images, cache)
    chosen = list(selection.chosen_models)
    logits = np.stack([ensemble.head(m).logits(run(m)[0]) for m in chosen])
    return linear_pool(logits, selection.weights[chosen])


def suggest_images(
    ensemble: Ensemble, images: Sequence[ImageLike], count: int, cache: EmbeddingCache, most_images: int = 256
) -> list[tuple[ImageLike, str, float]]:
    """Suggest images to label, with their predicted class and their weight as an example.

    The ensemble is that of a selection that was fitted to at most ``most_images`` of these unlabeled images. An
    InputError if fewer than ``count`` are readable.
    """
    images = [images[n] for n in trial_sample(len(images), most_images)]
    probabilities = fitted_probabilities(ensemble, images, cache)
    readable = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    drawn, weights = suggest(probabilities[readable], count)
    names = [ensemble.selection.classes[y] for y in probabilities[readable[drawn]].argmax(axis=1)]
    return [(images[n], *row) for n, *row in zip(readable[drawn], names, weights.tolist(), strict=True)]
