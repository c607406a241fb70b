"""Run the chosen models on images and combine their predictions. Each image is decoded once."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.ensemble import Rule, combine
from mll_hf.ensemble.embedding import Residents, embed_images, image_digest, zero_shot_head
from mll_hf.ensemble.predictions import Prediction
from mll_hf.errors import InputError
from mll_hf.matching.prompts import fill
from mll_hf.selection.head import Head
from mll_hf.selection.repo import heads_key, keep_heads, zero_shot_heads
from mll_hf.selection.result import resemblance
from mll_hf.utils.files import digest_of
from mll_hf.utils.images import is_one_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from mll_hf.ensemble.embedding import EmbeddingCache
    from mll_hf.selection import Selection
    from mll_hf.utils.images import ImageLike as ImageLike

_log = logging.getLogger(__name__)


def for_names(
    selection: Selection, classes: tuple[str, ...] | None = None, templates: tuple[str, ...] = ()
) -> Selection:
    """The selection for other classes or prompt templates: its models, weights and temperatures, without its fit.

    An InputError if a template does not have exactly one ``{}``.
    """
    scores, chosen, names = selection.scores, selection.chosen, classes or selection.classes
    templates = templates or selection.prompt_templates
    fill(templates, names[0])  # raises InputError before a model is loaded
    if classes or selection.trial:
        scores = np.repeat(selection.weights[:, None], len(names), axis=1)
    if classes:
        chosen = np.repeat(chosen.any(axis=1, keepdims=True), len(names), axis=1)
    return replace(selection, classes=names, scores=scores, chosen=chosen, trial=None, templates=templates, heads=())


@dataclass(frozen=True)
class Ensemble:
    """The U chosen models of a selection as one classifier; see :meth:`mll_hf.Client.load` for the other attributes.

    A model is loaded when first used, without its text tower if there is a head for the classes: that of the selection,
    or one that was made earlier. Models stay loaded if memory allows.

    Attributes:
        token: Hub token, for private and gated models; None for the token of the logged-in user.
        keeps_heads: Save heads that are made.
        residents: The loaded models, shared with every ensemble that is made of this one by ``replace``.
    """

    selection: Selection
    device: str | None = None
    token: str | None = field(default=None, repr=False)
    dtype: str | None = None
    batch_size: int | None = None
    keeps_heads: bool = True
    residents: Residents = None  # type: ignore[assignment]  # made below

    def __post_init__(self) -> None:
        """Check the attributes."""
        size = self.batch_size
        if size is not None and not (isinstance(size, int) and size >= 1):
            raise InputError(f"batch_size is {size!r}; give at least 1")
        if self.residents is None:
            object.__setattr__(self, "residents", Residents(self.device, self.dtype, self.token))

    def predict(
        self, images: Sequence[ImageLike], rule: Rule = Rule.LINEAR_POOL, *, reject: float | None = None
    ) -> Prediction:
        """Classify images (paths, encoded bytes or PIL images); see :meth:`stream`.

        Raises:
            InputError: There are no images, or see :meth:`stream`.
            ModelError: A model cannot be loaded or run.
        """
        self._check(images)
        predictions = list(self.stream(images, rule, reject=reject))
        return replace(
            predictions[0],
            probabilities=np.concatenate([prediction.probabilities for prediction in predictions]),
            rejected=np.concatenate([prediction.rejected for prediction in predictions]),
        )

    def stream(
        self, images: Iterable[ImageLike], rule: Rule = Rule.LINEAR_POOL, *, reject: float | None = None
    ) -> Iterator[Prediction]:
        """Classify any number of images, batch by batch, in constant memory.

        Args:
            images: Paths, encoded bytes or PIL images; any iterable.
            rule: How to combine the models.
            reject: Give no class to images that resemble none. The share of the task's own images to lose by it.

        Yields:
            Predictions for the next images, in their order.

        Raises:
            InputError: Images cannot be rejected by this share, selection or rule.
            ModelError: A model cannot be loaded or run; earlier predictions are still valid.
        """
        threshold = None if reject is None else self.threshold(reject, rule)
        models, heads = [self.selection.models[m] for m in self.selection.chosen_models], self._heads(rule)
        for found in embed_images(self.residents, models, images, self.batch_size):
            for model, head, embeddings in zip(models, heads, found, strict=True):
                if (of_head := head.weights.shape[1]) != (of_model := embeddings.shape[1]):
                    raise InputError(
                        f"the head of {model.ref.short_name} has {of_head} dimensions, the model {of_model}; make the "
                        "selection again"
                    )
            logits = np.stack([head.logits(embeddings) for head, embeddings in zip(heads, found, strict=True)])
            yield self._pooled(logits, rule, threshold)

    def model_runner(
        self, images: Sequence[ImageLike], cache: EmbeddingCache | None = None
    ) -> Callable[[int], tuple[NDArray[np.float32], Head]]:
        """Return a function that runs one model at a time on these images.

        It takes the position of a model in the selection, and returns embeddings [N, D] at unit norm, NaN for
        unreadable images, and the zero-shot head. It raises ModelError or MissingExtraError if the model cannot be
        loaded or run. The model is freed afterwards. A cache keeps embeddings and heads.

        Raises:
            InputError: There are no images.
        """
        self._check(images)
        digests, prompts = [image_digest(image) for image in images], digest_of(self._prompts)
        weights, bias = f"{prompts}.weights", f"{prompts}.bias"

        def run(m: int) -> tuple[NDArray[np.float32], Head]:
            model = self.selection.models[m]
            kept = cache.read(model.ref, self.dtype) if cache else {}
            missing = [n for n, digest in enumerate(digests) if digest not in kept]
            is_new = bool(missing) or weights not in kept
            try:
                if weights not in kept:
                    kept[weights], kept[bias] = self._zero_shot(m).weights, self._zero_shot(m).bias
                if missing:
                    parts = embed_images(self.residents, [model], [images[n] for n in missing], self.batch_size)
                    found = np.concatenate([embeddings for (embeddings,) in parts])
                    kept.update(zip((digests[n] for n in missing), found, strict=True))
            finally:
                self.close()
            if cache and is_new:
                cache.write(model.ref, self.dtype, kept)
            return np.stack([kept[digest] for digest in digests]), Head(kept[weights], kept[bias])

        return run

    def fingerprint(self, rule: Rule = Rule.LINEAR_POOL, reject: float | None = None) -> str:
        """Digest of what decides the predictions: two ensembles with the same fingerprint predict the same."""
        selection, chosen = self.selection, list(self.selection.chosen_models)
        values = [each[chosen].round(9).tolist() for each in (selection.temperatures, selection.weights)]
        heads = [head.weights.tobytes() + head.bias.tobytes() for head in selection.fitted_heads]
        fitted = [hashlib.sha256(head).hexdigest() for head in heads]
        used = selection.chosen[chosen].tolist()
        return digest_of([heads_key(selection), values, used, fitted, str(rule), reject, self.dtype])

    def close(self) -> None:
        """Free the memory of all models; they are reloaded when used again."""
        self.residents.close()

    def threshold(self, reject: float, rule: Rule = Rule.LINEAR_POOL) -> float:
        """The resemblance to a class that an image must have; see :meth:`stream`."""
        trial = self.selection.trial
        if trial is None or not rule.is_calibrated:
            raise InputError(
                "to reject images, a selection by 'mll-hf fit' is needed, with its own classes and prompts and rule "
                f"{Rule.LINEAR_POOL}"
            )
        return trial.threshold(reject)

    def _pooled(self, logits: NDArray[np.floating[Any]], rule: Rule, threshold: float | None) -> Prediction:
        """The prediction from logits [U, N, C] of the heads that the rule takes; NaN for unreadable images."""
        selection, chosen = self.selection, list(self.selection.chosen_models)
        readable = np.isfinite(logits).all(axis=(0, 2))
        probabilities, rejected = np.full(logits.shape[1:], np.nan), np.zeros(len(readable), np.bool_)
        if readable.any():
            weights, is_chosen = selection.weights[chosen], selection.chosen[chosen]
            probabilities[readable] = combine(rule, logits[:, readable], is_chosen, weights)
            if threshold is not None:
                rejected[readable] = resemblance(logits[:, readable], weights) < threshold
        return Prediction(selection.classes, probabilities, rejected)

    def head(self, m: int, rule: Rule = Rule.LINEAR_POOL) -> Head:
        """The head of a chosen model that a rule takes, made with the text tower if it is not there.

        Raises ModelError like :meth:`predict`.
        """
        selection = self.selection
        if rule.is_calibrated and selection.fitted_heads:
            return selection.fitted_heads[selection.chosen_models.index(m)]
        head = self._zero_shot(m)
        return head.calibrated(selection.models[m].temperature) if rule.is_calibrated else head

    def _zero_shot(self, m: int) -> Head:
        if m not in self._made:
            model = self.selection.models[m]
            self._made[m] = self.residents.use(model, lambda each: zero_shot_head(each, self._prompts), texts=True)
        return self._made[m]

    @cached_property
    def _made(self) -> dict[int, Head]:
        """The zero-shot heads that are made, by model."""
        if self.selection.trial and not self.selection.heads:
            _log.warning("the fitted heads are not in JSON; zero-shot heads are used. Load the folder of mll-hf fit -o")
        heads = zero_shot_heads(self.selection)
        return dict(zip(self.selection.chosen_models, heads, strict=False))  # none if they were never made

    def _heads(self, rule: Rule) -> list[Head]:
        """The heads of all chosen models that a rule takes."""
        chosen, n_made = self.selection.chosen_models, len(self._made)
        heads = [self.head(m, rule) for m in chosen]
        if self.keeps_heads and len(self._made) > n_made:
            keep_heads(self.selection, [self._made[m] for m in chosen])
        return heads

    @staticmethod
    def _check(images: Sequence[ImageLike]) -> None:
        if not images or is_one_image(images):
            raise InputError("there are no images to classify; give a list with at least one")

    @cached_property
    def _prompts(self) -> list[tuple[str, ...]]:
        """The prompts of each class, one per template."""
        return [fill(self.selection.prompt_templates, name) for name in self.selection.classes]
