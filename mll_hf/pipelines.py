"""A selection as a classifier that is called like a pipeline of transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from huggingface_hub.utils import get_session, httpx  # type: ignore[attr-defined]  # httpx or httpx2, whichever it uses

from mll_hf.ensemble.run import Ensemble
from mll_hf.errors import InputError
from mll_hf.matching.prompts import check_class_names, fill
from mll_hf.selection.base import in_units
from mll_hf.selection.repo import check_models
from mll_hf.selection.result import Selection
from mll_hf.utils.images import is_one_image
from mll_hf.utils.text import abridged, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mll_hf.utils.images import ImageLike

    Input = ImageLike | Mapping[str, Any]
    Answers = list[dict[str, Any]]

_MOST_BYTES = 64 * 2**20  # of an image behind a link
_TIMEOUT_SECONDS = 20.0
_ENSEMBLES_KEPT = 8
_log = logging.getLogger(__name__)


def pipeline(
    model: str | Path | Selection,
    *,
    revision: str | None = None,
    licenses: Sequence[str] = (),
    device: str | int | None = None,
    batch_size: int | None = None,
    token: str | None = None,
    cascade: bool = False,
) -> Pipeline:
    """A classifier from a selection, used like transformers' pipeline for zero-shot image classification.

    The models are downloaded when the first image is classified. That they are still on the Hub is checked here.

    Example:
        >>> classifier = pipeline("org/my-classifier")
        >>> classifier("photo.jpg", top_k=1)
        [{'score': 0.93, 'label': 'weld'}]

    Args:
        model: ``org/name[@revision]`` of a selection on the Hub, a folder or file with one, or a selection.
        revision: Branch, tag or commit of the selection; by default main.
        licenses: Licenses that models may have, such as ``apache-2.0``; empty for any. The Hub is asked for them.
        device: ``cuda``, ``mps`` or ``cpu``, or the number of a GPU (-1 for ``cpu``); by default the best available.
        batch_size: Images per batch; by default what keeps the device busy.
        token: Hub token, for the selection and its models; None for the token of the logged-in user.
        cascade: Let the selection's cheap model answer first, and the chosen ones only where it is unsure. Other
            classes and templates than the selection's are answered by the chosen models.

    Raises:
        InputError: This is no selection, it has no cascade, or a model has a license that is not allowed.
        ModelError: A model, or its pinned commit, is not on the Hub any more.
        HubError: The Hub has no such repo, or cannot be reached.
    """
    selection = model
    if not isinstance(selection, Selection):
        selection = Selection.from_pretrained(selection, revision=revision, token=token)
    if not cascade:
        selection = replace(selection, cascade=None)  # whose cheap model need not be there then
    check_models(selection, licenses, token)
    if isinstance(device, int):
        device = f"cuda:{device}" if device >= 0 else "cpu"
    return Pipeline(Ensemble(selection, device, token=token, batch_size=batch_size, cascade=cascade))


@dataclass(frozen=True)
class Pipeline:
    """A classifier of images; made by :func:`pipeline`.

    Attributes:
        ensemble: The models for the selection's own classes; it says what a cascade saved so far.
    """

    ensemble: Ensemble

    def __call__(
        self,
        images: Input | Iterable[Input],
        candidate_labels: Sequence[str] | None = None,
        *,
        hypothesis_template: str | None = None,
        top_k: int | None = None,
    ) -> Any:  # noqa: ANN401 - what comes out has the form of what went in
        """Classify images.

        Args:
            images: One image (a path, a link, encoded bytes or a picture), a list of images, or any other iterable,
                such as a generator. The rows of a dataset are taken by their column ``image``.
            candidate_labels: Other classes than those of the selection. The models and their weights and temperatures
                stay those chosen for the selection's classes. Lost are the offsets that a trial on images found for
                each class, and all estimates of accuracy; a selection of its own for the new classes is better.
            hypothesis_template: Prompt with one ``{}`` for the class; by default the selection's templates.
            top_k: Only so many classes; by default all.

        Returns:
            For one image ``[{"score": 0.9, "label": "cat"}, ...]``, best class first; scores sum to one over all
            classes. For a list of images a list of these. For any other iterable an iterator, which draws
            ``batch_size`` images at a time. An image of several that cannot be read has no answers, ``[]``, and is
            logged as a warning.

        Raises:
            InputError: The classes or the template cannot be used, or the only image cannot be read.
            ModelError: A model cannot be loaded or run.
        """
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k is {top_k}; ask for at least one class, or leave it out for all")
        classes = None if candidate_labels is None else check_class_names(candidate_labels)
        ensemble = self._ensemble_for(classes, hypothesis_template)
        if is_one_image(images):
            (answers,) = self._answers(ensemble, [cast("Input", images)], top_k)
            if not answers:
                raise InputError(f"{shortened(repr(images), 80)} cannot be read as an image; check path, link or file")
            return answers
        stream = self._answers(ensemble, cast("Iterable[Input]", images), top_k)
        return list(stream) if isinstance(images, (list, tuple)) else stream

    @cached_property
    def _ensemble_for(self) -> Callable[[tuple[str, ...] | None, str | None], Ensemble]:
        """Makes the ensemble for classes and a template; the last are kept, and all share the loaded models."""
        return lru_cache(maxsize=_ENSEMBLES_KEPT)(self._make_ensemble)

    def _make_ensemble(self, classes: tuple[str, ...] | None, template: str | None) -> Ensemble:
        selection = self.ensemble.selection
        if classes is not None:
            selection = _with_classes(selection, classes)
        if template is not None:
            fill([template], selection.classes[0])  # refuses a wrong one before a model is loaded
        templates = None if template is None else (template,)
        return self.ensemble.for_selection(selection, templates)

    def _answers(self, ensemble: Ensemble, images: Iterable[Input], top_k: int | None) -> Iterator[Answers]:
        classes = ensemble.selection.classes
        predictions = ensemble.stream(map(_image, images))  # which draws images by the batch
        for n, probabilities in enumerate(row for prediction in predictions for row in prediction.probabilities):
            if np.isnan(probabilities).any():
                _log.warning("image %d cannot be read; it has no answer", n)
                yield []
                continue
            best = np.argsort(-in_units(probabilities), kind="stable")[:top_k]
            yield [{"score": float(probabilities[y]), "label": classes[y]} for y in best]


def _with_classes(selection: Selection, classes: tuple[str, ...]) -> Selection:
    """The models of a selection for other classes: their weights, temperatures and prompt templates, and no more."""
    if set(classes) == set(selection.classes):
        return selection
    union = list(selection.union)
    models = [replace(selection.models[m], temperature=float(selection.temperatures[m])) for m in union]
    per_class = np.zeros(len(classes))
    return Selection(
        classes=classes,
        strategy=selection.strategy,
        k=selection.k,
        models=tuple(models),
        scores=np.repeat(selection.weights[union, None], len(classes), axis=1),  # without evidence they are the weights
        chosen=np.ones((len(union), len(classes)), np.bool_),
        matches=((),) * len(classes),
        coverage=per_class,
        images=per_class,
        domain=selection.domain,
        task=selection.task,
        templates=selection.prompt_templates,
    )


# --- images -----------------------------------------------------------------------------------------------------------


def _image(given: Input) -> ImageLike:
    """What the ensemble takes: links are fetched, and of rows the image is taken, which may be not decoded yet."""
    if isinstance(given, Mapping):
        if "image" not in given:
            raise InputError(
                f"a row has no column 'image', only {abridged(sorted(map(str, given)), 5)}; rename the column of the "
                "images, or give the images alone: (row['photo'] for row in dataset)"
            )
        given = given["image"]
    if isinstance(given, Mapping):
        given = given.get("bytes") or given.get("path") or b""
    if isinstance(given, str) and given.startswith(("http://", "https://")):
        return _fetched(given)
    return given


def _fetched(link: str) -> bytes:
    """The content behind a link; none if it cannot be had, or is too large for an image."""
    content = bytearray()
    try:
        with get_session().stream("GET", link, timeout=_TIMEOUT_SECONDS, follow_redirects=True) as response:
            response.raise_for_status()
            for part in response.iter_bytes():
                content += part
                if len(content) > _MOST_BYTES:
                    return b""
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _log.warning("%s: %s", link, error)
        return b""
    return bytes(content)
