"""Label one model: embed the captions and all probe images, count the contests, write the label.

Embedding the images is the costly part: each is decoded and embedded once, and an interrupted run resumes.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from mll_hf import __version__
from mll_hf.errors import GraphError, HubError, InputError, LabelError
from mll_hf.graph.probes import SamplingConfig
from mll_hf.hub.licenses import licenses_of
from mll_hf.labeling.contest import CONTEST_BLOCK
from mll_hf.labeling.encoding import EmbeddingLog
from mll_hf.labeling.engines import LocalEngine
from mll_hf.labels.embeddings import ProbeEmbeddings
from mll_hf.labels.label import Label, LabelKey, Rivals
from mll_hf.labels.store import check_label_fits, read_label
from mll_hf.models import gpu_count, pick_device
from mll_hf.utils.package import install_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labeling.engines import LocalRun
    from mll_hf.labeling.ray_engine import RayEngine, RayRun
    from mll_hf.labels.counts import LabelCounts
    from mll_hf.labels.label import Cost, Environment, ModelRef
    from mll_hf.labels.store import LabelStore

    Engine = LocalEngine | RayEngine
    ModelRun = LocalRun | RayRun


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


def open_engine(device: str | None = None) -> Engine:
    """The engine for this machine: this process for one device, Ray for several GPUs.

    Args:
        device: ``cuda``, ``cuda:1``, ``mps`` or ``cpu``; None for all GPUs, or the best available device.

    Raises:
        InputError: The device is not available, or there are several GPUs and Ray is not installed.
    """
    if device or gpu_count() <= 1:
        return LocalEngine(pick_device(device))
    if not importlib.util.find_spec("ray"):
        raise InputError(
            f"using all {gpu_count()} GPUs needs Ray: {install_command('ray')}; or choose one with --device cuda:0"
        )
    from mll_hf.labeling.ray_engine import RayEngine

    return RayEngine()


def label_model(
    ref: ModelRef,
    graph: SemanticGraph,
    probes: ProbeSet,
    store: LabelStore,
    *,
    engine: Engine | None = None,
    batch_size: int | None = None,
    keep_embeddings: bool = False,
    overwrite: bool = False,
    refinable: bool = True,
) -> LabelingResult:
    """Measure a model and add its label to a store, unless the label exists.

    An interrupted run resumes where it stopped, in the same environment only, and writes the same bytes as a run
    without interruption, on any engine.

    The embeddings of a ``refinable`` label with fewer than 75 images per concept are kept, so that a run with more
    images embeds only the new ones. Such a label equals that of a single run up to the last bits of the embeddings,
    which depend on the batches.

    Args:
        ref: The model.
        graph: The concepts.
        probes: The graph's probe images.
        store: Where the label goes.
        engine: Where the model runs; default: this process, on the best available device.
        batch_size: Images per batch; default: chosen for the device.
        keep_embeddings: Also store the embeddings, which make strategy ``paper`` exact. A label without them is
            measured again.
        overwrite: Measure again even if the label exists.
        refinable: Keep the embeddings of a small sample; 2 kB for each image and 512 dimensions.

    Raises:
        InputError: The store has a label of another model at this path, or one with more images but no embeddings; or
            another run labels the model in this store.
        ModelError: The model cannot be loaded or run.
        GraphError: The images cannot be read, or more than a twentieth of them cannot be decoded.
        StorageError: The store cannot be written; finished embeddings are kept if possible.
    """
    graph = graph.with_probes(probes.counts)
    store.add_graph(graph)
    group = LabelKey(graph.digest, probes.digest)
    path = store.path_for(ref, group)
    existing = None if overwrite else _existing_label(ref, group, probes.sampling, store)
    if existing:
        if not keep_embeddings or has_embeddings(existing, store):
            return LabelingResult(existing, path, measured=False)
        if existing.sampling != probes.sampling:
            raise InputError(
                f"{path} was measured on {existing.sampling.images_per_concept} images per concept and has no "
                "embeddings; use the same number (--sample), or another folder of labels"
            )
    with (engine or LocalEngine()).run(ref) as run:
        complete = False
        while not complete:  # again, in float32, if the model overflows in half precision
            captions = run.embed_captions([concept.caption for concept in graph.concepts])
            # what the embeddings depend on; not the batch size, which only changes their last bits
            key = {"model": asdict(ref), "probes": probes.digest, "package_version": __version__,
                   "environment": asdict(captions.environment)}  # fmt: skip
            log_key = dict(key)
            if overwrite and path.exists():  # all images are embedded again, but an interrupted run resumes
                log_key["overwrites"] = hashlib.sha256(path.read_bytes()).hexdigest()
            log_name = f"{ref.slug}--{ref.revision[:12]}--{probes.digest[:12]}"
            log = EmbeddingLog.open(store.folder / ".partial" / log_name, log_key, captions.embeddings.shape[1])
            complete = _fill(log, run, ref, probes, captions.environment.dtype, batch_size or captions.batch_size)
        counts = run.count(graph, probes, captions, log.blocks(probes.rows, CONTEST_BLOCK))
    label = label_from_counts(ref, captions.cost, graph, probes, counts, captions.environment, _license_of(ref))
    try:
        check_label_fits(label, graph)  # as all its readers do
    except LabelError:
        raise GraphError(
            f"{counts.undecodable} of the {len(probes)} probe images in {probes.location} cannot be decoded, too many "
            "for a label; fetch or build them again"
        ) from None
    embeddings = None
    if keep_embeddings:
        whole = np.concatenate([block for _, block in log.blocks(probes.rows, CONTEST_BLOCK)])
        embeddings = ProbeEmbeddings.quantize(whole, captions.embeddings, probes)
    store.write(label, Rivals(*counts.rivals()), embeddings)
    if refinable and probes.sampling.images_per_concept < SamplingConfig().images_per_concept:
        log.rename(key)
    else:
        log.remove()
    return LabelingResult(label, path, measured=True, undecodable=counts.undecodable)


def _fill(log: EmbeddingLog, run: ModelRun, ref: ModelRef, probes: ProbeSet, dtype: str, batch_size: int) -> bool:
    """Embed the images that are not in a log; stops and returns False if the model's precision changes."""
    missing = np.flatnonzero(log.positions(probes.rows) < 0)
    with log.writing() as write:
        for images, embeddings in embedded_images(run, ref.short_name, probes, missing, batch_size):
            if run.dtype != dtype:
                return False
            write(probes.rows[images], embeddings)
    return run.dtype == dtype


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


