"""Label many models: skip labeled ones, continue after failures, publish each label as soon as it is made."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from mll_hf.errors import HubError, InputError, MLLError, StorageError
from mll_hf.hub.publish import publish_label, publish_to_collection, published_label, repo_of
from mll_hf.hub.repos import not_writable
from mll_hf.hub.sources import open_labels
from mll_hf.labeling.run import ModelResult, Outcome, Plan, label_model
from mll_hf.models import pick_device
from mll_hf.models.source import resolve_model
from mll_hf.utils.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mll_hf.labels.label import Label, ModelRef

T = TypeVar("T")
OWN_REPOS = "own"  # in place of a collection: each model's own repo
_MISSING = (401, 404)  # the Hub also answers 401 for missing repos
_log = logging.getLogger(__name__)


def label_many(
    models: Sequence[str], plan: Plan, on_start: Callable[[int, str], None] = lambda _number, _name: None
) -> Iterator[ModelResult]:
    """Label models one after the other in this process; a failure does not stop the others.

    Args:
        models: ``org/name[@revision]`` or ``local-dir:PATH``.
        plan: How to label them.
        on_start: Called before each model with its number, from 1, and its name.

    Yields:
        One result per model.

    Raises:
        InputError: The device is not available.
        StorageError: A file cannot be written; the next model would fail the same way.
    """

    def label(name: str) -> ModelResult:
        model = check(name, plan, published)
        return model if isinstance(model, ModelResult) else finish(name, measure(model, plan), plan)

    published = published_before(plan)
    if plan.device:
        pick_device(plan.device)  # fails before any work
    for number, name in enumerate(models, 1):
        on_start(number, name)
        yield attempt(name, partial(label, name))


def published_before(plan: Plan) -> Sequence[Label]:
    """The labels in the collection of a plan, before any work.

    Raises:
        InputError: The user or the token may not write to the collection, or it is malformed.
        HubError: The user is not logged in, or the Hub cannot be reached.
    """
    if plan.push_to in (None, OWN_REPOS):
        return ()
    if not_writable([repo_id := repo_of(plan.push_to)], "dataset"):
        raise InputError(
            f"you or your token may not write to {repo_id}; publish in a collection of your own, or log in with a "
            "token that can write to it"
        )
    try:
        return open_labels(plan.push_to).labels()
    except InputError:  # it has no labels yet
        return ()
    except HubError as error:
        if error.status in _MISSING:
            return ()
        raise


def attempt(name: str, act: Callable[[], T]) -> T | ModelResult:
    """The result of an action for a model; a failed one if it raises anything but a StorageError."""
    try:
        return act()
    except StorageError:
        raise
    except MLLError as error:
        return ModelResult(name, Outcome.FAILED, str(error))
    except Exception as error:  # a model may raise anything
        _log.warning("%s", name, exc_info=True)
        cause = f"{type(error).__name__}: {one_line(error)}"
        reason = f"model '{name}': cannot be run ({cause}); use another device, or leave it out"
        return ModelResult(name, Outcome.FAILED, printable(reason))


def check(name: str, plan: Plan, published: Sequence[Label]) -> ModelRef | ModelResult:
    """The pinned model to be labeled, or the result if it has a published label already.

    Nothing is downloaded that the Hub counts as a download.

    Raises:
        MLLError: The model cannot be labeled, or its label not be published.
    """
    model = resolve_model(name)
    if not plan.push_to:
        return model
    if model.is_local:
        raise InputError(f"{model.repo_id} is a local folder, so its label cannot be published; leave out --push-to")
    if plan.push_to == OWN_REPOS:
        page, label = published_label(model, plan.graph.digest) or ("", None)
        place = page if label and _is_of(label, model, plan) else None
    else:
        place = plan.push_to if any(_is_of(label, model, plan) for label in published) else None
    if place and not plan.overwrite:
        return ModelResult(name, Outcome.SKIPPED, f"labeled already: {place}")
    return model


def measure(model: ModelRef, plan: Plan) -> ModelResult:
    """Label a model, unless its label is in the store; see `label_model`."""
    try:
        return label_model(model, plan)
    finally:
        if plan.free_cache and not model.is_local:
            with suppress(CacheNotFound):  # nothing was downloaded
                scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(model.revision).execute()


def finish(name: str, result: ModelResult, plan: Plan) -> ModelResult:
    """Publish a label, if the plan says so; an MLLError if the Hub refuses."""
    result, label, graph = replace(result, name=name), result.label, plan.graph.with_probes(plan.probes.counts)
    if not plan.push_to or label is None:
        return result
    if plan.push_to == OWN_REPOS:
        published = publish_label(label, graph, rivals=plan.store.rivals_of(label))
    else:
        published = publish_to_collection([label], [graph], plan.push_to, rivals_of=plan.store.rivals_of)
    return replace(result, outcome=Outcome.LABELED, reason="", published=published)


def _is_of(label: Label, model: ModelRef, plan: Plan) -> bool:
    """Whether a label is one of a model, also at another revision, on the graph and at least the probe images."""
    return (
        (label.model.key == model.key if model.digest else label.model == model)
        and label.key == plan.key
        and label.images_per_concept >= plan.probes.images_per_concept
    )
