"""A visitor's images: models fitted to them, and fitted again after every correction. One model in memory at a time."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.ensemble.embedding_cache import EmbeddingCache, image_digest
from mll_hf.ensemble.run import Ensemble
from mll_hf.ensemble.trial import fitted_probabilities, try_models
from mll_hf.errors import InputError
from mll_hf.export import export_onnx
from mll_hf.selection import Task, shortlist_config
from mll_hf.selection.suggest import suggest
from mll_hf.selection.task import MIN_IMAGES, trial_sample
from mll_hf.utils.examples import Examples
from mll_hf.utils.images import open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from answers import Labels, Question
    from numpy.typing import NDArray

    from mll_hf import Selection
    from mll_hf.selection.head import Head
    from mll_hf.utils.images import ImageLike

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
    asked: tuple[int, ...] = ()  # images whose class is asked for, in random order
    weights: tuple[float, ...] = ()  # their weights, see :func:`mll_hf.selection.suggest.suggest`
    answers: dict[int, int] = field(default_factory=dict)  # class of an image, as told by the visitor
    # embeddings and thumbnails; deleted with the last reference
    folder: tempfile.TemporaryDirectory[str] = field(kw_only=True)

    @property
    def counted(self) -> dict[int, float]:
        """Weights of the answered images that estimates rest on: those that were asked for, before the first gap.

        Images that a visitor chose to correct are mostly wrong ones, so they must not decide how good a model is.
        """
        pairs = zip(self.asked, self.weights, strict=True)
        return dict(takewhile(lambda pair: pair[0] in self.answers, pairs))

    @property
    def next_asked(self) -> int | None:
        """The image to ask for next."""
        return next((n for n in self.asked if n not in self.answers), None)

    def class_of(self, n: int) -> int:
        """The class of an image as told, or else predicted."""
        return self.answers.get(n, int(self.probabilities[n].argmax()))


@dataclass(frozen=True)
class Runner(Ensemble):
    """An ensemble that tells which model it runs."""

    tell: Tell = print

    def model_runner(
        self, images: Sequence[ImageLike], cache: EmbeddingCache
    ) -> Callable[[int], tuple[NDArray[np.float32], Head]]:
        """See :meth:`Ensemble.model_runner`."""
        run, number = super().model_runner(images, cache), count(1)

        def told(m: int) -> tuple[NDArray[np.float32], Head]:
            self.tell(f"Model {next(number)}: {self.selection.models[m].name} on {len(images)} images")
            return run(m)

        return told


def fit(labels: Labels, question: Question, paths: Sequence[str], tell: Tell) -> Fitted:
    """Try models on a visitor's images and fit them; fewer than 10 images are only classified.

    The budget is the Space's: the models in a trial have at most ``max_parameters`` in total.

    Raises:
        MLLError: No image can be read, no model is within the limits, or all models fail.
    """
    folder = tempfile.TemporaryDirectory(prefix="mll-")
    thumbnails = {path: thumbnail for path in _sample(paths) if (thumbnail := _thumbnail(path, folder.name))}
    if not thumbnails:
        raise InputError("none of these files is an image that can be read; use JPEG, PNG or WebP")
    limit, images = labels.settings.max_parameters, tuple(thumbnails)
    cap = min(question.config.max_parameters or limit, limit)
    config = replace(question.config, max_parameters=cap, shortlist=_SHORTLIST, max_download=4 * limit)
    is_trial, cache = len(images) >= MIN_IMAGES, EmbeddingCache(Path(folder.name))
    shortlist = labels.select(replace(question, config=shortlist_config(config) if is_trial else config))
    runner = Runner(shortlist, tell=tell)
    if is_trial:
        sizes = [4 * shortlist.models[m].cost.parameters for m in shortlist.chosen_models]
        selection = try_models(runner, config, Task.of(question.classes, images=images), sizes, None, cache)
        shortlist = _choosing_only(shortlist, selection)
    else:
        run = runner.model_runner(images, cache)
        heads = [run(m)[1] for m in shortlist.chosen_models]
        selection = replace(shortlist, heads=tuple(heads))
    probabilities = fitted_probabilities(Ensemble(selection), images, cache)
    found = Fitted(
        question, shortlist, images, tuple(thumbnails.values()), len(_sample(paths)) - len(images), selection,
        probabilities, folder=folder,
    )  # fmt: skip
    if not is_trial:
        return found
    drawn, weights = suggest(probabilities, min(TO_ASK, len(images)))
    order = np.random.default_rng(0).permutation(len(drawn))  # so that any first part of it is a random sample, too
    return replace(found, asked=tuple(drawn[order].tolist()), weights=tuple(weights[order].tolist()))


def correct(fitted: Fitted, n: int, name: str) -> Fitted:
    """Tell the class of an image, and fit again; embeddings are kept, so no model runs."""
    classes = fitted.question.classes
    if name not in classes or not 0 <= n < len(fitted.images) or not fitted.asked:
        raise InputError("this is not an image and a class of this fit; fit again")
    fitted = replace(fitted, answers={**fitted.answers, n: classes.index(name)})
    images, answers, counted = fitted.images, fitted.answers, fitted.counted
    examples = Examples(
        tuple(images[n] for n in answers),
        np.array(list(answers.values()), np.int64),
        np.array([counted.get(n, _NOT_COUNTED) for n in answers]),
    )
    rest = tuple(image for n, image in enumerate(images) if n not in answers)
    # examples as the library checks them, but from the first one on: 5 are needed to compare models, not to fit these
    task = replace(Task.of(classes), images=rest, examples=examples)
    cache, shortlist = EmbeddingCache(Path(fitted.folder.name)), fitted.shortlist
    config = replace(fitted.question.config, max_download=1)
    sizes = [0] * len(shortlist.chosen_models)
    selection = try_models(Ensemble(shortlist), config, task, sizes, None, cache)
    if not counted and shortlist.estimate is not None:
        rows = [_row_of(shortlist, model.ref.repo_id) for model in selection.models]
        selection = replace(selection, estimate=shortlist.estimate.subset(rows).at_most_first())
    probabilities = fitted_probabilities(Ensemble(selection), images, cache)
    return replace(fitted, selection=selection, probabilities=probabilities)


def _row_of(selection: Selection, repo_id: str) -> int:
    return next(m for m, model in enumerate(selection.models) if model.ref.repo_id == repo_id)


def _choosing_only(shortlist: Selection, tried: Selection) -> Selection:
    """A shortlist of the models that were tried, so that later fits run no other."""
    ids = {model.ref.repo_id for model in tried.models}
    kept = np.array([model.ref.repo_id in ids for model in shortlist.models])
    return replace(shortlist, chosen=shortlist.chosen & kept[:, None])


def _sample(paths: Sequence[str]) -> list[str]:
    return [paths[n] for n in trial_sample(len(paths), MAX_IMAGES)]


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


def onnx(selection: Selection, folder: Path) -> str:
    """Path of a zip of the ONNX graphs of a selection.

    Raises:
        MLLError: A package is missing, or no model can be exported.
    """
    target = folder / "onnx"
    exported, failed = export_onnx(selection, target)
    if not exported:
        raise failed[0]
    return shutil.make_archive(str(target), "zip", target)


def push(selection: Selection | None, repo_id: str, private: bool, token: str | None) -> str:
    """Publish a selection in its own repo with a visitor's token; returns its URL.

    Raises:
        MLLError: There is no selection or token, or the Hub refuses.
    """
    if selection is None:
        raise InputError("no selection yet; find models first")
    if not token:  # without one, the Space's own would be used
        raise InputError("you are not signed in; sign in with Hugging Face first")
    return str(selection.push_to_hub(repo_id.strip(), private=private, token=token).url)
