"""Label one model: embed the captions and all probe images, count the contests, write the label.

Embedding the images is the costly part: each is decoded and embedded once, and an interrupted run resumes.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from mll_hf import __version__
from mll_hf.errors import GraphError, HubError, InputError, LabelError
from mll_hf.hub.access import licenses_of
from mll_hf.labeling.contest import CONTEST_BLOCK, Contest
from mll_hf.labeling.encoding import EmbeddingLog, decoders_for, encoded_images, locked
from mll_hf.labels.embeddings import ProbeEmbeddings
from mll_hf.labels.label import Label, LabelKey, Rivals
from mll_hf.labels.store import check_label_fits, read_label
from mll_hf.models import environment_of, load_model

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.counts import LabelCounts
    from mll_hf.labels.label import Cost, Environment, ModelRef
    from mll_hf.labels.store import LabelStore
    from mll_hf.models import VisionLanguageModel


@dataclass(frozen=True, slots=True)
class LabelingResult:
    """A label in a store.

    Attributes:
        label: The label.
        path: Its file.
        measured: False if the label existed already.
        undecodable: Probe images that could not be decoded; they do not count.
    """

    label: Label
    path: Path
    measured: bool
    undecodable: int = 0


def label_model(
    ref: ModelRef,
    graph: SemanticGraph,
    probes: ProbeSet,
    store: LabelStore,
    *,
    device: str | None = None,
    batch_size: int | None = None,
    decoders: int | None = None,
    keep_embeddings: bool = False,
    overwrite: bool = False,
) -> LabelingResult:
    """Measure a model and add its label to a store, unless the label exists.

    An interrupted run resumes where it stopped, in the same environment only, and writes the same bytes as a run
    without interruption.

    Args:
        ref: The model.
        graph: The concepts.
        probes: The graph's probe images.
        store: Where the label goes.
        device: ``cuda``, ``cuda:1``, ``mps`` or ``cpu``; default: the best available device.
        batch_size: Images per batch; default: chosen for the device.
        decoders: Processes that decode images for a GPU; default: one fewer than cores.
        keep_embeddings: Also store the embeddings, which make strategy ``paper`` exact. A label without them is
            measured again.
        overwrite: Measure again even if the label exists.

    Raises:
        InputError: Another run labels the model in this store, or the store has a label of more images without
            embeddings.
        ModelError: The model cannot be loaded or run.
        GraphError: The images cannot be read, or more than a twentieth of them cannot be decoded.
        StorageError: The store cannot be written; finished embeddings are kept if possible.
    """
    graph = graph.with_probes(probes.counts)
    store.add_graph(graph)
    with locked(_log_folder(store, ref, probes)):
        path = store.path_for(ref, LabelKey(graph.digest, probes.digest))
        existing = None if overwrite else _existing_label(ref, probes, path, store)
        if existing:
            if not keep_embeddings or _has_embeddings(existing, store):
                return LabelingResult(existing, path, measured=False)
            if existing.sampling != probes.sampling:
                raise InputError(
                    f"{path} was measured on {existing.sampling.images_per_concept} images per concept and has no "
                    "embeddings; use the same number (--sample), or another folder of labels"
                )
        with closing(load_model(ref, device)) as model:
            complete = False
            while not complete:  # again, in float32, if the model overflows in half precision
                concepts = model.encode_texts([concept.caption for concept in graph.concepts])
                log = EmbeddingLog.open(_log_folder(store, ref, probes), _log_key(model, probes), model.embedding_size)
                complete = _fill(log, model, probes, batch_size or model.batch_size, decoders)
                if not complete:
                    log.remove()
            contest = Contest(graph, probes, concepts, model.logit_scale, model.device)
            counts = contest.count(log.blocks(probes.rows, CONTEST_BLOCK))
            environment = environment_of(model)
        label = label_from_counts(ref, model.cost, graph, probes, counts, environment, _license_of(ref))
        try:
            check_label_fits(label, graph)  # as all its readers do
        except LabelError:
            raise GraphError(
                f"{counts.undecodable} of the {len(probes)} probe images in {probes.location} cannot be decoded, too "
                "many for a label; fetch or build them again"
            ) from None
        embeddings = None
        if keep_embeddings:
            whole = np.concatenate([block for _, block in log.blocks(probes.rows, CONTEST_BLOCK)])
            embeddings = ProbeEmbeddings.quantize(whole, concepts, probes)
        store.write(label, Rivals(*counts.rivals()), embeddings)
        log.remove()
        return LabelingResult(label, path, measured=True, undecodable=counts.undecodable)


def _existing_label(ref: ModelRef, probes: ProbeSet, path: Path, store: LabelStore) -> Label | None:
    """The label at a path; None if there is none, or if it is damaged or has fewer images."""
    try:
        label = read_label(path)
        if label.sampling.images_per_concept < probes.sampling.images_per_concept:
            return None
        if label.model.repo_id != ref.repo_id:  # a folder that was moved; the path has the model's digest
            label = replace(label, model=ref)
            store.write(label, store.rivals_of(label), store.embeddings_of(label))
    except LabelError:
        return None
    return label


def _has_embeddings(label: Label, store: LabelStore) -> bool:
    try:
        return store.embeddings_of(label) is not None
    except LabelError:
        return False


# --- embeddings -------------------------------------------------------------------------------------------------------


def _log_folder(store: LabelStore, ref: ModelRef, probes: ProbeSet) -> Path:
    return store.folder / ".partial" / f"{ref.slug}--{(ref.digest or ref.revision)[:12]}--{probes.digest[:12]}"


def _log_key(model: VisionLanguageModel, probes: ProbeSet) -> dict[str, object]:
    """What the embeddings depend on; not the batch size, which only changes their last bits."""
    return {
        "model": model.ref.digest or asdict(model.ref),  # another commit may hold the same model
        "probes": probes.digest,
        "package_version": __version__,
        "environment": asdict(environment_of(model)),
    }


def _fill(
    log: EmbeddingLog, model: VisionLanguageModel, probes: ProbeSet, batch_size: int, decoders: int | None
) -> bool:
    """Embed the images that are not in a log; stops and returns False if the model's precision changes."""
    dtype = model.dtype
    missing = np.flatnonzero(log.positions(probes.rows) < 0)
    with log.writing() as write, closing(embedded_images(model, probes, missing, batch_size, decoders)) as parts:
        for images, embeddings in parts:
            if model.dtype != dtype:
                return False
            write(probes.rows[images], embeddings)
    return True


