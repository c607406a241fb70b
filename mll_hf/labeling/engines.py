"""Where models run: on one device in this process, or on Ray, see :mod:`mll_hf.labeling.ray_engine`.

Both do the same work: embed the captions, embed the images, count the contests. Batches and blocks start at the same
images in both, so the same environment gives the same label, byte for byte.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mll_hf.errors import ModelError
from mll_hf.labeling.contest import Contest
from mll_hf.labeling.encoding import decoders_for, encoded_images
from mll_hf.models import environment_of, load_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.counts import LabelCounts
    from mll_hf.labels.label import Cost, Environment, ModelRef
    from mll_hf.models import VisionLanguageModel
    from mll_hf.models.batches import Decoders

    Blocks = Iterable[tuple[int, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Captions:
    """Embedded captions, and the properties of the model that embedded them.

    Attributes:
        embeddings: [V, D] unit-norm float32.
        logit_scale: Factor between cosines and logits.
        cost: Parameters and FLOPs.
        batch_size: Default number of images per batch.
        environment: The environment that the model runs in.
    """

    embeddings: NDArray[np.float32]
    logit_scale: float
    cost: Cost
    batch_size: int
    environment: Environment


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Runs models in this process, on one device; a context manager, since other engines hold workers.

    Attributes:
        device: ``cuda``, ``cuda:1``, ``mps`` or ``cpu``; None for the best available device.
    """

    device: str | None = None

    @contextmanager
    def run(self, model: ModelRef) -> Iterator[LocalRun]:
        """Run a model, and free it at the end; a ModelError if it cannot be loaded."""
        run = LocalRun(load_model(model, self.device))
        try:
            yield run
        finally:
            run.close()

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class LocalRun:
    """One model on a :class:`LocalEngine`.

    Args:
        model: The model.
        processes: Processes that decode images for a GPU; None for one fewer than cores.

    Attributes:
        model: The model.
    """

    def __init__(self, model: VisionLanguageModel, processes: int | None = None) -> None:
        self.model, self._processes = model, processes
        self._decoders: Decoders[bytes | None] | None = None

    @property
    def dtype(self) -> str:
        """Precision of the image tower; float32 once half precision has overflowed."""
        return self.model.dtype

    def close(self) -> None:
        """Free the model and its decoders."""
        self._end_decoders()
        self.model.close()

    def _end_decoders(self) -> None:
        if self._decoders:
            self._decoders.close()
        self._decoders = None

    def embed_captions(self, captions: Sequence[str]) -> Captions:
        """Embed the captions of V concepts; a ModelError if the model cannot be run."""
        model = self.model
        embeddings = model.encode_texts(captions)
        return Captions(embeddings, model.logit_scale, model.cost, model.batch_size, environment_of(model))

    def embed_images(
        self, probes: ProbeSet, images: NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Embed the probe images with the given numbers, ascending.

        Yields:
            Numbers of some images [B] and their embeddings [B, D], NaN where undecodable; parts come in any order.

        Raises:
            ModelError: The model cannot be run, or a process that decodes images died.
            GraphError: The images cannot be read.
        """
        self._decoders = self._decoders or decoders_for(self.model, self._processes)
        try:
            yield from encoded_images(self.model, probes, images, batch_size, self._decoders)
        except ModelError:
            self._end_decoders()  # the next call starts new ones
            raise

    def count(self, graph: SemanticGraph, probes: ProbeSet, captions: Captions, blocks: Blocks) -> LabelCounts:
        """Count the contests over blocks of embeddings [CONTEST_BLOCK, D], each with the number of its first image."""
        return Contest(graph, probes, captions.embeddings, captions.logit_scale, self.model.device).count(blocks)
