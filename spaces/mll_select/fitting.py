"""A visitor's images: models fitted to them, and fitted again after every correction. One model in memory at a time."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.ensemble.embedding import EmbeddingCache, image_digest
from mll_hf.ensemble.run import Ensemble
from mll_hf.ensemble.trial import fitted_probabilities, try_models
from mll_hf.errors import InputError
from mll_hf.export import export_onnx
from mll_hf.selection import Task
from mll_hf.selection.suggest import suggest
from mll_hf.selection.task import MIN_IMAGES, trial_sample
from mll_hf.utils.examples import Examples
from mll_hf.utils.images import open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from answers import Labels, Question
    from numpy.typing import NDArray

    from mll_hf import Selection
    from mll_hf.labels.label import ModelRef

    Tell = Callable[[str], object]  # called with a text before each model runs

MAX_IMAGES = 200
TO_ASK = 25  # images whose class is asked for
_SHORTLIST = 8  # models that compete in a trial; all of them may have to run on a CPU
_THUMBNAIL = 224  # pixels
_NOT_COUNTED = 1e-6  # weight of an example that the visitor chose: it changes heads, and no estimate


@dataclass(frozen=True)
class Fitted:
    """Models fitted to a visitor's images."""

    question: Question
    shortlist: Selection  # by class names; the models that were tried are chosen
    images: tuple[str, ...]  # paths of the N readable images
    thumbnails: tuple[str, ...]  # [N] their paths
    n_unreadable: int
    selection: Selection
    probabilities: NDArray[np.float64]  # [N, C] of the classes
    folder: tempfile.TemporaryDirectory[str]  # embeddings and thumbnails; deleted with the last reference
    weights: dict[int, float]  # of the images whose class is asked for, in random order; see `suggest`
    answers: dict[int, int] = field(default_factory=dict)  # class of an image, as told by the visitor

    @property
    def counted(self) -> dict[int, float]:
        """Weights of the answered images that estimates rest on: those that were asked for, before the first gap.

        Images that a visitor chose to correct are mostly wrong ones, so they must not decide how good a model is.
        """
        return dict(takewhile(lambda pair: pair[0] in self.answers, self.weights.items()))

    @property
    def next_asked(self) -> int:
        """The image to ask for next; the first one if all are told."""
        return next((n for n in self.weights if n not in self.answers), 0)

    def class_of(self, n: int) -> int:
        """The class of an image as told, or else predicted."""
        return self.answers.get(n, int(self.probabilities[n].argmax()))


@dataclass(frozen=True)
class TellingCache(EmbeddingCache):
    """A cache of embeddings that tells which model is run next, since each begins by reading it."""

    tell: Tell

    def read(self, model: ModelRef, dtype: str | None) -> dict[str, NDArray[Any]]:
        """See :meth:`EmbeddingCache.read`."""
        self.tell(f"Running {model.short_name} on your images")
        return super().read(model, dtype)


