"""What an engine must offer. No heavy import here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.counts import LabelCounts
    from mll_hf.labels.label import Cost, ModelRef
    from mll_hf.models import VisionLanguageModel

    Blocks = Iterable[tuple[int, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Captions:
    """What a model makes of the concepts' captions, and what is known of it once it is loaded.

    Attributes:
        embeddings: [V, D] unit-norm float32.
        logit_scale: Factor between its cosines and logits.
        cost: What it costs to run.
        batch_size: Images at a time that fit the device.
    """

    embeddings: NDArray[np.float32]
    logit_scale: float
    cost: Cost
    batch_size: int

    @classmethod
    def of(cls, model: VisionLanguageModel, captions: Sequence[str]) -> Captions:
        """Embed captions with a loaded model."""
        return cls(model.encode_texts(captions), model.logit_scale, model.cost, model.batch_size)


class ModelRun(Protocol):
    """One model, ready to measure.

    Attributes:
        model: Which one.
    """

    model: ModelRef

    def embed_captions(self, captions: Sequence[str]) -> Captions:
        """Embed the captions of V concepts.

        Raises:
            ModelError: The model cannot be loaded or run.
        """

    def embed_images(
        self, probes: ProbeSet, images: NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Embed probe images.

        Args:
            probes: The images.
            images: Numbers of those that are wanted, ascending.
            batch_size: Images at a time.

        Yields:
            Numbers of some images [B], and their embeddings [B, D]; in any order.

        Raises:
            ModelError: The model cannot be loaded or run.
            GraphError: The images cannot be read.
        """

    def count(self, graph: SemanticGraph, probes: ProbeSet, captions: Captions, blocks: Blocks) -> LabelCounts:
        """Let the concepts contest the images.

        Args:
            graph: The V concepts.
            probes: The N images.
            captions: Of the concepts.
            blocks: Number of a block's first image and the embeddings [B, D] from there on, CONTEST_BLOCK at a time.
        """


class Engine(Protocol):
    """Where models run; a context in which workers live."""

    @property
    def models_at_once(self) -> int:
        """Models that are best measured at a time, so that no worker idles when one is nearly done."""
        ...

    def run(self, model: ModelRef) -> AbstractContextManager[ModelRun]:
        """Measure with one model; it is loaded when first needed, and freed afterwards."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
