"""Run one model over the probe images and count.

Three steps, for the graph and for each of its packs, which a reader of the paper will recognize: embed the concepts'
captions and every probe image (the costly part: each image is decoded and encoded once, and what is done survives a
kill), let the concepts contest every image, and sum up.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from mll_hf import __version__
from mll_hf.errors import InputError, LabelError
from mll_hf.graph.probes import SamplingConfig
from mll_hf.labeling.contest import CONTEST_BLOCK
from mll_hf.labeling.encoding import EmbeddingLog
from mll_hf.labeling.engines import LocalEngine
from mll_hf.labels.embeddings import ProbeEmbeddings, remove_embeddings, write_embeddings
from mll_hf.labels.label import ModelLabel
from mll_hf.labels.packs import covers_exactly, graph_with_packs, in_order, label_with_pack, positions_in
from mll_hf.labels.store import LabelStore, read_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.hub.sources import LabelSource
    from mll_hf.labeling.engines import Captions, Engine, ModelRun
    from mll_hf.labels.counts import LabelCounts
    from mll_hf.labels.label import Cost, ModelRef
    from mll_hf.labels.packs import AttachedPack


@dataclass(frozen=True, slots=True)
class LabelingResult:
    """What became of one model.

    Attributes:
        label: Its label.
        path: Where the label lies.
        measured: False if a label was there already and nothing had to be done.
        undecodable: Probe images that could not be decoded; they are left out of the counts.
    """

    label: ModelLabel
    path: Path
    measured: bool
    undecodable: int = 0


def label_model(
    ref: ModelRef,
    graph: SemanticGraph,
    probes: ProbeSet,
    store: LabelStore,
    *,
    packs: Sequence[AttachedPack] = (),
    earlier: ModelLabel | None = None,
    engine: Engine | None = None,
    batch_size: int | None = None,
    keep_embeddings: bool = False,
    overwrite: bool = False,
) -> LabelingResult:
    """Measure a model and put its label into a store, unless it is there already.

    A run that was killed goes on where it stopped; the finished file is the same, byte for byte. It is the same, too,
    whether packs were measured together with the graph or added to an earlier label, at once or one by one, and
    whether one process measured it or many.

    A label of fewer images per concept than the usual 75 is a quick one: what it embedded is kept, so that a later run
    with more images embeds only those that are new. Its label is that of a run in one go up to the last bits of the
    embeddings, for which batches matter.

    Args:
        ref: The model.
        graph: Its concepts are what the model is measured on.
        probes: The graph's probe images; how they were sampled is part of the label.
        store: Where the label goes; a store of labels of the graph with all packs.
        packs: Packs on the graph that the label is to cover.
        earlier: A label of this model on the graph, or on the graph and some of the packs. Only what it lacks is
            measured.
        engine: Where the model runs; by default in this process, on the best device that is there.
        batch_size: Images encoded at a time; by default as many as suit the device.
        keep_embeddings: Also store the embeddings, for the exact Eq. 5 on any task; if a label lacks them, the model is
            measured again, all of it, for an earlier label has none.
        overwrite: Measure again even if a label exists.

    Raises:
        GraphError: A pack does not fit the graph.
        InputError: The store is of another graph, or holds a label of this model on other images or another sample; a
            pack is sampled otherwise or has nothing to tell apart; the earlier label is of another model, graph,
            images or sample.
        ModelError: The model cannot be loaded or run.
        StorageError: The store cannot be written; what was encoded is kept where possible.
    """
    packs = in_order(packs)
    _check_packs(packs, probes)
    whole = graph_with_packs(graph, [pack.pack for pack in packs])
    store.adopt(whole)
    existing = None if overwrite else _existing_label(ref, whole, probes, packs, store)
    if existing:
        if not (keep_embeddings and _lacks_embeddings(ref, store)):
            return LabelingResult(existing, store.path_of(ref), measured=False)
        if existing.sampling != probes.sampling:
            raise InputError(
                f"{store.path_of(ref)} rests on {existing.sampling.images_per_concept} images per concept and has no "
                f"embeddings; ask for as many (--sample), or for another folder of labels"
            )
    if earlier:
        _check_earlier(earlier, ref, graph, probes, packs)
        earlier = None if keep_embeddings else replace(earlier, model=ref)
    covered = [pack for pack in packs if earlier and pack.is_covered_by(earlier)]
    new = [pack for pack in packs if pack not in covered]
    parts = [_Part(pack.graph, pack.tests, pack.digest) for pack in new]
    with (engine or LocalEngine()).run(ref) as run:
        to_do = parts if earlier else [_Part(graph, probes), *parts]
        encoded = [_encode(part, _log_of(ref, part, store, overwrite), run, batch_size) for part in to_do]
        measured, undecodable = _count(ref, encoded, run)
    label = earlier or measured.pop(0)
    for pack, of_pack in zip(new, measured, strict=True):
        label = label_with_pack(label, graph, covered, pack, of_pack)
        covered.append(pack)
    folder = store.path_of(ref).parent  # the label goes there last: it says that all is done
    remove_embeddings(folder)  # those of an earlier label may be of other images
    if keep_embeddings:
        write_embeddings(ProbeEmbeddings.joined([part.quantized(whole) for part in encoded], len(whole)), folder)
    path = store.write(label)
    is_quick = probes.sampling.images_per_concept < SamplingConfig().images_per_concept
    for each in encoded:
        if is_quick:
            each.log.rename(_key_of(ref, each.part))
        else:
            each.log.remove()
    return LabelingResult(label, path, measured=bool(encoded), undecodable=undecodable)


def label_to_extend(source: LabelSource, ref: ModelRef) -> ModelLabel | None:
    """The label of a model in a source, as ``earlier`` for :func:`label_model`; None if there is none.

    A revision names its content, so a label of it may stand under another path.

    Raises:
        MLLError: The source cannot be read.
    """
    same = [s.model for s in source.list() if (s.model.revision, s.model.backend) == (ref.revision, ref.backend)]
    return source.fetch(same[:1])[0] if same else None


def _existing_label(
    ref: ModelRef, graph: SemanticGraph, probes: ProbeSet, packs: Sequence[AttachedPack], store: LabelStore
) -> ModelLabel | None:
    path = store.path_of(ref)
    if not path.exists():
        return None
    try:
        label = read_label(path)
    except LabelError:
        return None  # a broken file is measured again
    found = (
        label.model.revision,
        label.model.backend,
        label.graph_digest,
        label.probes_revision,
        label.sampling.seed,
    )
    wanted = (ref.revision, ref.backend, graph.digest, probes.revision, probes.sampling.seed)
    if found != wanted or not covers_exactly(label, packs):
        raise InputError(
            f"{path} measures another model than {ref.short_name}, or on another graph, other images or another "
            "sample; use another folder of labels, or --overwrite to replace it"
        )
    if label.sampling.images_per_concept < probes.sampling.images_per_concept:
        return None  # a quick label, to be refined
    if label.model != ref:  # the same content under another path
        label = replace(label, model=ref)
        store.write(label)
    return label


def _check_packs(packs: Sequence[AttachedPack], probes: ProbeSet) -> None:
    for pack in packs:
        if pack.probes.sampling != probes.sampling:
            raise InputError(f"pack {pack.name} is sampled otherwise than the graph; use the same sampling for both")
        if not len(pack.tests):
            raise InputError(
                f"pack {pack.name} has no two concepts to tell apart; add others that are confused with it"
            )


def _check_earlier(
    label: ModelLabel, ref: ModelRef, graph: SemanticGraph, probes: ProbeSet, packs: Sequence[AttachedPack]
) -> None:
    question = (label.model.revision, label.model.backend, label.base_digest, label.probes_revision, label.sampling)
    if question != (ref.revision, ref.backend, graph.digest, probes.revision, probes.sampling):
        raise InputError(
            f"the label of {ref.short_name} to be extended is of another revision, or on another graph, other images "
            f"or another sample ({_sample(label.sampling)}, not {_sample(probes.sampling)}); leave it out and measure "
            "the model anew"
        )
    if not covers_exactly(label, [pack for pack in packs if pack.is_covered_by(label)]):
        names = ", ".join(part.name for part in label.packs)
        raise InputError(
            f"the label of {ref.short_name} to be extended covers packs ({names}) of which one is not asked for or "
            "has other images now; give all of them with --pack, or extend a label without them"
        )


def _sample(sampling: SamplingConfig) -> str:
    return f"{sampling.images_per_concept} images per concept, seed {sampling.seed}"


def _lacks_embeddings(ref: ModelRef, store: LabelStore) -> bool:
    try:
        return store.embeddings_of(ref) is None
    except LabelError:
        return True  # as with a broken label


def label_from_counts(
    ref: ModelRef,
    cost: Cost,
    graph: SemanticGraph,
    probes: ProbeSet,
    counts: LabelCounts,
) -> ModelLabel:
    """The label that follows from what was counted on a graph's probe images."""
    rivals, rival_wins = counts.rivals()
    return ModelLabel(
        model=ref,
        cost=cost,
        graph_name=graph.name,
        graph_digest=graph.digest,
        probes_name=probes.name,
        probes_revision=probes.revision,
        sampling=probes.sampling,
        domain_names=probes.domain_names,
        package_version=__version__,
        predicted=counts.predicted,
        domain_hits=counts.domain_hits,
        domain_support=counts.domain_support,
        rivals=rivals,
        rival_wins=rival_wins,
        ranks=counts.ranks,
        domain_ranks=counts.domain_ranks,
        temperature=np.array([counts.temperature], np.float32),
    )