def fit(labels: Labels, question: Question, paths: Sequence[str], most: int, tell: Tell) -> Fitted:
    """Try models on a visitor's images and fit them; fewer than 10 images are only classified.

    The models in a trial have at most ``most`` parameters in total.

    Raises:
        MLLError: No image can be read, no model is within the limits, or all models fail.
    """
    folder = tempfile.TemporaryDirectory(prefix="mll-")
    sample = [paths[n] for n in trial_sample(len(paths), MAX_IMAGES)]
    thumbnails = {path: thumbnail for path in sample if (thumbnail := _thumbnail(path, folder.name))}
    if not thumbnails:
        raise InputError("none of these files is an image that can be read; use JPEG, PNG or WebP")
    images, is_trial, cache = tuple(thumbnails), len(thumbnails) >= MIN_IMAGES, TellingCache(Path(folder.name), tell)
    largest, k = min(question.config.max_parameters or most, most), question.config.k or 1
    config = replace(question.config, k=k, max_parameters=largest, shortlist=_SHORTLIST, max_download=4 * most)
    if is_trial:
        task = Task.of(question.classes, domain=question.domain, images=images)
        shortlist = labels.client.shortlist(task, config)
        sizes = [4 * (shortlist.models[m].cost.parameters or most) for m in shortlist.chosen_models]
        selection = try_models(Ensemble(shortlist), config, task, sizes, None, cache)
        tried = [model.ref in {model.ref for model in selection.models} for model in shortlist.models]
        shortlist = replace(shortlist, chosen=shortlist.chosen & np.array(tried)[:, None])  # no other runs later
    else:
        shortlist = labels.select(question, max_parameters=largest)
        run = Ensemble(shortlist).model_runner(images, cache)
        heads = [run(m)[1] for m in shortlist.chosen_models]
        selection = replace(shortlist, heads=tuple(heads))
    probabilities = fitted_probabilities(Ensemble(selection), images, cache)
    weights = {}
    if is_trial:
        drawn, each = suggest(probabilities, min(TO_ASK, len(images)))
        order = np.random.default_rng(0).permutation(len(drawn))  # so that any first part is a random sample, too
        weights = dict(zip(drawn[order].tolist(), each[order].tolist(), strict=True))
    left = len(sample) - len(images)
    return Fitted(
        question, shortlist, images, tuple(thumbnails.values()), left, selection, probabilities, folder, weights
    )


def correct(fitted: Fitted, n: int, name: str) -> Fitted:
    """Tell the class of an image, and fit again; embeddings are kept, so no model runs."""
    classes = fitted.question.classes
    if name not in classes or not 0 <= n < len(fitted.images) or not fitted.weights:
        raise InputError("this is not an image and a class of this fit; fit again")
    fitted = replace(fitted, answers={**fitted.answers, n: classes.index(name)})
    images, answers, counted, shortlist = fitted.images, fitted.answers, fitted.counted, fitted.shortlist
    examples = Examples(
        tuple(images[n] for n in answers),
        np.array(list(answers.values()), np.int64),
        np.array([counted.get(n, _NOT_COUNTED) for n in answers]),
    )
    rest = tuple(image for n, image in enumerate(images) if n not in answers)
    # examples as the library checks them, but from the first one on: 5 are needed to compare models, not to fit these
    task = replace(Task.of(classes), images=rest, examples=examples)
    cache = EmbeddingCache(Path(fitted.folder.name))
    config = replace(fitted.question.config, k=fitted.question.config.k or 1, max_download=1)
    sizes = [0] * len(shortlist.chosen_models)
    selection = try_models(Ensemble(shortlist), config, task, sizes, None, cache)
    if not counted and shortlist.estimate is not None:
        refs = [model.ref for model in shortlist.models]
        rows = [refs.index(model.ref) for model in selection.models]
        selection = replace(selection, estimate=shortlist.estimate.subset(rows).at_most_first())
    probabilities = fitted_probabilities(Ensemble(selection), images, cache)
    return replace(fitted, selection=selection, probabilities=probabilities)


def _thumbnail(path: str, folder: str) -> str | None:
    """Path of a small copy of an image; None if it cannot be read."""
    image = open_image(path)
    if image is None:
        return None
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = Path(folder) / f"{image_digest(path)}.jpg"
    image.save(file, quality=85)
    return str(file)


# --- to take away -----------------------------------------------------------------------------------------------------


def saved_folder(selection: Selection, folder: Path) -> str:
    """Path of a zip of the selection and its heads, which :meth:`Selection.from_pretrained` reads once unpacked."""
    selection.save_pretrained(folder / "choice")
    return shutil.make_archive(str(folder / "choice"), "zip", folder / "choice")


def onnx(selection: Selection, folder: Path, most: int) -> str:
    """Path of a zip of the ONNX graphs of a selection; an MLLError if they are too large, or cannot be exported."""
    if selection.cost.parameters > most:
        raise InputError("these models are too large to export here; export the saved folder on your machine")
    target = folder / "onnx"
    exported, failed = export_onnx(selection, target)
    if not exported:
        raise failed[0]
    return shutil.make_archive(str(target), "zip", target)
