"""Label models: embed the captions and all probe images, count the contests, write and publish the labels.

Embedding the images is the costly part: each is decoded and embedded once, and an interrupted run resumes. Of many
models, labeled ones are skipped, a failure stops no other, and each label is published as soon as it is made.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from mll_hf import __version__
from mll_hf.errors import GraphError, HubError, InputError, LabelError, MLLError, StorageError
from mll_hf.hub.publish import publish_label, publish_to_collection, published_label, repo_of
from mll_hf.hub.repos import licenses_of, not_writable
from mll_hf.hub.sources import open_labels
from mll_hf.labeling.contest import Contest
from mll_hf.labeling.encoding import EmbeddingLog, embedded_probes, locked
from mll_hf.labels.label import Label, LabelKey, ProbeEmbeddings, Rivals
from mll_hf.labels.store import check_label_fits, label_path, read_label
from mll_hf.models import environment_of, load_model, pick_device
from mll_hf.models.source import resolve_model
from mll_hf.utils.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.hub.repos import Published
    from mll_hf.labels.label import ModelRef
    from mll_hf.labels.store import LabelStore
    from mll_hf.models import VisionLanguageModel

T = TypeVar("T")
OWN_REPOS = "own"  # in place of a collection: each model's own repo
_MISSING = (401, 404)  # the Hub also answers 401 for missing repos
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How to label one or many models."""

    graph: SemanticGraph
    probes: ProbeSet  # the graph's images
    store: LabelStore  # folder for labels and unfinished runs
    push_to: str | None = None  # collection to publish in, hf://datasets/org/name; or "own": each model's own repo
    device: str | None = None  # cuda, cuda:1, mps or cpu; by default the best available device
    batch_size: int | None = None  # images per batch; by default chosen for the device
    keep_embeddings: bool = False  # for an exact strategy paper; a label without embeddings is measured again
    overwrite: bool = False  # measure labeled models again
    free_cache: bool = False  # delete each model from the cache of downloads after its turn

    @property
    def key(self) -> LabelKey:
        """The graph and the probe images by their digests."""
        return LabelKey(self.graph.digest, self.probes.digest)


class Outcome(StrEnum):
    """Outcome for one model."""

    LABELED = "labeled"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelResult:
    """Result for one model."""

    name: str  # as the user named it
    outcome: Outcome
    reason: str = ""  # why it was skipped or failed, in one line
    label: Label | None = None  # if it was labeled, or found in the folder
    path: Path | None = None  # file of the label
    published: Published | None = None
    undecodable: int = 0  # probe images that could not be decoded; they do not count


# --- one model --------------------------------------------------------------------------------------------------------


def label_model(ref: ModelRef, plan: Plan) -> ModelResult:
    """Measure a model and add its label to the store, unless it is there; nothing is published.

    An interrupted run resumes where it stopped, in the same environment only, and writes the same bytes as a run
    without interruption.

    Raises:
        InputError: Another run labels the model in this store, or the store has a label of more images without
            embeddings.
        ModelError: The model cannot be loaded or run.
        GraphError: The images cannot be read, or more than a twentieth of them cannot be decoded.
        StorageError: The store cannot be written; finished embeddings are kept if possible.
    """
    probes, store = plan.probes, plan.store
    graph = plan.graph.with_probes(probes.counts)
    store.add_graph(graph)
    path = store.folder / label_path(ref, plan.key)
    folder = store.folder / ".partial" / f"{ref.slug}--{(ref.digest or ref.revision)[:12]}--{probes.digest[:12]}"
    with locked(folder):
        if existing := None if plan.overwrite else _existing_label(ref, plan, path):
            return ModelResult(ref.repo_id, Outcome.SKIPPED, f"labeled already: {path}", existing, path)
        with closing(load_model(ref, plan.device)) as model:
            log = None
            while log is None:  # again, in float32, if the model overflows in half precision
                concepts = model.encode_texts([concept.caption for concept in graph.concepts])
                log = _embed(model, plan, folder)
            images = log.embeddings()
            counts = Contest(graph, probes, concepts, model.logit_scale, model.device).count(images)
            label = Label(
                model=ref,
                cost=model.cost,
                graph_name=graph.name,
                graph_digest=graph.digest,
                graph_location=probes.graph_location,
                probes_digest=probes.digest,
                probes_location=probes.location,
                images_per_concept=probes.images_per_concept,
                domain_names=probes.domain_names,
                package_version=__version__,
                environment=environment_of(model),
                license=_license_of(ref),
                domain_hits=counts.domain_hits,
                domain_support=counts.domain_support,
                ranks=counts.ranks,
                domain_ranks=counts.domain_ranks,
                temperature=np.array([counts.temperature], np.float32),
            )
        try:
            check_label_fits(label, graph)  # as all its readers do
        except LabelError:
            raise GraphError(
                f"{counts.undecodable} of the {len(probes)} probe images in {probes.location} cannot be decoded, too "
                "many for a label; fetch or build them again"
            ) from None
        embeddings = ProbeEmbeddings.quantize(images, concepts, probes) if plan.keep_embeddings else None
        store.write(label, Rivals(*counts.rivals()), embeddings)
        log.file.unlink()
        return ModelResult(ref.repo_id, Outcome.LABELED, "", label, path, undecodable=counts.undecodable)


