"""Models run in this process, on one device."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mll_hf.labeling.contest import Contest
from mll_hf.labeling.encoding import encoded_images
from mll_hf.labeling.engines.base import Captions
from mll_hf.models import load_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labeling.engines.base import Blocks, ModelRun
    from mll_hf.labels.counts import LabelCounts
    from mll_hf.labels.label import ModelRef
    from mll_hf.models import VisionLanguageModel


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Models run in this process, on one device.

    Attributes:
        device: ``cuda``, ``cuda:1``, ``mps``, ``cpu``, or None for the best that is there.
    """

    device: str | None = None

    @property
    def models_at_once(self) -> int:
        """One."""
        return 1

    @contextmanager
    def run(self, model: ModelRef) -> Iterator[ModelRun]:
        """See :class:`~mll_hf.labeling.engines.Engine`."""
        run = _LocalRun(model, self.device)
        try:
            yield run
        finally:
            run.close()

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _LocalRun:
    def __init__(self, ref: ModelRef, device: str | None) -> None:
        self.model, self._device = ref, device
        self._loaded: VisionLanguageModel | None = None

    @property
    def _ready(self) -> VisionLanguageModel:
        if self._loaded is None:
            self._loaded = load_model(self.model, self._device)
        return self._loaded

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()

    def embed_captions(self, captions: Sequence[str]) -> Captions:
        return Captions.of(self._ready, captions)

    def embed_images(
        self, probes: ProbeSet, images: NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        yield from encoded_images(self._ready, probes, images, batch_size)

    def count(self, graph: SemanticGraph, probes: ProbeSet, captions: Captions, blocks: Blocks) -> LabelCounts:
        contest = Contest(graph, probes, captions.embeddings, captions.logit_scale, self._ready.device)
        return contest.count(blocks)
