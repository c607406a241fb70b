"""The methods that the benchmark compares.

A method looks at a :class:`~mll_hf.bench.world.TaskView` and makes a :class:`Choice`. To add one, write a function that
scores the models, or makes a choice, and add a row to :data:`METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.bench.baselines import modelgpt
from mll_hf.bench.baselines.ensembles import Consensus, confidence_ensemble, sota_transport
from mll_hf.bench.baselines.swab import rank_transport, source_weights
from mll_hf.bench.baselines.transferability import leep, logme, nce, shrunk_h_score
from mll_hf.bench.baselines.unlabeled import certainty, mean_confidence, nuclear_norm
from mll_hf.bench.metrics import accuracy
from mll_hf.bench.world import TaskView
from mll_hf.ensemble import Rule
from mll_hf.ensemble.run import Ensemble
from mll_hf.errors import InputError
from mll_hf.selection import Selection, SelectionConfig, Strategy, choose_with_images, select, shortlisting
from mll_hf.selection.evidence import LEAST_IMAGES, trial_sample
from mll_hf.selection.probabilities import mutual_information

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from mll_hf.bench.metrics import Floats
    from mll_hf.bench.world import Hindsight, TaskText

Scores = Callable[[TaskView], "NDArray[np.float64]"]
OURS, PAPER, GENERAL, ORACLE = "mll, k=1", "paper, k=1", "general, k=1", "oracle"
OURS_WITH_IMAGES = "mll + images, k=1"
ALPHAS, DEPTHS = (0.5, 0.6, 0.7, 0.8, 0.9), (1, 2, 3, 4, 5, 6)  # as in the paper's Tables 3 and 4


class Group(StrEnum):
    """What a method looks at."""

    REFERENCE = "reference"
    LABELS = "labels"
    UNLABELED = "unlabeled images"
    FEW_LABELS = "few labeled images"
    BATCH = "all images at once"
    HINDSIGHT = "hindsight"
    ABLATION = "ablation"


SEES_SAMPLES = (Group.UNLABELED, Group.BATCH)


@dataclass(frozen=True, eq=False)
class Choice:
    """A method's choice among M models on a task."""

    runs: NDArray[np.float64]  # [M] how often each model runs per image
    # predicts the classes [N] of the images of a view, or [R, N] for R equally likely predictions
    answer: Callable[[TaskView], NDArray[np.int64]]
    scores: NDArray[np.float64] | None = None  # [M] greater for better models; None if the method does not rank them
    predicted: NDArray[np.float64] | None = None  # [M] predicted accuracies, if any


@dataclass(frozen=True)
class SampleConfig:
    """How many labeled images a method is given: at most ``total``, and at most ``per_class`` of each class."""

    total: int
    per_class: int | None = None


@dataclass(frozen=True)
class Method:
    """A way to choose or to combine models."""

    name: str
    group: Group  # what it looks at
    choose: Callable[[TaskView], Choice]
    # [M] scores, if the method takes the one model with the greatest and a model's score does not depend on the
    # other models. The scores then also hold within parts of the hub
    score: Scores | None = None
    predicts: bool = False  # whether these scores are predicted accuracies
    needs: tuple[str, ...] = ()  # optional fields of a view that it needs
    sample: SampleConfig | None = None  # labeled images that it is given
    transductive: bool = False  # whether it can classify only the images that it chose by

    def choose_by(self, scores: NDArray[np.float64]) -> Choice:
        """The choice that follows from scores."""
        return best_of(scores, scores if self.predicts else None)


# --- choices ----------------------------------------------------------------------------------------------------------


def best_of(scores: NDArray[np.float64], predicted: NDArray[np.float64] | None = None) -> Choice:
    """The first of the models with the greatest score."""
    best = int(np.argmax(scores))
    return Choice(_once([best], len(scores)), lambda view: view.answers[best], scores, predicted)


