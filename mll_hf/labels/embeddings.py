"""The optional sidecar of a label: embeddings of probe images and concepts, for the exact Eq. 5 of the paper.

In Eq. 5 only the concepts selected for a task are candidates. This is approximated from the rivals in a label, and
exact with the embeddings. They take 1 byte per number, whereas the paper stores the similarity of each image to each
concept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from mll_hf.errors import LabelError
from mll_hf.labels.fields import check_tensors
from mll_hf.utils.files import write_atomically
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.graph.probes import ProbeSet

_TENSORS: Mapping[str, tuple[type[np.generic], str]] = {
    "images": (np.int8, "ND"),
    "scales": (np.float32, "N"),
    "concepts": (np.float16, "VD"),
    "offsets": (np.int64, "O"),
    "members": (np.int64, "M"),
}


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
        """Quantize float embeddings [N, D] and [V, D]; undecodable images (rows of NaN) get scale 0."""
        finite = np.nan_to_num(images, nan=0.0)
        scales = np.abs(finite).max(axis=1, initial=0.0) / 127
        quantized = np.rint(finite / np.maximum(scales, 1e-12)[:, None]).astype(np.int8)
        return cls(quantized, scales.astype(np.float32), concepts.astype(np.float16), probes.offsets, probes.members)

    def restricted_precision(self, selected: NDArray[np.int64]) -> NDArray[np.float64]:
        """Node precision with only the selected concepts as candidates (paper, Eq. 5).

        ``p_v = (1 / |X_v|) * sum over x in X_v of 1[v = argmax over u in V_sel of sim(I(x), T(d_u))]``

        Returns [K] precisions in the order of ``selected``, the indices V_sel; 0 for a concept without images.
        """
        texts = self.concepts[selected].astype(np.float64)  # so that sums of products of int8 and float16 are exact
        precision = np.zeros(len(selected))
        for position, v in enumerate(selected):
            images = self.members[self.offsets[v] : self.offsets[v + 1]]
            images = images[self.scales[images] > 0]
            if len(images):
                predictions = (self.images[images].astype(np.float64) @ texts.T).argmax(axis=1)
                precision[position] = (predictions == position).mean()
        return precision


def write_embeddings(embeddings: ProbeEmbeddings, path: Path) -> None:
    """Write the sidecar of a label atomically; a StorageError if it cannot be written."""
    tensors = {name: np.ascontiguousarray(getattr(embeddings, name)) for name in _TENSORS}  # as safetensors requires
    write_atomically(path, save(tensors))


def read_embeddings(path: Path, n_concepts: int) -> ProbeEmbeddings | None:
    """Read the sidecar of a label of V concepts; None if there is none, a LabelError if it is damaged or another's."""
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
        (n, d), m = tensors["images"].shape, len(tensors["members"])
        check_tensors(tensors, _TENSORS, {"N": n, "D": d, "V": n_concepts, "O": n_concepts + 1, "M": m})
    except (SafetensorError, OSError, LabelError, LookupError, TypeError, ValueError, OverflowError) as error:
        reason = f"not a readable embeddings file ({one_line(error)}); delete it or label the model again"
        raise LabelError(reason, path) from None
    embeddings = ProbeEmbeddings(**tensors)
    offsets, members = embeddings.offsets, embeddings.members
    is_consistent = (
        (np.isfinite(embeddings.scales).all() and np.isfinite(embeddings.concepts).all())
        and ((np.diff(offsets) >= 0).all() and offsets[0] == 0 and offsets[-1] == m)
        and ((members >= 0) & (members < n)).all()
    )
    if not is_consistent:
        raise LabelError("inconsistent embeddings; delete the file or label the model again", path)
    return embeddings
