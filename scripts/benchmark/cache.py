"""Embeddings of images and texts, computed once per model and data revision and cached on disk.

They are computed model by model, and each is saved when it is complete, so an interrupted run can be resumed.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from mll_hf.labeling.encoding import embedded
from mll_hf.labels.label import Cost
from mll_hf.models import load_model
from mll_hf.utils.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmark.suites import TargetTask
    from mll_hf.labels.label import ModelRef
    from mll_hf.models import VisionLanguageModel

_BATCH = 128


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts of a model besides its embeddings: its logits are ``logit_scale * cosine + logit_bias``."""

    logit_scale: float
    logit_bias: float
    cost: Cost


@dataclass(frozen=True, slots=True)
class EmbeddingCache:
    """A folder per model, with a file per dataset and per list of texts."""

    folder: Path

    def fill(
        self,
        refs: Sequence[ModelRef],
        images: Sequence[TargetTask],
        texts: Sequence[Sequence[str]],
        device: str | None = None,
    ) -> None:
        """Compute missing embeddings; a model is loaded only if some of its embeddings are missing.

        Args:
            refs: The models.
            images: Datasets to embed.
            texts: Lists of texts to embed.
            device: ``cuda``, ``mps``, ``cpu``, or None for the best available device.

        Raises:
            ModelError: A model cannot be loaded or run.
            StorageError: The folder cannot be written.
        """
        for ref in tqdm(refs, unit="model", desc="embeddings", name="benchmark"):  # type: ignore[no-untyped-call]
            new_images = [data for data in images if not self._images_file(ref, data).exists()]
            new_texts = [part for part in texts if not self._texts_file(ref, part).exists()]
            if not (new_images or new_texts or not self._facts_file(ref).exists()):
                continue
            model = load_model(ref, device)
            try:
                for part in new_texts:
                    _write_array(self._texts_file(ref, part), model.encode_texts(part))
                for data in new_images:
                    _write_array(self._images_file(ref, data), _embed(model, data))
                facts = ModelFacts(model.logit_scale, model.logit_bias, model.cost)
                write_atomically(self._facts_file(ref), json.dumps(asdict(facts)).encode())
            finally:
                model.close()

    def images(self, ref: ModelRef, data: TargetTask) -> NDArray[np.float32]:
        """[N, D] unit-norm embeddings; rows of NaN for images that cannot be decoded."""
        return np.load(self._images_file(ref, data))

    def texts(self, ref: ModelRef, texts: Sequence[str]) -> NDArray[np.float32]:
        """[T, D] unit-norm embeddings."""
        return np.load(self._texts_file(ref, texts))

    def facts(self, ref: ModelRef) -> ModelFacts:
        """Logit scale and bias, and cost of a model."""
        document = json.loads(self._facts_file(ref).read_bytes())
        return ModelFacts(document["logit_scale"], document["logit_bias"], Cost(**document["cost"]))

    def _file(self, ref: ModelRef, name: str) -> Path:
        return self.folder / f"{ref.slug}--{ref.revision[:12]}" / name

    def _facts_file(self, ref: ModelRef) -> Path:
        return self._file(ref, "model.json")

    def _images_file(self, ref: ModelRef, data: TargetTask) -> Path:
        return self._file(ref, f"images-{data.revision[:16]}.npy")

    def _texts_file(self, ref: ModelRef, texts: Sequence[str]) -> Path:
        return self._file(ref, f"texts-{hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]}.npy")


def _embed(model: VisionLanguageModel, data: TargetTask) -> NDArray[np.float32]:
    what = f"{model.ref.short_name} {data.name}"
    done = []
    with tqdm(total=len(data), unit="image", desc=what, name="mll_hf.embed", leave=False) as progress:  # type: ignore[no-untyped-call]
        for embeddings in embedded(model, data.batches(_BATCH)):
            done.append(embeddings)
            progress.update(len(embeddings))
    return np.concatenate(done)


def _write_array(path: Path, array: NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getvalue())