def selected(selection: Selection, view: TaskView, rule: Rule) -> Choice:
    """The choice of a selection of the library, with its models combined by one of the library's rules."""
    row = {ref: m for m, ref in enumerate(view.hub.refs)}
    rows = [row[model.ref] for model in selection.models]
    union = [rows[m] for m in selection.union]
    scores = np.full(len(view.hub), -np.inf)  # models that were not tried come last
    scores[rows] = selection.overall
    ensemble = Ensemble(selection)

    def answer(seen: TaskView) -> NDArray[np.int64]:
        return ensemble.combine(seen.logits[union], rule).probabilities.argmax(axis=1)

    estimates = selection.strategy is Strategy.MLL and selection.evidence is None
    return Choice(_once(union, len(view.hub)), answer, scores, scores if estimates else None)


def pooled(weights: NDArray[np.float64]) -> Choice:
    """The mean of the models' probabilities with weights [M]; models of weight zero do not run."""
    used = np.flatnonzero(weights)

    def answer(view: TaskView) -> NDArray[np.int64]:
        return np.einsum("m,mnc->nc", weights[used], view.probabilities[used]).argmax(axis=1)

    return Choice(_once(used, len(weights)), answer)


def _once(models: Iterable[int], n_models: int) -> NDArray[np.float64]:
    runs = np.zeros(n_models)
    runs[list(models)] = 1
    return runs


# --- by labels --------------------------------------------------------------------------------------------------------


def by_strategy(view: TaskView, config: SelectionConfig, rule: Rule) -> Choice:
    """Select and combine models as the library does."""
    candidates = view.candidates(captions=config.strategy is Strategy.PAPER)
    return selected(select(candidates, config, view.text.task), view, rule)


def with_images(view: TaskView, k: int, candidates: int, rule: Rule) -> Choice:
    """Select by labels and a trial on a sample of the images; by labels alone if there are too few images."""
    if view.logits.shape[1] < LEAST_IMAGES:
        return by_strategy(view, SelectionConfig(k=k), rule)
    ranked = _tried(view, candidates)
    chosen = np.zeros_like(ranked.chosen)
    chosen[:k] = True
    return selected(replace(ranked, k=k, chosen=chosen), view, rule)


@lru_cache(maxsize=2)
def _tried(view: TaskView, candidates: int) -> Selection:
    """The models of a trial, best first, on as many images as the library uses; the same for every k."""
    config = SelectionConfig(k=candidates, candidates=candidates)
    tried = select(view.candidates(captions=False), shortlisting(config), view.text.task)
    row = {ref: m for m, ref in enumerate(view.hub.refs)}
    sample = trial_sample(view.logits.shape[1], config.most_images)
    logits = view.logits[[row[tried.models[m].ref] for m in tried.union]][:, sample]
    return choose_with_images(tried, range(len(logits)), logits, config, ())


def _trial(k: int, candidates: int, rule: Rule = Rule.LINEAR_POOL) -> Callable[[TaskView], Choice]:
    return partial(with_images, k=k, candidates=candidates, rule=rule)


def _strategy(
    name: str, strategy: Strategy, k: int, rule: Rule, alpha: float = 0.7, group: Group = Group.LABELS
) -> Method:
    config = SelectionConfig(strategy=strategy, k=k, class_weight=alpha)
    choose = partial(by_strategy, config=config, rule=rule)
    independent = k == 1 and strategy in (Strategy.GENERAL, Strategy.MLL)
    score = partial(_scores, choose=choose) if independent else None
    return Method(name, group, choose, score, predicts=strategy is Strategy.MLL)


def _scores(view: TaskView, choose: Callable[[TaskView], Choice]) -> NDArray[np.float64]:
    scores = choose(view).scores
    assert scores is not None  # noqa: S101 - a selection always scores
    return scores


def _swab(view: TaskView) -> Choice:
    """SWAB's r2 with the measured concepts of the graph as source classes; all scores are 0 if none is similar."""
    weights = _swab_weights(view.text, view.hub.measured.tobytes())
    used = weights > 0
    return best_of(rank_transport(view.hub.node_precision[:, used], weights[used]))


@lru_cache(maxsize=4)
def _swab_weights(text: TaskText, measured: bytes) -> NDArray[np.float64]:
    """[V] weight of each concept; the same for all hubs."""
    sources = np.frombuffer(measured, np.bool_)
    weights = np.zeros(len(sources))
    weights[sources] = source_weights(text.concepts[sources], text.names)
    return weights


