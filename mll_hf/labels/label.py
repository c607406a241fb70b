"""The label of a model and its statistics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.labels.counts import Z_95, recall_of
from mll_hf.utils.arrays import ArrayFields, read_only

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.graph.probes import ProbeSet

LOCAL_PREFIX = "local-dir:"
UNPINNED = "main"  # revision of a model without a label; must be resolved before the model is loaded


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model at a fixed revision.

    ``digest`` is the sha256 of what decides its outputs, see :mod:`~mll_hf.labels.identity`; None if unknown, as for
    known models offline.
    """

    repo_id: str  # org/name on the Hub, or local-dir:/absolute/path
    revision: str  # full commit sha; for a local folder a digest of its content of the same length
    backend: str  # library that runs it: open_clip or transformers
    digest: str | None = None

    @property
    def key(self) -> str:
        """What labels of the same model have in common: the digest, or else the id."""
        return self.digest or f"id:{self.repo_id}"

    @property
    def is_local(self) -> bool:
        """Whether the model is a folder on this machine."""
        return self.repo_id.startswith(LOCAL_PREFIX)

    @property
    def slug(self) -> str:
        """Name of the model's folder in a store of labels: ``owner--name``, or ``local--name``."""
        if self.is_local:
            return f"local--{Path(self.repo_id.removeprefix(LOCAL_PREFIX)).name}"
        return self.repo_id.replace("/", "--")

    @property
    def short_name(self) -> str:
        """The last part of the id, for tables."""
        return self.repo_id.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Cost:
    """The parameters of both towers of a model, and the GFLOPs to encode one image (a multiply-add counts as two)."""

    parameters: int
    gflops: float


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment in which a model was measured, with versions; in others, embeddings differ by rounding."""

    device: str  # its type: cpu, cuda or mps
    dtype: str  # of the image tower
    torch: str
    open_clip: str
    transformers: str


@dataclass(frozen=True, slots=True, order=True)
class LabelKey:
    """What directly comparable labels have in common: the digests of the graph's concepts and of the probe images."""

    graph_digest: str
    probes_digest: str

    @property
    def stem(self) -> str:
        """The key in file names."""
        return f"{self.graph_digest[:12]}-{self.probes_digest[:12]}"


@dataclass(frozen=True, eq=False)
class Label(ArrayFields):
    """What one model did on one graph of V concepts, with probe images of S domains.

    Locations are ``hf://datasets/org/name@commit``, or the name of a folder.
    """

    model: ModelRef
    cost: Cost
    graph_name: str
    graph_digest: str
    graph_location: str
    probes_digest: str  # of the probe images, see ProbeCounts
    probes_location: str  # may be private
    images_per_concept: int  # at most
    domain_names: tuple[str, ...]
    package_version: str
    environment: Environment
    license: str | None  # of the model according to its repo, in lower case; None if unknown
    ranks: NDArray[np.uint16]  # [V, RANK_BINS] probe images of a concept by how many rivals beat it, see LabelCounts
    domain_ranks: NDArray[np.int32]  # [S, RANK_BINS] the same by domain
    domain_hits: NDArray[np.uint16]  # [S, V] images on which the concept beat all rivals, by domain
    domain_support: NDArray[np.uint16]  # [S, V] probe images of the concept by domain
    temperature: NDArray[np.float32]  # [1] dividing the model's logits by it calibrates its probabilities

    @property
    def key(self) -> LabelKey:
        """What this label has in common with those that are directly comparable with it."""
        return LabelKey(self.graph_digest, self.probes_digest)

    @property
    def probes_name(self) -> str:
        """Dataset or folder of the probe images, for display; their digest if they are not published."""
        return self.probes_location.removeprefix("hf://datasets/").partition("@")[0] or self.probes_digest[:12]

    @property
    def tie_break(self) -> tuple[float, int, str, str]:
        """Order of equally good models: cost, then id."""
        return self.cost.gflops, self.cost.parameters, self.model.repo_id, self.model.revision

    @cached_property
    def hits(self) -> NDArray[np.int32]:
        """[V] number of probe images on which the concept beat all rivals."""
        return read_only(self.ranks[:, 0].astype(np.int32))

    @cached_property
    def support(self) -> NDArray[np.int32]:
        """[V] number of probe images of the concept."""
        return read_only(self.ranks.sum(axis=1, dtype=np.int32))

    @property
    def n_tested(self) -> int:
        """Number of concepts that have probe images."""
        return int((self.support > 0).sum())

    @cached_property
    def node_precision(self) -> NDArray[np.float32]:
        """[V] recall: share of the concept's probe images that the model recognizes; 0 without images.

        The paper's p_{m,v}, Eq. 5 with all concepts as candidates.
        """
        return read_only(recall_of(self.hits, self.support))

    @cached_property
    def mean_rank_shares(self) -> NDArray[np.float64]:
        """[RANK_BINS] share of probe images in each rank bin, averaged over the concepts with images."""
        tested = self.support > 0
        return read_only((1 / self.support[tested]) @ self.ranks[tested] / max(int(tested.sum()), 1))

    @cached_property
    def mean_recall(self) -> float:
        """Mean recall over the concepts with images."""
        tested = self.support > 0
        return float(self.node_precision[tested].mean(dtype=np.float64)) if tested.any() else 0.0

    @cached_property
    def mean_recall_margin(self) -> float:
        """Half the width of the 95 % confidence interval of :attr:`mean_recall`, from sampling probe images.

        ``1.96 sqrt(sum_v p_v (1 - p_v) / n_v) / V`` over the V concepts with images. Each ``p_v`` is shrunk toward the
        mean by one image, since concepts with a single image would otherwise have no variance.
        """
        tested = self.support > 0
        images = self.support[tested].astype(np.float64)
        if not len(images):
            return 1.0
        recall = (self.hits[tested] + self.mean_recall) / (images + 1)
        return float(Z_95 * np.sqrt((recall * (1 - recall) / images).sum()) / len(images))


@dataclass(frozen=True, eq=False)
class Rivals(ArrayFields):
    """The concepts that a model confuses: a file of its own beside the label, which only strategy ``paper`` reads."""

    rivals: NDArray[np.uint16]  # [V, RIVALS] concepts that most often beat v on its own images; NO_RIVAL in empty slots
    wins: NDArray[np.uint16]  # [V, RIVALS] number of these images


@dataclass(frozen=True)
class ProbeEmbeddings:
    """Embeddings of probe images and concepts by one model: an optional file beside the label, for the exact Eq. 5.

    In Eq. 5 only the concepts selected for a task are candidates. This is approximated from the rivals, and exact with
    the embeddings. They take 1 byte per number, whereas the paper stores the similarity of each image to each concept.
    """

    images: NDArray[np.int8]  # [N, D] embedding of each probe image divided by its scale
    scales: NDArray[np.float32]  # [N]
    concepts: NDArray[np.float16]  # [V, D] unit-norm embeddings of the concepts' captions
    offsets: NDArray[np.int64]  # [V + 1] members[offsets[v]:offsets[v + 1]] are the images that test concept v
    members: NDArray[np.int64]  # images of one concept after another

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