def embedded_images(
    model: VisionLanguageModel,
    probes: ProbeSet,
    images: NDArray[np.int64],
    batch_size: int,
    decoders: int | None = None,
) -> Generator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Embed some probe images, with a progress bar that counts the others as done; see `encoded_images`."""
    with (
        tqdm(  # type: ignore[no-untyped-call]
            total=len(probes),
            initial=len(probes) - len(images),
            unit="image",
            desc=model.ref.short_name,
            name="mll_hf.label",
            leave=False,
            disable=None,
        ) as progress,
        closing(decoders_for(model, decoders)) as started,
    ):
        for numbers, embeddings in encoded_images(model, probes, images, batch_size, started):
            yield numbers, embeddings
            progress.update(len(numbers))


# --- the label --------------------------------------------------------------------------------------------------------


def label_from_counts(
    ref: ModelRef,
    cost: Cost,
    graph: SemanticGraph,
    probes: ProbeSet,
    counts: LabelCounts,
    environment: Environment,
    license: str | None = None,
) -> Label:
    """Build a label from the counts over the probe images."""
    return Label(
        model=ref,
        cost=cost,
        graph_name=graph.name,
        graph_digest=graph.digest,
        graph_location=probes.graph_location,
        probes_digest=probes.digest,
        probes_location=probes.location,
        sampling=probes.sampling,
        domain_names=probes.domain_names,
        package_version=__version__,
        environment=environment,
        license=license,
        domain_hits=counts.domain_hits,
        domain_support=counts.domain_support,
        ranks=counts.ranks,
        domain_ranks=counts.domain_ranks,
        temperature=np.array([counts.temperature], np.float32),
    )


def _license_of(ref: ModelRef) -> str | None:
    try:
        return licenses_of([ref.repo_id])[ref.repo_id]
    except HubError:
        return None
