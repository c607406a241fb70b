"""Run one model over the probe images and count.

Three steps, for the graph and for each of its packs, which a reader of the paper will recognise: embed the concepts'
captions and every probe image (the costly part: each image is decoded and encoded once, and what is done survives a
kill), let the concepts contest every image, and sum up.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from mll_hf import __version__
from mll_hf.backends import load_model
from mll_hf.contest import Contest
from mll_hf.embeddings import ProbeEmbeddings, remove_embeddings, write_embeddings
from mll_hf.errors import InputError, LabelError
from mll_hf.files import storage_errors, write_atomically
from mll_hf.images import decode_image, prepared_batches
from mll_hf.labels import ModelLabel
from mll_hf.packs import covers_exactly, graph_with_packs, in_order, label_with_pack, positions_in
from mll_hf.store import LabelStore, read_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from io import RawIOBase
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from mll_hf.backends import VisionLanguageModel
    from mll_hf.counts import LabelCounts
    from mll_hf.graph import SemanticGraph
    from mll_hf.hub.sources import LabelSource
    from mll_hf.labels import Cost, ModelRef
    from mll_hf.packs import AttachedPack
    from mll_hf.probes import ProbeSet

BATCH_SIZE = 128
_CONTEST_BLOCK = 1024


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
    device: str | None = None,
    batch_size: int = BATCH_SIZE,
    keep_embeddings: bool = False,
    overwrite: bool = False,
) -> LabelingResult:
    """Measure a model and put its label into a store, unless it is there already.

    A run that was killed goes on where it stopped; the finished file is the same, byte for byte. It is the same, too,
    whether packs were measured together with the graph or added to an earlier label, at once or one by one.

    Args:
        ref: The model.
        graph: Its concepts are what the model is measured on.
        probes: The graph's probe images; how they were sampled is part of the label.
        store: Where the label goes; a store of labels of the graph with all packs.
        packs: Packs on the graph that the label is to cover.
        earlier: A label of this model on the graph, or on the graph and some of the packs. Only what it lacks is
            measured.
        device: ``cuda``, ``mps``, ``cpu``, or None for the best that is there.
        batch_size: Images encoded at a time.
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
    if existing and not (keep_embeddings and _lacks_embeddings(ref, store)):
        return LabelingResult(existing, store.path_of(ref), measured=False)
    if earlier:
        _check_earlier(earlier, ref, graph, probes, packs)
        earlier = None if keep_embeddings else replace(earlier, model=ref)
    covered = [pack for pack in packs if earlier and pack.is_covered_by(earlier)]
    new = [pack for pack in packs if pack not in covered]
    parts = [_Part(pack.graph, pack.tests, pack.digest) for pack in new]
    encoded = _encode(ref, parts if earlier else [_Part(graph, probes), *parts], store, device, batch_size)
    measured, undecodable = _count(ref, encoded)
    label = earlier or measured.pop(0)
    for pack, of_pack in zip(new, measured, strict=True):
        label = label_with_pack(label, graph, covered, pack, of_pack)
        covered.append(pack)
    folder = store.path_of(ref).parent  # the label goes there last: it says that all is done
    remove_embeddings(folder)  # those of an earlier label may be of other images
    if keep_embeddings:
        write_embeddings(ProbeEmbeddings.joined([part.quantized(whole) for part in encoded], len(whole)), folder)
    path = store.write(label)
    for part in encoded:
        part.log.remove()
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
    question = (label.model.revision, label.model.backend, label.graph_digest, label.probes_revision, label.sampling)
    if question != (ref.revision, ref.backend, graph.digest, probes.revision, probes.sampling) or not covers_exactly(
        label, packs
    ):
        raise InputError(
            f"{path} measures another model than {ref.short_name}, or on another graph, other images or another "
            "sample; use another folder of labels, or --overwrite to replace it"
        )
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
            "or another sample; leave it out and measure the model anew"
        )
    if not covers_exactly(label, [pack for pack in packs if pack.is_covered_by(label)]):
        names = ", ".join(part.name for part in label.packs)
        raise InputError(
            f"the label of {ref.short_name} to be extended covers packs ({names}) of which one is not asked for or "
            "has other images now; give all of them with --pack, or extend a label without them"
        )


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
    """A part as one model sees it: ``concepts`` [V, D] are embedded, and so are the images in the log."""

    part: _Part
    concepts: NDArray[np.float32]
    log: _EmbeddingLog
    cost: Cost
    logit_scale: float

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Embeddings of the images, a block [B, D] at a time, with the number of its first image."""
        return self.log.blocks(self.concepts.shape[1], _CONTEST_BLOCK)

    def quantized(self, whole: SemanticGraph) -> tuple[ProbeEmbeddings, NDArray[np.int64]]:
        """The embeddings in small, and the index in a larger graph of each of the part's concepts."""
        images = np.concatenate([block for _, block in self.blocks()])
        quantized = ProbeEmbeddings.quantize(images, self.concepts, self.part.probes)
        return quantized, positions_in(whole, self.part.graph)


