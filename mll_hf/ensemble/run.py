"""Run the chosen models on images and combine their predictions. Each image is decoded once."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from mll_hf.ensemble import Rule, combine
from mll_hf.ensemble.residents import Residents
from mll_hf.ensemble.rules import PoolParameters, recalibrated, votes
from mll_hf.errors import InputError
from mll_hf.matching.prompts import fill
from mll_hf.models.batches import prepared_batches
from mll_hf.selection.task import trial_sample
from mll_hf.utils.arrays import ArrayFields
from mll_hf.utils.images import is_one_image, open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from mll_hf.ensemble.residents import Preparation
    from mll_hf.models import VisionLanguageModel
    from mll_hf.selection import Selection
    from mll_hf.utils.images import ImageLike as ImageLike

Item = TypeVar("Item")
_BAR_SECONDS = 1.0  # delay of the progress bar, so that it is not shown for a few images
_EVICTION_BATCH = 512  # images per batch if models evict each other from memory
_SAMPLE = 512  # images on which rule `transport` calibrates the models
_PIXELS_KEPT = 256 * 10**6  # decoded images kept for the next model of a trial; others are decoded again


@dataclass(frozen=True, eq=False)
class Prediction(ArrayFields):
    """Class probabilities of N images.

    Attributes:
        classes: The C class names.
        probabilities: [N, C] float64; rows sum to one, rows of unreadable images are NaN.
        models: Ids of the models.
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
    """The models of a selection as one classifier; see :meth:`mll_hf.Client.load` for the other attributes.

    Models are loaded when first used and stay loaded while memory allows; the least recently used is evicted first.

    Attributes:
        token: Hub token, for private and gated models; None for the token of the logged-in user.
    """

    selection: Selection
    device: str | None = None
    templates: tuple[str, ...] | None = None
    token: str | None = field(default=None, repr=False)
    dtype: str | None = None
    batch_size: int | None = None
    keep_loaded: int | None = None

    def __post_init__(self) -> None:
        """Check the attributes."""
        for name in ("batch_size", "keep_loaded"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give at least 1")

    def predict(self, images: Sequence[ImageLike], rule: Rule = Rule.LINEAR_POOL) -> Prediction:
        """Classify images (paths, encoded bytes or PIL images).

        Raises:
            InputError: There are no images, or a template is invalid.
            ModelError: A model cannot be loaded or run.
        """
        self._check(images)
        predictions = list(self.stream(images, rule))
        probabilities = np.concatenate([prediction.probabilities for prediction in predictions])
        return Prediction(self.selection.classes, probabilities, predictions[0].models)

    def stream(
        self,
        images: Iterable[ImageLike],
        rule: Rule = Rule.LINEAR_POOL,
        *,
        sample: Sequence[ImageLike] | None = None,
    ) -> Iterator[Prediction]:
        """Classify any number of images, batch by batch, in constant memory.

        Each image is read and decoded once for all models.

        Args:
            images: Paths, encoded bytes or PIL images; any iterable.
            rule: How to combine the models.
            sample: Images of the task on which rule ``transport`` calibrates the models; a seeded sample of at most
                512 is used. By default the images themselves, which must then be a list.

        Yields:
            Predictions for the next images, in their order.

        Raises:
            InputError: A template is invalid, or rule ``transport`` has no list of images.
            ModelError: A model cannot be loaded or run; earlier predictions are still valid.
        """
        parameters = self._parameters
        if rule is Rule.TRANSPORT:
            sample = images if sample is None and isinstance(images, Sequence) else sample
            if sample is None:
                raise InputError("rule 'transport' needs a list of images, or a sample of them, to calibrate on")
            logits = self.logits([sample[n] for n in trial_sample(len(sample), _SAMPLE)])
            if sample is images and len(sample) <= _SAMPLE:
                yield self.combine(logits, rule)
                return
            parameters, rule = recalibrated(logits[:, _readable(logits)], self._chosen, parameters), Rule.LINEAR_POOL
        for logits in self._run(self.selection.chosen_models, self._preparation, images, open_image):
            yield self._combined(logits, rule, parameters)

    def combine(self, logits: NDArray[np.float32], rule: Rule = Rule.LINEAR_POOL) -> Prediction:
        """Combine precomputed logits [U, N, C] of the selection's union of models, in that order."""
        return self._combined(logits, rule, self._parameters)

    def _combined(self, logits: NDArray[np.float32], rule: Rule, parameters: PoolParameters) -> Prediction:
        readable = _readable(logits)
        probabilities = np.full(logits.shape[1:], np.nan)
        if readable.any():
            probabilities[readable] = combine(rule, logits[:, readable], self._chosen, parameters)
        ids = tuple(self.selection.models[m].ref.repo_id for m in self.selection.chosen_models)
        return Prediction(self.selection.classes, probabilities, ids)

    def votes(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.floating[Any]]]:
        """The weights [U] of rule ``linear_pool`` and the calibrated probabilities [U, N, C].

        Logits are as for :meth:`combine`. The weights sum to one; probabilities of unreadable images are NaN.
        """
        return votes(logits, self._chosen, self._parameters)

    @property
    def _chosen(self) -> NDArray[np.bool_]:
        """[U, C] which models of the union are chosen for which class."""
        return self.selection.chosen[list(self.selection.chosen_models)]

    @property
    def _parameters(self) -> PoolParameters:
        """Parameters of the selection's union of models."""
        selection, union, calibration = self.selection, list(self.selection.chosen_models), self.selection.calibration
        return PoolParameters(
            temperatures=selection.temperatures[union],
            weights=selection.weights[union],
            prior=np.clip(selection.overall, 0, 1)[union],
            offsets=None if calibration is None else calibration.offsets[union],
        )

    def logits(self, images: Sequence[ImageLike]) -> NDArray[np.float32]:
        """[U, N, C] uncalibrated logits of the selection's union of models; NaN for unreadable images.

        Raises like :meth:`predict`.
        """
        self._check(images)
        batches = self._run(self.selection.chosen_models, self._preparation, images, open_image)
        return np.concatenate(list(batches), axis=1)

    def model_runner(self, images: Sequence[ImageLike]) -> Callable[[int], NDArray[np.float32]]:
        """Return a function that runs one model at a time on these images, which are decoded once for all models.

        It takes the position of a model in the selection and returns logits [N, C], NaN for unreadable images. It
        raises ModelError or MissingExtraError if the model cannot be loaded or run. The model is freed afterwards.

        Raises:
            InputError: There are no images, or a template is invalid.
        """
        self._check(images)
        source = _Images(images)

        def run(m: int) -> NDArray[np.float32]:
            try:
                preparation = self._residents.preparation_for([m])
                return np.concatenate(list(self._run([m], preparation, range(len(images)), source.decode)), axis=1)[0]
            finally:
                self.close()

        return run

    def for_selection(self, selection: Selection, templates: tuple[str, ...] | None = None) -> Ensemble:
        """An ensemble for another selection, with its own class embeddings; loaded models are shared."""
        other = replace(self, selection=selection, templates=templates)
        other.__dict__["_residents"] = self._residents.for_prompts(selection.models, other._prompts)
        return other

    def close(self) -> None:
        """Free the memory of all models; they are reloaded when used again."""
        self._residents.close()

    def _run(
        self,
        models: Sequence[int],
        preparation: Preparation,
        images: Iterable[Item],
        decode: Callable[[Item], Image.Image | None],
    ) -> Iterator[NDArray[np.float32]]:
        """[M, n, C] logits of models on the next n images, batch by batch; NaN if an image cannot be decoded."""
        residents, remaining = self._residents, iter(images)
        size = self.batch_size or (_EVICTION_BATCH if residents.has_evicted else preparation.batch_size)
        batches = iter(lambda: list(islice(remaining, size)), [])
        progress = tqdm(  # type: ignore[no-untyped-call]
            total=len(images) if isinstance(images, Sized) else None,
            desc=self.selection.models[models[0]].name if len(models) == 1 else None,
            unit="image",
            name="mll_hf.predict",
            disable=None,
            leave=False,
            delay=_BAR_SECONDS,
        )
        prepared = prepared_batches(batches, lambda image: preparation(decode(image)), ahead=size)
        with progress, closing(prepared):
            for inputs, readable in prepared:
                logits = np.full((len(models), len(readable), len(self.selection.classes)), np.nan, np.float32)
                progress.update(len(readable))
                if inputs is not None:
                    order = sorted(range(len(models)), key=lambda row: models[row] not in residents)
                    for row in order:
                        pixels = preparation.inputs(inputs, row)
                        logits[row, readable] = residents.use(models[row], partial(_run_model, pixels, self.batch_size))
                yield logits

    def _check(self, images: Sequence[ImageLike]) -> None:
        """Validate the arguments before a model is loaded."""
        if not images or is_one_image(images):
            raise InputError("there are no images to classify; give a list with at least one")
        _ = self._prompts

    @property
    def prompt_templates(self) -> tuple[str, ...]:
        """The prompt templates: those given, or else those of the selection."""
        return self.templates or self.selection.prompt_templates

    @cached_property
    def _prompts(self) -> list[tuple[str, ...]]:
        """The prompts of each class, one per template."""
        return [fill(self.prompt_templates, name) for name in self.selection.classes]

    @cached_property
    def _preparation(self) -> Preparation:
        return self._residents.preparation_for(self.selection.chosen_models)

    @cached_property
    def _residents(self) -> Residents:
        models = self.selection.models
        return Residents(models, self._prompts, self.keep_loaded, self.device, self.dtype, self.token)


def _readable(logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[N] whether all models have logits for an image."""
    return np.asarray(np.isfinite(logits).all(axis=(0, 2)))


def _run_model(
    pixels: torch.Tensor, batch_size: int | None, model: VisionLanguageModel, texts: NDArray[np.float32]
) -> NDArray[np.float32]:
    """[N, C] logits of a model on images [N, 3, H, W]."""
    size = batch_size or model.batch_size
    embeddings = [model.encode_pixels(pixels[first : first + size]) for first in range(0, len(pixels), size)]
    return np.asarray(model.logit_scale * np.concatenate(embeddings) @ texts.T + model.logit_bias, np.float32)


class _Images:
    """The images of a trial, decoded on first use and cached up to a limit."""

    def __init__(self, sources: Sequence[ImageLike]) -> None:
        self._sources = sources
        self._kept: dict[int, Image.Image | None] = {}
        self._pixels = 0

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