def _existing_label(ref: ModelRef, group: LabelKey, sampling: SamplingConfig, store: LabelStore) -> Label | None:
    """The label in a store; None if there is none, or if it is damaged or has fewer images."""
    path = store.path_for(ref, group)
    try:
        label = read_label(path)
    except LabelError:
        return None
    if (label.model.digest or label.model.revision, label.model.backend, label.key) != (
        ref.digest or ref.revision,
        ref.backend,
        group,
    ):
        raise InputError(f"{path} is a label of another model than {ref.short_name}; use another folder or --overwrite")
    if label.sampling.images_per_concept < sampling.images_per_concept:
        return None
    if label.model != ref:  # a local model that was moved, or a repo with a new head
        label = replace(label, model=ref)
        store.write(label, store.rivals_of(label), store.embeddings_of(label))
    return label


def has_embeddings(label: Label, store: LabelStore) -> bool:
    """Whether a label has readable embeddings beside it."""
    try:
        return store.embeddings_of(label) is not None
    except LabelError:
        return False


def embedded_images(
    run: ModelRun, title: str, probes: ProbeSet, images: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Embed some probe images, with a progress bar that counts the others as done; see `LocalRun.embed_images`."""
    done = len(probes) - len(images)
    with tqdm(  # type: ignore[no-untyped-call]
        total=len(probes),
        initial=done,
        unit="image",
        desc=title,
        name="mll_hf.label",
        leave=False,
        disable=None,
    ) as progress:
        for numbers, embeddings in run.embed_images(probes, images, batch_size):
            yield numbers, embeddings
            progress.update(len(numbers))


def _license_of(ref: ModelRef) -> str | None:
    try:
        return licenses_of([ref.repo_id])[ref.repo_id]
    except HubError:
        return None