def _encode(
    ref: ModelRef,
    parts: Sequence[_Part],
    store: LabelStore,
    device: str | None,
    batch_size: int,
) -> list[_EncodedPart]:
    """Encode the concepts and images of some parts; the model is loaded only if there are any.

    Each part is encoded apart: results differ in the last bit with what else is in a batch, but must not with what else
    is measured.
    """
    if not parts:
        return []
    logs = [_EmbeddingLog.open(store.folder, ref, part, batch_size) for part in parts]
    model, encoded = load_model(ref, device), []
    try:
        for part, log in zip(parts, logs, strict=True):
            start = log.resume(model.embedding_size, batch_size, len(part.probes))
            with log.appending() as append:
                for embeddings in encoded_batches(model, part.probes, batch_size, start):
                    append(embeddings)
            concepts = model.encode_texts([concept.caption for concept in part.graph.concepts])
            encoded.append(_EncodedPart(part, concepts, log, model.cost, model.logit_scale))
    finally:
        model.close()
    return encoded


def _count(ref: ModelRef, encoded: Sequence[_EncodedPart]) -> tuple[list[ModelLabel], int]:
    """Let the concepts contest the images: the label of each part, and how many images could not be decoded."""
    labels, undecodable = [], 0
    for each in encoded:
        part = each.part
        counts = Contest(part.graph, part.probes, each.concepts, each.logit_scale).count(each.blocks())
        labels.append(label_from_counts(ref, each.cost, part.graph, part.probes, counts))
        undecodable += counts.undecodable
    return labels, undecodable


# --- encoding ---------------------------------------------------------------------------------------------------------


def encoded_batches(
    model: VisionLanguageModel, probes: ProbeSet, batch_size: int, start: int = 0
) -> Iterator[NDArray[np.float32]]:
    """Embed probe images, with a progress bar.

    Args:
        model: The model.
        probes: The images.
        batch_size: Images at a time.
        start: Number of the first image.

    Yields:
        [B, D] unit-norm float32, NaN where an image cannot be decoded.
    """
    progress = tqdm(  # type: ignore[no-untyped-call]
        total=len(probes), initial=start, unit="image", desc=model.ref.short_name, name="mll_hf.label", leave=False
    )
    with progress:
        for embeddings in encoded(model, (batch for _, batch in probes.iter_image_bytes(batch_size, start))):
            yield embeddings
            progress.update(len(embeddings))


def encoded(model: VisionLanguageModel, batches: Iterable[Sequence[bytes | None]]) -> Iterator[NDArray[np.float32]]:
    """Embed batches of encoded images; yields [B, D] unit-norm float32, NaN where an image cannot be decoded."""

    def prepare(content: bytes | None) -> torch.Tensor | None:
        image = decode_image(content)
        return None if image is None else model.preprocess(image)

    for pixels, decodable in prepared_batches(batches, prepare):
        embeddings = np.full((len(decodable), model.embedding_size), np.nan, np.float32)
        if pixels is not None:
            embeddings[decodable] = model.encode_pixels(pixels)
        yield embeddings


# --- what survives a kill ---------------------------------------------------------------------------------------------


def _run_key(ref: ModelRef, part: _Part, batch_size: int) -> dict[str, object]:
    """All that decides the embeddings and their order; batches too, for results differ in the last bit by batch."""
    return {
        "model": asdict(ref),
        "graph": part.graph.digest,
        "probes": part.probes.revision,
        "sampling": asdict(part.probes.sampling),
        "batch_size": batch_size,
        "package_version": __version__,
    }


@dataclass(frozen=True, slots=True)
class _EmbeddingLog:
    """Embeddings of the images encoded so far, appended batch by batch to one file."""

    folder: Path

    @classmethod
    def open(cls, labels: Path, ref: ModelRef, part: _Part, batch_size: int) -> _EmbeddingLog:
        """Take up the log of an earlier run of the same, or start one.

        Raises:
            StorageError: The store cannot be written.
        """
        folder = labels / ".partial" / "--".join(filter(None, [ref.slug, ref.revision[:12], part.pack[:12]]))
        text = json.dumps(_run_key(ref, part, batch_size), sort_keys=True).encode()
        key_file = folder / "key.json"
        with storage_errors(folder):
            if not (key_file.exists() and key_file.read_bytes() == text):
                if folder.exists():
                    shutil.rmtree(folder)
                write_atomically(key_file, text)
        return cls(folder)

    @property
    def file(self) -> Path:
        return self.folder / "embeddings.f32"

    def resume(self, embedding_size: int, batch_size: int, n_images: int) -> int:
        """Cut off what a kill left half written; returns how many images are done."""
        if not self.file.exists():
            return 0
        row = 4 * embedding_size
        with storage_errors(self.file):
            done = min(self.file.stat().st_size // row, n_images)
            if done < n_images:
                done -= done % batch_size
            os.truncate(self.file, done * row)
        return done

    @contextmanager
    def appending(self) -> Iterator[Callable[[NDArray[np.float32]], None]]:
        """A function that appends embeddings [B, D] and hands them to the operating system at once."""
        with storage_errors(self.file):
            file = self.file.open("ab", buffering=0)

        def append(embeddings: NDArray[np.float32]) -> None:
            with storage_errors(self.file):  # around writing alone: reading images raises errors of its own
                _write_all(file, embeddings.tobytes())

        with file:
            yield append

    def blocks(self, embedding_size: int, block_size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Read the embeddings back, a block [B, D] at a time, with the number of its first image."""
        start = 0
        with self.file.open("rb") as file:
            while len(block := np.fromfile(file, np.float32, block_size * embedding_size)):
                images = block.reshape(-1, embedding_size)
                yield start, images
                start += len(images)

    def remove(self) -> None:
        """Delete the log; the label holds what was learnt from it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()


def _write_all(file: RawIOBase, content: bytes) -> None:
    """Write all bytes; an unbuffered file may take only some of them at a time."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) or 0 :]
