"""Label many models: skip labeled ones, continue after failures, publish each label as soon as it is made."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from huggingface_hub import constants, scan_cache_dir

from mll_hf.errors import InputError, LabelError, MLLError, StorageError
from mll_hf.hub.connection import is_model_file
from mll_hf.labeling.destinations import Destination, Wanted, label_of_same_weights
from mll_hf.labeling.engines import LocalEngine
from mll_hf.labeling.run import has_embeddings, label_model
from mll_hf.labels.label import LabelKey
from mll_hf.labels.store import read_label
from mll_hf.models import resolve_model
from mll_hf.models.source import cached_revisions
from mll_hf.utils.files import asset_path
from mll_hf.utils.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.hub.publish import Published
    from mll_hf.labeling.run import Engine
    from mll_hf.labels.label import Label, ModelRef
    from mll_hf.labels.store import LabelStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fleet:
    """How to label each of many models.

    Attributes:
        graph: The concepts.
        probes: The graph's probe images.
        store: Working folder for labels and unfinished runs.
        destination: Where labels are published; None to publish nothing.
        engine: Where models run; an open context.
        batch_size: Images per batch; None for the device's default.
        keep_embeddings: Also store embeddings.
        overwrite: Measure labeled models again.
        free_cache: After each model, delete the weights that this run downloaded, and embeddings of a small sample.
    """

    graph: SemanticGraph
    probes: ProbeSet
    store: LabelStore
    destination: Destination | None = None
    engine: Engine = field(default_factory=LocalEngine)
    batch_size: int | None = None
    keep_embeddings: bool = False
    overwrite: bool = False
    free_cache: bool = False

    @property
    def wanted(self) -> Wanted:
        """The label to be made of each model."""
        sampling = self.probes.sampling
        return Wanted(LabelKey(self.graph.digest, self.probes.digest), sampling.images_per_concept)


class Outcome(StrEnum):
    """Outcome for one model."""

    LABELED = "labeled"
    STARTED = "started"  # a job will label it
    PLANNED = "planned"  # a dry run would have labeled it
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelResult:
    """Result for one model.

    Attributes:
        name: The model as the user named it.
        outcome: Labeled, started, planned, skipped or failed.
        reason: Why it was skipped or failed, or what is planned, in one line.
        model: The pinned model, if it exists.
        label: Its label, if it was labeled, or found in the working folder.
        path: File of the label in the working folder.
        published: The publication of the label, if any.
        undecodable: Probe images that could not be decoded; they do not count.
        job: URL of the job that labels it.
    """

    name: str
    outcome: Outcome
    reason: str = ""
    model: ModelRef | None = None
    label: Label | None = None
    path: Path | None = None
    published: Published | None = None
    undecodable: int = 0
    job: str | None = None


def for_each(
    models: Sequence[str],
    act: Callable[[str], ModelResult],
    on_start: Callable[[int, str], None] = lambda _number, _name: None,
) -> Iterator[ModelResult]:
    """Label each model, or start a job for it; a failure does not stop the others.

    Args:
        models: ``org/name[@revision]`` or ``local-dir:PATH``.
        act: `label_one` or :func:`~mll_hf.labeling.jobs.start_job`.
        on_start: Called before each model with its number, from 1, and its name.

    Yields:
        One result per model.

    Raises:
        StorageError: A file cannot be written; the next model would fail the same way.
    """
    for number, name in enumerate(models, 1):
        on_start(number, name)
        try:
            result = act(name)
        except StorageError:
            raise
        except MLLError as error:
            result = ModelResult(name, Outcome.FAILED, str(error))
        except Exception as error:  # a model may raise anything
            _log.warning("%s", name, exc_info=True)
            cause = f"{type(error).__name__}: {one_line(error)}"
            reason = f"model '{name}': cannot be run ({cause}); use another batch size or device, or leave it out"
            result = ModelResult(name, Outcome.FAILED, printable(reason))
        yield result


def label_one(name: str, fleet: Fleet, *, dry_run: bool = False) -> ModelResult:
    """Label a model and publish its label, unless that is done already.

    Checks without downloading weights or any file that the Hub counts as a download. A dry run only reports what would
    be done.

    Raises:
        MLLError: The model cannot be labeled, or its label not published.
    """
    model, destination = resolve_model(name), fleet.destination
    if destination:
        if model.is_local:
            raise InputError(f"{model.repo_id} is a local folder, so its label cannot be published; add --no-push")
        published = destination.find(model, fleet.wanted)
        if published and not fleet.overwrite:
            return ModelResult(name, Outcome.SKIPPED, f"labeled already: {published}", model)
    stored = None if fleet.overwrite else _stored_label(model, fleet)
    if stored:
        model = stored.model
    if stored and not destination:
        path = fleet.store.path_of(stored)
        return ModelResult(name, Outcome.SKIPPED, f"labeled already: {path}", model, stored, path)
    if dry_run:
        measure = "" if stored else f"measure {model.revision[:12]} with {model.backend}"
        publish = f"publish to {destination}" if destination else ""
        return ModelResult(name, Outcome.PLANNED, " and ".join(filter(None, [measure, publish])), model)
    graph = fleet.graph.with_probes(fleet.probes.counts)
    with _weights_freed(model) if fleet.free_cache else contextlib.nullcontext():
        result = label_model(
            model,
            graph,
            fleet.probes,
            fleet.store,
            engine=fleet.engine,
            batch_size=fleet.batch_size,
            keep_embeddings=fleet.keep_embeddings,
            overwrite=fleet.overwrite,
            refinable=not fleet.free_cache,
        )
    return ModelResult(
        name,
        Outcome.LABELED if result.measured or destination else Outcome.SKIPPED,
        model=model,
        label=result.label,
        path=result.path,
        published=destination.publish(result.label, graph) if destination else None,
        undecodable=result.undecodable,
    )


def _stored_label(model: ModelRef, fleet: Fleet) -> Label | None:
    """The wanted label in the working folder: of the model, or of another revision with the same weights."""
    labels = []
    for path in fleet.store.folder.glob(f"labels/{model.slug}/*/{fleet.wanted.group.stem}.safetensors"):
        with contextlib.suppress(LabelError):  # a damaged file is measured again
            labels.append(read_label(path, fleet.graph))
    label = label_of_same_weights(labels, model, fleet.wanted)
    lacks_embeddings = label and fleet.keep_embeddings and not has_embeddings(label, fleet.store)
    return None if lacks_embeddings else label


def working_folder(graph: SemanticGraph, probes: ProbeSet) -> Path:
    """Default working folder: in the assets cache of Hugging Face, by graph, probe images and seed."""
    group = LabelKey(graph.digest, probes.digest)
    return asset_path("labels", group.stem)


@contextlib.contextmanager
def _weights_freed(model: ModelRef) -> Iterator[None]:
    """Delete a model's revision from the cache afterwards, unless its weights were cached before."""
    keep = _has_cached_weights(model)
    try:
        yield
    except KeyboardInterrupt:
        keep = True  # the next run needs them
        raise
    finally:
        if not keep and _has_cached_weights(model):
            # keeps files that other revisions share
            scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(model.revision).execute()


def _has_cached_weights(model: ModelRef) -> bool:
    folders = [copy.snapshot_path for copy in cached_revisions(model.repo_id) if copy.commit_hash == model.revision]
    paths = [path.relative_to(folder).as_posix() for folder in folders for path in folder.rglob("*.safetensors")]
    return any(map(is_model_file, paths))
