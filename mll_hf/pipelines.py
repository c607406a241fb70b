"""Use a selection like a pipeline of transformers."""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub.utils import get_session, httpx  # type: ignore[attr-defined]  # httpx or httpx2

from mll_hf.ensemble.run import Ensemble, for_names
from mll_hf.errors import InputError
from mll_hf.matching.prompts import check_class_names
from mll_hf.selection.repo import check_licenses
from mll_hf.selection.result import Selection
from mll_hf.utils.images import is_one_image
from mll_hf.utils.text import abridged, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from mll_hf.utils.images import ImageLike

    Input = ImageLike | Mapping[str, Any]
    Answer = list[dict[str, Any]]

_MAX_BYTES = 64 * 2**20  # of a downloaded image
_TIMEOUT_SECONDS = 20.0
_ENSEMBLES_KEPT = 8
_DIGITS = 6  # probabilities are ranked after rounding; logits are float32
_log = logging.getLogger(__name__)


def pipeline(
    model: str | Path | Selection,
    *,
    revision: str | None = None,
    licenses: Sequence[str] = (),
    device: str | int | torch.device | None = None,
    batch_size: int | None = None,
    token: str | None = None,
) -> Pipeline:
    """Create a classifier from a selection, with the interface of transformers' zero-shot image classification.

    Its models are downloaded when the first image is classified.

    Example:
        >>> classifier = pipeline("<you>/my-classifier")
        >>> classifier("photo.jpg", top_k=1)
        [{'score': 0.93, 'label': 'weld'}]

    Args:
        model: ``org/name[@revision]`` of a selection on the Hub, a folder or file with one, or a selection.
        revision: Branch, tag or commit of the selection; by default main.
        licenses: Allowed licenses, such as ``apache-2.0``; empty for any. The models' licenses are read from the Hub.
        device: ``cuda``, ``mps`` or ``cpu``, a GPU number (-1 for ``cpu``), or a device of torch; by default the best
            available device.
        batch_size: Images per batch; by default chosen to keep the device busy.
        token: Hub token, for the selection and its models; None for the token of the logged-in user.
            Not used for other classes or templates than the selection's.

    Raises:
        InputError: This is not a selection, or the license of a model is not allowed.
        HubError: The repo does not exist, or the Hub cannot be reached.
    """
    selection = model
    if not isinstance(selection, Selection):
        selection = Selection.from_pretrained(selection, revision=revision, token=token)
    if licenses:
        check_licenses(selection, licenses, token)
    if isinstance(device, int):
        device = f"cuda:{device}" if device >= 0 else "cpu"
    return Pipeline(Ensemble(selection, None if device is None else str(device), token=token, batch_size=batch_size))