# --- parts: the graph and its packs -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """Images, and the concepts that contest them.

    Attributes:
        graph: The concepts.
        probes: The images.
        pack: Digest of the pack that they belong to; empty for those of the graph itself.
    """

    graph: SemanticGraph
    probes: ProbeSet
    pack: str = ""


@dataclass(frozen=True, slots=True)
class _EncodedPart:
    """A part as one model sees it: its captions are embedded, and so are the images in the log."""

    part: _Part
    captions: Captions
    log: EmbeddingLog

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Embeddings of the images, a block [B, D] at a time, with the number of its first image."""
        return self.log.blocks(self.part.probes.rows, self.captions.embeddings.shape[1], CONTEST_BLOCK)

    def quantized(self, whole: SemanticGraph) -> tuple[ProbeEmbeddings, NDArray[np.int64]]:
        """The embeddings in small, and the index in a larger graph of each of the part's concepts."""
        images = np.concatenate([block for _, block in self.blocks()])
        quantized = ProbeEmbeddings.quantize(images, self.captions.embeddings, self.part.probes)
        return quantized, positions_in(whole, self.part.graph)


def _key_of(ref: ModelRef, part: _Part) -> dict[str, object]:
    """What decides an embedding, but for its last bits, in which batches and devices differ."""
    return {"model": asdict(ref), "probes": part.probes.revision, "package_version": __version__}