def _existing_label(ref: ModelRef, plan: Plan, path: Path) -> Label | None:
    """The label at a path; None if it must be measured: missing, damaged, of fewer images, or without embeddings."""
    store, wanted = plan.store, plan.probes.images_per_concept
    try:
        label = read_label(path)
        if label.images_per_concept < wanted:
            return None
        if label.model.repo_id != ref.repo_id:  # a folder that was moved; the path has the model's digest
            label = replace(label, model=ref)
            store.write(label, store.rivals_of(label), store.embeddings_of(label))
    except LabelError:
        return None
    if not plan.keep_embeddings:
        return label
    with suppress(LabelError):
        if store.embeddings_of(label):
            return label
    if label.images_per_concept == wanted:
        return None
    raise InputError(
        f"{path} was measured on {label.images_per_concept} images per concept and has no embeddings; use the same "
        "number (--sample), or another folder of labels"
    )


def _embed(model: VisionLanguageModel, plan: Plan, folder: Path) -> EmbeddingLog | None:
    """Embed the images that are not in the model's log; stops and returns None if the model's precision changes.

    The name of the log has what the embeddings depend on; not the batch size, which only changes their last bits.
    """
    dtype, key = model.dtype, {
        "model": model.ref.digest or asdict(model.ref),  # another commit may hold the same model
        "probes": plan.probes.digest,
        "package_version": __version__,
        "environment": asdict(environment_of(model)),
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    log, batch_size = EmbeddingLog(folder / f"{name}.log", model.embedding_size), plan.batch_size or model.batch_size
    with closing(embedded_probes(model, plan.probes, log.repair(), batch_size)) as parts:
        for embeddings in parts:
            if model.dtype != dtype:
                log.file.unlink()
                return None
            log.append(embeddings)
    return log


def _license_of(ref: ModelRef) -> str | None:
    try:
        return licenses_of([ref.repo_id])[ref.repo_id]
    except HubError:
        return None


# --- many models ------------------------------------------------------------------------------------------------------


def label_many(models: Iterable[str], plan: Plan) -> Iterator[ModelResult]:
    """Label models, ``org/name[@revision]`` or ``local-dir:PATH``, one after the other; yields one result per model.

    A failure does not stop the others, but a StorageError does: the next model would fail the same way.
    """

    def label(name: str) -> ModelResult:
        model = check(name, plan, published)
        return model if isinstance(model, ModelResult) else finish(name, measure(model, plan), plan)

    published = published_before(plan)
    if plan.device:
        pick_device(plan.device)  # fails before any work
    for name in models:
        yield attempt(name, partial(label, name))


def published_before(plan: Plan) -> Sequence[Label]:
    """The labels in the collection of a plan, before any work; an InputError if the user may not write to it."""
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

    Nothing is downloaded that the Hub counts as a download. An MLLError if the model cannot be labeled or published.
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
