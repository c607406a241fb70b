"""Run the chosen models on images, one model at a time, and combine their answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from mll_hf.ensemble import Rule, combine
from mll_hf.ensemble.rules import Trust, votes
from mll_hf.errors import InputError, ModelError
from mll_hf.matching.prompts import fill
from mll_hf.models import load_model
from mll_hf.models.batches import prepared_batches
from mll_hf.utils.arrays import ArrayFields
from mll_hf.utils.images import open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from mll_hf.models import VisionLanguageModel
    from mll_hf.selection import Selection
    from mll_hf.utils.images import ImageLike as ImageLike

_BATCH = 64
_PIXELS_KEPT = 256 * 10**6  # decoded pictures kept for the next model; the rest are decoded again


@dataclass(frozen=True, eq=False)
class Prediction(ArrayFields):
    """Class probabilities of N images.

    Attributes:
        classes: The C class names.
        probabilities: [N, C] float64; rows sum to one, rows of unreadable images are NaN.
        models: Ids of the models that answered.
    """

    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    models: tuple[str, ...]

    @property
    def unreadable(self) -> tuple[int, ...]:
        """Positions of the images that could not be decoded."""
        return tuple(np.flatnonzero(np.isnan(self.probabilities).any(axis=1)).tolist())

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The most probable class of each image; None for unreadable images."""
        unreadable = set(self.unreadable)
        best = np.nan_to_num(self.probabilities, nan=-1.0).argmax(axis=1)
        return tuple(None if n in unreadable else self.classes[y] for n, y in enumerate(best))