def _log_of(ref: ModelRef, part: _Part, store: LabelStore, overwrite: bool) -> EmbeddingLog:
    """What was embedded of a part so far.

    To overwrite a label, all is embedded again, whatever a quick label has left; but an overwriting run that was
    killed goes on.
    """
    folder = store.folder / ".partial" / "--".join(filter(None, [ref.slug, ref.revision[:12], part.pack[:12]]))
    key, label = _key_of(ref, part), store.path_of(ref)
    if overwrite and label.exists():
        key["overwrites"] = hashlib.sha256(label.read_bytes()).hexdigest()
    return EmbeddingLog.open(folder, key)


def _encode(part: _Part, log: EmbeddingLog, run: ModelRun, batch_size: int | None) -> _EncodedPart:
    """Embed the captions and those images of a part that the log lacks, with a progress bar.

    Each part is embedded apart: results differ in the last bit with what else is in a batch, but must not with what
    else is measured.
    """
    probes = part.probes
    captions = run.embed_captions([concept.caption for concept in part.graph.concepts])
    missing = np.flatnonzero(~log.has(probes.rows, captions.embeddings.shape[1]))
    progress = tqdm(  # type: ignore[no-untyped-call]
        total=len(probes),
        initial=len(probes) - len(missing),
        unit="image",
        desc=run.model.short_name,
        name="mll_hf.label",
        leave=False,
    )
    with progress, log.writing() as write:
        for images, embeddings in run.embed_images(probes, missing, batch_size or captions.batch_size):
            write(probes.rows[images], embeddings)
            progress.update(len(images))
    return _EncodedPart(part, captions, log)


def _count(ref: ModelRef, encoded: Sequence[_EncodedPart], run: ModelRun) -> tuple[list[ModelLabel], int]:
    """Let the concepts contest the images: the label of each part, and how many images could not be decoded."""
    labels, undecodable = [], 0
    for each in encoded:
        part = each.part
        counts = run.count(part.graph, part.probes, each.captions, each.blocks())
        labels.append(label_from_counts(ref, each.captions.cost, part.graph, part.probes, counts))
        undecodable += counts.undecodable
    return labels, undecodable
