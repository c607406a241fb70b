"""Models run on visitors' images, one in memory at a time, here or on ZeroGPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.ensemble.embedding_cache import EmbeddingCache
from mll_hf.ensemble.run import Ensemble
from mll_hf.ensemble.trial import try_models
from mll_hf.errors import InputError, ModelError
from mll_hf.matching.prompts import fill
from mll_hf.models import load_model, pick_device
from mll_hf.models.batches import Decoders
from mll_hf.selection import Task, shortlist_config
from mll_hf.selection.head import Head
from mll_hf.selection.task import trial_sample
from mll_hf.utils.images import IMAGE_SUFFIXES, open_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from answers import Labels, Question
    from numpy.typing import NDArray

    from mll_hf import Selection
    from mll_hf.models import VisionLanguageModel
    from mll_hf.selection.budget import TrialPlan
    from mll_hf.utils.images import ImageLike

    Embedded = tuple[NDArray[np.float32], Head]  # images [N, D], NaN if unreadable, and the zero-shot head
    Embed = Callable[[VisionLanguageModel, torch.Tensor, list[str]], tuple[NDArray[Any], NDArray[Any]] | str]

MAX_IMAGES = 200
_SHORTLIST = 8  # models that compete in a trial; all of them may have to run on a CPU


@dataclass(frozen=True)
class Trial:
    """Predictions of the chosen models for N images."""

    selection: Selection  # the models, and the C classes
    probabilities: NDArray[np.float64]  # [N, C] pooled over the models; NaN for unreadable images
    # whether these are the models for the question, rather than the best ones within the page's limit
    is_first_choice: bool


@dataclass(frozen=True)
class Runner(Ensemble):
    """An ensemble that reports which model it runs, with one model in memory at a time."""

    tell: Callable[[str], object] = print  # called with the name of each model before it runs
    embed: Embed | None = None  # runs :func:`embed` on another device; None to run models where they were loaded

    def model_runner(self, images: Sequence[ImageLike], cache: EmbeddingCache) -> Callable[[int], Embedded]:
        """See :meth:`Ensemble.model_runner`."""
        here = super().model_runner(images, cache)

        def run(m: int) -> Embedded:
            self.tell(self.selection.models[m].name)
            return here(m) if self.embed is None else self._run_elsewhere(m, images, self.embed)

        return run

    def _run_elsewhere(self, m: int, images: Sequence[ImageLike], embed: Embed) -> Embedded:
        """See :meth:`model_runner`; downloading, loading and preprocessing happen before ``embed`` is called."""
        model = load_model(self.selection.models[m].ref, "cpu", token=self.token)
        try:
            with closing(Decoders(partial(_prepared, model))) as decoders:
                ((pixels, readable),) = decoders.batches([images])
            if pixels is None:
                raise InputError("no image can be read; upload others")
            prompts = [text for name in self.selection.classes for text in fill(self.prompt_templates, name)]
            found = embed(model, pixels, prompts)
            if isinstance(found, str):
                raise ModelError(model.ref.repo_id, found)
            means = found[1].reshape(len(self.selection.classes), -1, found[1].shape[1]).mean(axis=1)
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            embeddings = np.full((len(images), means.shape[1]), np.nan, np.float32)
            embeddings[readable] = found[0]
            return embeddings, Head.zero_shot(means, model.logit_scale, model.logit_bias)
        finally:
            model.close()


def _prepared(model: VisionLanguageModel, image: ImageLike) -> torch.Tensor | None:
    picture = open_image(image)
    return None if picture is None else model.preprocess(picture)


def embed(
    model: VisionLanguageModel, pixels: torch.Tensor, texts: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | str:
    """Embed N images [N, 3, H, W] and T texts on the best device; returns the reason if that fails.

    ZeroGPU runs this in another process, which would return only the class name of an error.
    """
    try:
        model.move(pick_device())
        return model.encode_pixels(pixels), model.encode_texts(texts)
    except ModelError as error:
        return str(error)


def gpu_seconds(model: VisionLanguageModel, pixels: torch.Tensor, texts: list[str]) -> int:
    """Maximum seconds of :func:`embed` on a GPU: moving the model, then ten teraflops a second."""
    gflops = model.cost.gflops * (len(pixels) + len(texts))  # a text costs less than an image
    return min(10 + round(model.cost.parameters / 2e8 + gflops / 1e4), 120)


def sampled_images(paths: Sequence[str]) -> list[str]:
    """The images among uploaded files; a seeded sample if there are more than 200.

    Raises:
        InputError: There are none.
    """
    images = [path for path in paths if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise InputError("no image yet; upload some, or choose an example")
    return [images[n] for n in trial_sample(len(images), MAX_IMAGES)]


Progress = Callable[[tuple[int, int | None], str], object]


def classify(
    labels: Labels, question: Question, images: Sequence[str], embed: Embed | None, progress: Progress
) -> Trial:
    """Classify images with the models for a question, or the best within this page's limit, one in memory at a time.

    Args:
        labels: The labels.
        question: The question.
        images: Paths of the images.
        embed: As for :class:`Runner`.
        progress: Called before each model with (finished models, all models) and a text.

    Raises:
        MLLError: No model is small enough, or one fails.
    """
    selection, limit = labels.select(question), labels.settings.max_parameters
    is_first_choice = selection.cost.parameters <= limit
    if not is_first_choice:
        each = limit // max(len(selection.chosen_models), 1)
        selection = labels.select(replace(question, config=replace(question.config, max_parameters=each)))
    done = count()
    tell = lambda name: progress((next(done), len(selection.chosen_models)), f"Running {name}")  # noqa: E731
    runner = Runner(selection, tell=tell, embed=embed)
    run = runner.model_runner(images, EmbeddingCache(None))
    logits = np.stack([head.logits(found) for found, head in map(run, selection.chosen_models)])
    return Trial(selection, runner.combine(logits).probabilities, is_first_choice)


def choose_by_images(
    labels: Labels, question: Question, images: Sequence[str], embed: Embed | None, progress: Progress
) -> tuple[Selection, Selection]:
    """Try models on a visitor's images, as :meth:`Client.fit` does, and select from them.

    The budget is the Space's: the models in a trial have at most ``max_parameters`` in total, cached or not. Arguments
    are those of :func:`classify`.

    Returns:
        The ranking by labels and published figures alone, and the ranking after the trial.

    Raises:
        MLLError: No model is within the limits, too few images can be read, or all models fail.
    """
    limit = labels.settings.max_parameters
    cap = min(question.config.max_parameters or limit, limit)
    config = replace(
        question.config, max_parameters=cap, shortlist=_SHORTLIST, most_images=MAX_IMAGES, max_download=4 * limit
    )
    before = labels.select(replace(question, config=shortlist_config(config)))
    told, planned = count(), list[int]()
    tell = lambda name: progress((next(told), planned[0]), f"Running {name} on {len(images)} images")  # noqa: E731

    def approve(plan: TrialPlan) -> bool:
        planned.append(len(plan.order))
        return True

    sizes = [4 * before.models[m].cost.parameters for m in before.chosen_models]
    task = Task.of(question.classes, images=images, most_images=MAX_IMAGES)
    runner = Runner(before, tell=tell, embed=embed)
    return before, try_models(runner, config, task, sizes, approve)


def push(selection: Selection | None, repo_id: str, private: bool, token: str | None) -> str:
    """Publish a selection in its own repo with a visitor's token; returns its URL.

    Raises:
        MLLError: There is no selection or token, or the Hub refuses.
    """
    if selection is None:
        raise InputError("no selection yet; try the models on your images first")
    if not token:  # without one, the Space's own would be used
        raise InputError("you are not signed in; sign in with Hugging Face first")
    published = selection.push_to_hub(repo_id.strip(), private=private, token=token)
    return str(published.url)