@dataclass(frozen=True)
class Pipeline:
    """An image classifier; create it with :func:`pipeline`.

    Attributes:
        ensemble: The models for the selection's own classes.
    """

    ensemble: Ensemble

    def __call__(
        self,
        image: Input | Iterable[Input],
        candidate_labels: str | Sequence[str] | None = None,
        *,
        hypothesis_template: str | None = None,
        top_k: int | None = None,
        reject: float | None = None,
        timeout: float | None = None,
        batch_size: int | None = None,
    ) -> Any:  # noqa: ANN401 - depends on the type of `image`
        """Classify images.

        Args:
            image: One image (a path, a URL, base64, encoded bytes or a PIL image), a list of images, or any other
                iterable, such as a generator. For rows of a dataset, the column ``image`` is used.
            candidate_labels: Other classes than those of the selection: a list, or a text with commas. The models,
                weights and temperatures are still those of the selection, but not the bias correction of a trial or the
                estimated accuracies; a new selection for these classes is better.
            hypothesis_template: Prompt with one ``{}`` for the class; by default the selection's templates.
            top_k: Maximum number of classes to return; by default all.
            reject: Answer ``[{"score": 0.0, "label": None}]`` for images that resemble no class, so strictly that this
                share of the task's own images is lost, such as .05; needs a fitted selection, and its classes.
            timeout: Seconds to wait for the server of a URL; by default 20.
            batch_size: Images per batch; by default that of the pipeline.

        Returns:
            For one image ``[{"score": 0.9, "label": "cat"}, ...]``, best class first; scores sum to one over all
            classes. For a list of images, a list of these. For any other iterable, an iterator that reads
            ``batch_size`` images at a time. For unreadable images among several, the result is ``[]``, and a warning is
            logged.

        Raises:
            InputError: The classes or the template cannot be used, the only image cannot be read, or images cannot be
                rejected by this share or selection.
            ModelError: A model cannot be loaded or run.
        """
        if top_k is not None and not (isinstance(top_k, int) and top_k >= 1):
            raise InputError(
                f"top_k is {top_k!r:.20}; give a whole number, at least 1, or leave it out for all classes"
            )
        if not isinstance(hypothesis_template, str | None):
            raise InputError("hypothesis_template must be a string with one {} for the class")
        classes = None if candidate_labels is None else check_class_names(listed(candidate_labels))
        ensemble = self._ensemble_for(classes, hypothesis_template)
        if batch_size is not None:
            ensemble = replace(ensemble, batch_size=batch_size)
        if reject is not None:
            ensemble.threshold(reject)  # raises InputError before a model is loaded
        load = partial(_load_input, timeout=timeout or _TIMEOUT_SECONDS)
        is_one = is_one_image(image)
        stream = _answers(ensemble, map(load, [image] if is_one else image), top_k, reject)  # type: ignore[arg-type]
        if not is_one:
            return list(stream) if isinstance(image, (list, tuple)) else stream
        if answer := next(stream):
            return answer
        raise InputError(f"{shortened(repr(image), 80)} cannot be read as an image; check the path, URL or file")

    @cached_property
    def _ensemble_for(self) -> Callable[[tuple[str, ...] | None, str | None], Ensemble]:
        """Returns a cached function that makes ensembles for classes and a template; they share the loaded models."""
        return lru_cache(maxsize=_ENSEMBLES_KEPT)(self._make_ensemble)

    def _make_ensemble(self, classes: tuple[str, ...] | None, template: str | None) -> Ensemble:
        selection = self.ensemble.selection
        if template is None and (classes is None or set(classes) == set(selection.classes)):
            return self.ensemble
        asked = for_names(selection, classes, () if template is None else (template,))
        return replace(self.ensemble, selection=asked, keeps_heads=False)


def _answers(
    ensemble: Ensemble, images: Iterable[ImageLike], top_k: int | None, reject: float | None
) -> Iterator[Answer]:
    predictions = ensemble.stream(images, reject=reject)  # reads images batch by batch
    rows = (row for each in predictions for row in zip(each.probabilities, each.rejected, strict=True))
    for n, (probabilities, is_rejected) in enumerate(rows):
        if np.isnan(probabilities).any():
            _log.warning("image %d cannot be read; it has no prediction", n)
            yield []
        elif is_rejected:
            yield [{"score": 0.0, "label": None}]
        else:
            best = np.argsort(-probabilities.round(_DIGITS), kind="stable")[:top_k]
            yield [{"score": float(probabilities[y]), "label": ensemble.selection.classes[y]} for y in best]


# --- images -----------------------------------------------------------------------------------------------------------


def listed(candidate_labels: str | Sequence[str]) -> Sequence[str]:
    """Class names as a list; clients also send them as one text, with commas."""
    return candidate_labels.split(",") if isinstance(candidate_labels, str) else candidate_labels


def _load_input(given: Input, timeout: float) -> ImageLike:
    """Convert an input for the ensemble: URLs are downloaded, base64 is decoded, images are extracted from rows."""
    if isinstance(given, Mapping):
        if "image" not in given:
            raise InputError(
                f"a row has no column 'image', only {abridged(sorted(map(str, given)), 5)}; rename the column with the "
                "images, or give only the images: (row['photo'] for row in dataset)"
            )
        given = given["image"]
    if isinstance(given, Mapping):
        given = given.get("bytes") or given.get("path") or b""
    if not isinstance(given, str):
        return given
    if given.startswith(("http://", "https://")):
        return _download(given, timeout)
    return given if os.path.isfile(given) else decoded(given) or given


def decoded(text: str) -> bytes:
    """The content of an image in base64 or a data URL; empty if the text is neither."""
    encoded = "".join((text.rpartition(",")[2] if text.startswith("data:") else text).split())
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        return b""


def _download(url: str, timeout: float) -> bytes:
    """The content of a URL; empty if it cannot be downloaded or is too large."""
    content = bytearray()
    try:
        with get_session().stream("GET", url, timeout=timeout, follow_redirects=True) as response:
            response.raise_for_status()
            for part in response.iter_bytes():
                content += part
                if len(content) > _MAX_BYTES:
                    return b""
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _log.warning("%s: %s", url, error)
        return b""
    return bytes(content)