def _modelgpt(view: TaskView, *, general: bool) -> Choice:
    """ModelGPT, fitted on the other tasks, with or without the accuracy on the general benchmark as a feature."""
    known = view.known
    assert known is not None  # noqa: S101 - in `needs`
    features, own = known.features, known.own
    if general:
        level = np.asarray(view.general)[:, None]
        features = np.concatenate([features, np.broadcast_to(level[:, None], (*features.shape[:2], 1))], axis=2)
        own = np.concatenate([own, level], axis=1)
    scores = modelgpt.rank(features, known.accuracies, own)
    return best_of(scores, modelgpt.predict(features, known.accuracies, own))


# --- by images --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _consensus(view: TaskView, features: bool) -> Consensus:
    return sota_transport(view.probabilities, view.features if features else ())


def _agreeing(view: TaskView) -> Choice:
    """The model that agrees most with SOTA's assignment."""
    return best_of(_consensus(view, False).model_weights)


def _sota(view: TaskView, *, features: bool) -> Choice:
    """SOTA's assignment of the images that it sees; other images are classified by the weighted models."""
    consensus = _consensus(view, features)
    later = pooled(consensus.model_weights)

    def answer(seen: TaskView) -> NDArray[np.int64]:
        return consensus.assignment.argmax(axis=1) if seen is view else later.answer(seen)

    return Choice(later.runs, answer)


def _coe(view: TaskView) -> Choice:
    """CoE, with the generally best model as the strong one."""
    strong = int(np.argmax([label.mean_precision for label in view.hub.labels]))
    if len(view.hub) == 1:
        return best_of(np.ones(1))
    return Choice(np.ones(len(view.hub)), lambda seen: confidence_ensemble(seen.probabilities, strong).argmax(axis=1))


def _uniform(view: TaskView) -> Choice:
    return Choice(np.ones(len(view.hub)), lambda seen: seen.probabilities.mean(axis=0, dtype=np.float64).argmax(axis=1))


# --- by a few labeled images -----------------------------------------------------------------------------------------


def _of_sample(view: TaskView, field: str, score: Callable[..., float]) -> NDArray[np.float64]:
    """[M] a score of each model's ``field`` of the view on the labeled images."""
    assert view.labeled is not None  # noqa: S101 - in `needs`
    images, labels = view.labeled
    return np.array([score(of_model[images], labels) for of_model in getattr(view, field)])


# --- in hindsight -----------------------------------------------------------------------------------------------------


def _hindsight(view: TaskView) -> Hindsight:
    assert view.hindsight is not None  # noqa: S101 - in `needs`
    return view.hindsight


def _random(view: TaskView) -> Choice:
    """One model, drawn at random."""
    n_models = len(view.hub)
    return Choice(np.full(n_models, 1 / n_models), lambda seen: seen.answers)


# --- the table --------------------------------------------------------------------------------------------------------


def ranker(
    name: str,
    group: Group,
    score: Scores,
    *,
    needs: tuple[str, ...] = (),
    sample: SampleConfig | None = None,
    predicts: bool = False,
) -> Method:
    """A method that takes the one model with the greatest score; arguments as for :class:`Method`."""

    def choose(view: TaskView) -> Choice:
        scores = score(view)
        return best_of(scores, scores if predicts else None)

    return Method(name, group, choose, score, predicts, needs, sample)


def _by_probabilities(name: str, score: Callable[[Floats], NDArray[np.float64]]) -> tuple[Method, Method]:
    """A score of class probabilities, from the models' own logits and from calibrated logits."""
    return (
        ranker(name, Group.UNLABELED, lambda view: score(view.probabilities)),
        ranker(f"{name}, calibrated", Group.UNLABELED, lambda view: score(view.calibrated)),
    )


_SAMPLE_SCORES: dict[str, tuple[str, Callable[..., float]]] = {
    "NCE": ("answers", nce),
    "LEEP": ("probabilities", leep),
    "LogME": ("features", logme),
    "H-score": ("features", shrunk_h_score),
    "accuracy": ("answers", accuracy),
}