@dataclass(frozen=True)
class Ensemble:
    """The models of a selection, ready to classify.

    Attributes:
        selection: Which models answer for which classes.
        device: Device of the models; None for the best available one.
        templates: Prompt templates with one ``{}`` each; None for those that fit the selection's domain and task.
        token: Hub token, for private and gated models; None for that of the user's login.
    """

    selection: Selection
    device: str | None = None
    templates: tuple[str, ...] | None = None
    token: str | None = field(default=None, repr=False)

    def predict(self, images: Sequence[ImageLike], rule: Rule = Rule.LINEAR_POOL) -> Prediction:
        """Classify images (paths, encoded bytes or pictures).

        Each image is decoded once as long as the decoded pictures fit in 256 megapixels; models are loaded one after
        another and freed, so memory peaks at one model.

        Raises:
            InputError: There are no images, or a template is wrong.
            ModelError: A model cannot be loaded or run.
        """
        return self.combine(self.logits(images), rule)

    def combine(self, logits: NDArray[np.float32], rule: Rule = Rule.LINEAR_POOL) -> Prediction:
        """Combine logits that were computed before; :meth:`predict` is :meth:`logits` and then this.

        Args:
            logits: [U, N, C] of the selection's union of models, in that order.
            rule: How to combine them.
        """
        selection, union = self.selection, list(self.selection.union)
        readable = np.isfinite(logits).all(axis=(0, 2))
        probabilities = np.full(logits.shape[1:], np.nan)
        if readable.any():
            probabilities[readable] = combine(rule, logits[:, readable], selection.chosen[union], self._trust)
        ids = tuple(selection.models[m].ref.repo_id for m in union)
        return Prediction(selection.classes, probabilities, ids)

    def votes(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.floating[Any]]]:
        """What each model says by itself, and how much it counts under the rule ``linear_pool``.

        Args:
            logits: [U, N, C] of the selection's union of models, in that order.

        Returns:
            The weights [U], which sum to one, and the calibrated probabilities [U, N, C]; NaN for unreadable images.
        """
        return votes(logits, self.selection.chosen[list(self.selection.union)], self._trust)

    @property
    def _trust(self) -> Trust:
        """What the selection knows of its union of models."""
        selection, union, evidence = self.selection, list(self.selection.union), self.selection.evidence
        return Trust(
            temperatures=selection.temperatures[union],
            weights=selection.weights[union],
            prior=np.clip(selection.overall if evidence is None else evidence.prior, 0, 1)[union],
            offsets=None if evidence is None else evidence.calibration.offsets[union],
        )

    def logits(self, images: Sequence[ImageLike]) -> NDArray[np.float32]:
        """[M, N, C] logits of the selection's union of models, each as the model itself would give them.

        Rows of unreadable images are NaN. Raises as :meth:`predict` does.
        """
        source = self._checked(images)
        return np.stack([self._logits(m, source) for m in self.selection.union])

    def one_by_one(self, images: Sequence[ImageLike]) -> Callable[[int], NDArray[np.float32]]:
        """A function that runs one model on these images, which are decoded once for all models.

        It takes the position of a model in the selection and returns logits [N, C], NaN for unreadable images. It
        raises ModelError or MissingExtraError if the model cannot be loaded or run.

        Raises:
            InputError: There are no images, or a template is wrong.
        """
        source = self._checked(images)
        return lambda m: self._logits(m, source)

    def _checked(self, images: Sequence[ImageLike]) -> _Images:
        """The images, after everything that can be wrong with a call was looked at, before a model is loaded."""
        if not images or isinstance(images, (str, bytes)):
            raise InputError("there are no images to classify; give a list with at least one")
        _ = self._prompts
        return _Images(images)

    @property
    def prompt_templates(self) -> tuple[str, ...]:
        """The templates of all prompts: those given, or those of the selection."""
        return self.templates or self.selection.prompt_templates

    @cached_property
    def _prompts(self) -> list[tuple[str, ...]]:
        """The prompts of each class, one per template."""
        return [fill(self.prompt_templates, name) for name in self.selection.classes]

    def _logits(self, m: int, images: _Images) -> NDArray[np.float32]:
        """[N, C] logits of one model; NaN rows for unreadable images."""
        model = load_model(self.selection.models[m].ref, self.device, token=self.token)
        try:
            if not np.isfinite([model.logit_scale, model.logit_bias]).all():
                reason = "has no finite logit scale or bias; its files may be damaged: use another model"
                raise ModelError(model.ref.repo_id, reason)
            texts = _class_embeddings(model, self._prompts)
            logits = np.full((len(images), len(texts)), np.nan, np.float32)
            progress = tqdm(  # type: ignore[no-untyped-call]
                total=len(images), unit="image", desc=model.ref.short_name, name="mll_hf.predict", leave=False
            )

            def prepare(n: int) -> torch.Tensor | None:
                image = images.decode(n)
                return None if image is None else model.preprocess(image)

            batches = [range(first, min(first + _BATCH, len(images))) for first in range(0, len(images), _BATCH)]
            with progress:
                for batch, (pixels, readable) in zip(batches, prepared_batches(batches, prepare), strict=True):
                    if pixels is not None:
                        embeddings = model.encode_pixels(pixels)
                        logits[np.array(batch)[readable]] = model.logit_scale * embeddings @ texts.T + model.logit_bias
                    progress.update(len(batch))
            return logits
        finally:
            model.close()


def _class_embeddings(model: VisionLanguageModel, prompts: list[tuple[str, ...]]) -> NDArray[np.float32]:
    """[C, D] unit-norm mean of the embeddings of each class's prompts, as many for each class."""
    embeddings = model.encode_texts([text for texts in prompts for text in texts])
    means = embeddings.reshape(len(prompts), len(prompts[0]), -1).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


class _Images:
    """The images of a call, decoded when first asked for and kept while they fit."""

    def __init__(self, sources: Sequence[ImageLike]) -> None:
        self._sources = sources
        self._kept: dict[int, Image.Image | None] = {}
        self._pixels = 0

    def __len__(self) -> int:
        return len(self._sources)

    def decode(self, n: int) -> Image.Image | None:
        """The n-th image in RGB, or None if it cannot be read."""
        if n in self._kept:
            return self._kept[n]
        image = open_image(self._sources[n])
        size = image.width * image.height if image else 0
        if self._pixels + size <= _PIXELS_KEPT:
            self._kept[n] = image
            self._pixels += size
        return image
