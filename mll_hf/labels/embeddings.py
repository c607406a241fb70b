"""The optional sidecar of a label: embeddings of probe images and concepts, for the paper's Eq. 5 to the letter.

Eq. 5 lets only the concepts that a task selected compete. A label's rivals answer that approximately; with the
embeddings at hand it is exact for any task, at 1 byte per number instead of the similarity of every image to every
concept, which is what the paper stores.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from mll_hf.errors import LabelError
from mll_hf.utils.files import write_atomically
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.graph.probes import ProbeSet


@dataclass(frozen=True)
class ProbeEmbeddings:
    """Embeddings of one model.

    Attributes:
        images: [N, D] int8, embedding of each probe image divided by its scale.
        scales: [N] float32.
        concepts: [V, D] float16, unit norm, embeddings of the concepts' captions.
        offsets: [V + 1] int64; ``members[offsets[v]:offsets[v + 1]]`` are the images that test concept ``v``.
        members: int64, images of all concepts one after another.
    """

    images: NDArray[np.int8]
    scales: NDArray[np.float32]
    concepts: NDArray[np.float16]
    offsets: NDArray[np.int64]
    members: NDArray[np.int64]

    @classmethod
    def quantize(cls, images: NDArray[np.float32], concepts: NDArray[np.float32], probes: ProbeSet) -> ProbeEmbeddings:
        """Store float embeddings [N, D] and [V, D] compactly; undecodable images (rows of NaN) get scale 0."""
        finite = np.nan_to_num(images, nan=0.0)
        scales = np.abs(finite).max(axis=1, initial=0.0) / 127
        quantized = np.rint(finite / np.maximum(scales, 1e-12)[:, None]).astype(np.int8)
        return cls(quantized, scales.astype(np.float32), concepts.astype(np.float16), probes.offsets, probes.members)

    @classmethod
    def joined(cls, parts: Sequence[tuple[ProbeEmbeddings, NDArray[np.int64]]], n_concepts: int) -> ProbeEmbeddings:
        """Join embeddings of one model on several graphs.

        Args:
            parts: Embeddings on each graph, and the index in the union of each of the graph's concepts; every concept
                of the union is in a graph. A concept in several graphs has its caption from the first of them and the
                images of all.
            n_concepts: Concepts of the union.
        """
        concepts = np.empty((n_concepts, parts[0][0].concepts.shape[1]), np.float16)
        members: list[list[NDArray[np.int64]]] = [[] for _ in range(n_concepts)]
        first = sum(len(part.images) for part, _ in parts)
        for part, positions in reversed(parts):
            first -= len(part.images)
            concepts[positions] = part.concepts
            for v in np.flatnonzero(np.diff(part.offsets)):
                members[positions[v]].insert(0, first + part.members[part.offsets[v] : part.offsets[v + 1]])
        images = [np.concatenate(of_concept) if of_concept else np.empty(0, np.int64) for of_concept in members]
        return cls(
            images=np.concatenate([part.images for part, _ in parts]),
            scales=np.concatenate([part.scales for part, _ in parts]),
            concepts=concepts,
            offsets=np.concatenate([[0], np.cumsum([len(of_concept) for of_concept in images])]).astype(np.int64),
            members=np.concatenate(images),
        )

    def restricted_precision(self, selected: NDArray[np.int64]) -> NDArray[np.float64]:
        """Node precision when only the selected concepts compete (paper, Eq. 5).

        ``p_v = (1 / |X_v|) * sum over x in X_v of 1[v = argmax over u in V_sel of sim(I(x), T(d_u))]``

        Args:
            selected: [K] distinct indices of concepts, V_sel.

        Returns:
            [K] precisions in the order of ``selected``; 0 for a concept without images.
        """
        texts = self.concepts[selected].astype(np.float64)  # products of int8 and float16 then add up exactly
        precision = np.zeros(len(selected))
        for position, v in enumerate(selected):
            images = self.members[self.offsets[v] : self.offsets[v + 1]]
            images = images[self.scales[images] > 0]
            if len(images):
                answers = (self.images[images].astype(np.float64) @ texts.T).argmax(axis=1)
                precision[position] = (answers == position).mean()
        return precision


def write_embeddings(embeddings: ProbeEmbeddings, path: Path) -> None:
    """Write the sidecar of a label, atomically; a StorageError if that is not possible."""
    tensors = {f.name: np.ascontiguousarray(getattr(embeddings, f.name)) for f in fields(embeddings)}  # else scrambled
    write_atomically(path, save(tensors))


def read_embeddings(path: Path) -> ProbeEmbeddings | None:
    """Read the sidecar of a label; None if there is none, a LabelError if it is damaged."""
    if not path.exists():
        return None
    try:
        embeddings = ProbeEmbeddings(**load_file(path))
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, OverflowError) as error:
        reason = f"is no readable file of embeddings ({one_line(error)}); delete it or label the model anew"
        raise LabelError(reason, path) from None
    _check(embeddings, path)
    return embeddings


def _check(embeddings: ProbeEmbeddings, path: Path) -> None:
    dtypes = {"images": np.int8, "scales": np.float32, "concepts": np.float16, "offsets": np.int64, "members": np.int64}
    consistent = (
        all(getattr(embeddings, name).dtype == dtype for name, dtype in dtypes.items())
        and embeddings.images.ndim == embeddings.concepts.ndim == 2
        and embeddings.images.shape[1] == embeddings.concepts.shape[1]
        and embeddings.members.ndim == 1
        and embeddings.scales.shape == (n_images := len(embeddings.images),)
        and embeddings.offsets.shape == (len(embeddings.concepts) + 1,)
        and bool(np.isfinite(embeddings.scales).all() and np.isfinite(embeddings.concepts).all())
        and bool((np.diff(embeddings.offsets) >= 0).all())
        and int(embeddings.offsets[0]) == 0
        and int(embeddings.offsets[-1]) == len(embeddings.members)
        and bool(((embeddings.members >= 0) & (embeddings.members < n_images)).all())
    )
    if not consistent:
        raise LabelError("its embeddings contradict one another; delete the file or label the model anew", path)