def _by_sample(sample: SampleConfig, text: str) -> list[Method]:
    return [
        ranker(
            f"{name}, {text}",
            Group.FEW_LABELS,
            partial(_of_sample, field=field, score=score),
            needs=("labeled",),
            sample=sample,
            predicts=score is accuracy,
        )
        for name, (field, score) in _SAMPLE_SCORES.items()
    ]


METHODS: tuple[Method, ...] = (
    Method("random", Group.REFERENCE, _random),
    ranker("INB", Group.REFERENCE, lambda view: np.asarray(view.general), needs=("general",)),
    Method("uniform, all", Group.REFERENCE, _uniform),
    Method("CoE", Group.REFERENCE, _coe),
    _strategy(GENERAL, Strategy.GENERAL, 1, Rule.UNIFORM),
    _strategy("general, k=3", Strategy.GENERAL, 3, Rule.UNIFORM),
    Method("ModelGPT", Group.LABELS, partial(_modelgpt, general=False), needs=("known",)),
    Method("ModelGPT + INB", Group.LABELS, partial(_modelgpt, general=True), needs=("known", "general")),
    Method("SWAB r2", Group.LABELS, _swab),
    _strategy(PAPER, Strategy.PAPER, 1, Rule.ENTROPY),
    _strategy("paper, k=3", Strategy.PAPER, 3, Rule.ENTROPY),
    _strategy(OURS, Strategy.MLL, 1, Rule.LINEAR_POOL),
    _strategy("mll, k=3", Strategy.MLL, 3, Rule.LINEAR_POOL),
    *_by_probabilities("MI", mutual_information),
    *_by_probabilities("nuclear norm", nuclear_norm),
    *_by_probabilities("confidence", mean_confidence),
    *_by_probabilities("certainty", certainty),
    Method("SOTA weights", Group.UNLABELED, _agreeing),
    Method(OURS_WITH_IMAGES, Group.UNLABELED, _trial(1, 32)),
    Method("mll + images, k=3", Group.UNLABELED, _trial(3, 32)),
    Method("mll + images, k=5", Group.UNLABELED, _trial(5, 32)),
    Method("mll + images, k=1 of 8", Group.UNLABELED, _trial(1, 8)),
    *_by_sample(SampleConfig(50), "50 labels"),
    *_by_sample(SampleConfig(200, per_class=4), "4 per class"),
    Method("transport, k=1", Group.BATCH, _trial(1, 32, Rule.TRANSPORT)),
    Method("transport, k=5", Group.BATCH, _trial(5, 32, Rule.TRANSPORT)),
    Method("SOTA", Group.BATCH, partial(_sota, features=False)),
    Method("SOTA + features", Group.BATCH, partial(_sota, features=True), transductive=True),
    ranker("best fixed", Group.HINDSIGHT, lambda view: _hindsight(view).mean_accuracies, needs=("hindsight",)),
    ranker(ORACLE, Group.HINDSIGHT, lambda view: _hindsight(view).accuracies, needs=("hindsight",)),
)
"""All methods, in the order of the tables."""

ABLATIONS: tuple[Method, ...] = (
    *(_strategy(f"paper, alpha={a}", Strategy.PAPER, 1, Rule.ENTROPY, a, Group.ABLATION) for a in ALPHAS),
    *(_strategy(f"paper, k={k}, ablation", Strategy.PAPER, k, Rule.ENTROPY, group=Group.ABLATION) for k in DEPTHS),
    *(_strategy(f"mll, k={k}, ablation", Strategy.MLL, k, Rule.LINEAR_POOL, group=Group.ABLATION) for k in DEPTHS),
)
"""Variants of the strategies."""


def methods_named(names: Sequence[str]) -> tuple[Method, ...]:
    """Methods by name or group, and those that all others are compared with; all methods if no name is given.

    Raises:
        InputError: There is no method or group of that name.
    """
    known = {method.name for method in METHODS} | {str(group) for group in Group}
    if wrong := [name for name in names if name not in known]:
        raise InputError(f"there is no method '{wrong[0]}'; choose among: {'; '.join(sorted(known))}")
    wanted = {*names, GENERAL, PAPER, ORACLE}
    return tuple(method for method in METHODS if not names or not wanted.isdisjoint((method.name, str(method.group))))
