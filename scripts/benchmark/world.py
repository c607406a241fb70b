"""The information that methods may use: the models with their labels, and everything of a task but the true classes.

True classes stay in the code that scores predictions, :mod:`benchmark.run`. A method gets them only as an explicit
:class:`LabeledSample`, or as :class:`Hindsight` for bounds that no user can know.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.counts import NO_RIVAL, RIVALS
from mll_hf.labels.join import JoinedLabels, join_labels
from mll_hf.labels.label import ProbeEmbeddings, Rivals
from mll_hf.matching import describe
from mll_hf.matching.prompts import DEFAULT_TEMPLATE, fill
from mll_hf.selection import Candidates, Head, Strategy
from mll_hf.selection.probabilities import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmark.cache import EmbeddingCache
    from benchmark.metrics import Floats
    from benchmark.suites import TargetTask
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label, ModelRef
    from mll_hf.labels.store import LabelStore
    from mll_hf.matching.concept_index import ClassMatch, ConceptIndex
    from mll_hf.matching.describe import Description

    Embedded = tuple[NDArray[np.float32], Head]  # images [N, D] at unit norm, and the zero-shot head
    Rows = NDArray[np.int64]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hub:
    """The M models to choose from."""

    joined: JoinedLabels  # their labels, read whole and joined over graphs
    # one sidecar per model; empty unless there is one graph and all labels have one
    embeddings: tuple[ProbeEmbeddings, ...] = ()

    @property
    def graph(self) -> SemanticGraph:
        """The union of U concepts of the graphs."""
        return self.joined.union.graph

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """Labels on the reference graph, one per model."""
        return self.joined.reference

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def refs(self) -> tuple[ModelRef, ...]:
        """The models, pinned to commits."""
        return self.joined.models

    @cached_property
    def gflops(self) -> NDArray[np.float64]:
        """[M] GFLOPs per image."""
        return np.array([label.cost.gflops for label in self.labels])

    @cached_property
    def temperatures(self) -> NDArray[np.float64]:
        """[M] calibration temperatures."""
        return np.array([float(label.temperature[0]) for label in self.labels])

    def of_models(self, rows: Rows) -> Hub:
        """Restrict to some of the models."""
        embeddings = tuple(self.embeddings[m] for m in rows) if self.embeddings else ()
        return Hub(self.joined.subset(rows.tolist()), embeddings)


@dataclass(frozen=True)
class _CachedEmbeddings(ProbeEmbeddings):
    """Probe embeddings with cached results, since all scenarios of a task use the same concepts."""

    known: dict[bytes, NDArray[np.float64]] = field(default_factory=dict, compare=False, repr=False)

    def restricted_precision(self, selected: NDArray[np.int64]) -> NDArray[np.float64]:
        key = selected.tobytes()
        if key not in self.known:
            self.known[key] = super().restricted_precision(selected)
        return self.known[key]


def no_rivals(label: Label) -> Rivals:
    """Rivals of a label of which none is known: Eq. 5 is then estimated from ranks alone."""
    shape = len(label.ranks), RIVALS
    return Rivals(np.full(shape, NO_RIVAL, np.uint16), np.zeros(shape, np.uint16))


def read_hub(source: LabelStore) -> Hub:
    """Read all labeled models of a source, with their sidecars if all have one.

    Raises:
        InputError: There are no labels.
        MLLError: The labels cannot be read.
    """
    joined = join_labels(source.labels(), source.graphs)
    for left_out in joined.left_out:
        _log.warning("left out: %s", left_out)
    sidecars = joined.embeddings(source.embeddings_of)
    cached = tuple(_CachedEmbeddings(e.images, e.scales, e.concepts, e.offsets, e.members) for e in sidecars)
    return Hub(joined.read_rivals(source.rivals_of), cached)


# --- texts of a task --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class MatchedClasses:
    """The C classes of a task, matched to concepts."""

    domain: str | None  # how the images look
    match: ClassMatch
    caption_match: ClassMatch  # matched as in the paper

    @classmethod
    def of(cls, descriptions: Sequence[Description], domain: str | None, index: ConceptIndex) -> MatchedClasses:
        """Match described classes."""
        return cls(domain, index.match(descriptions), index.match_captions(descriptions))

    def candidates(
        self, labels: JoinedLabels, strategy: Strategy, embeddings: tuple[ProbeEmbeddings, ...] = ()
    ) -> Candidates:
        """The input of a strategy."""
        match = self.caption_match if strategy is Strategy.PAPER else self.match
        return Candidates(labels, match, self.domain, embeddings)


@dataclass(frozen=True, eq=False)
class TaskText:
    """The texts of a task of C classes, and the concepts that match them."""

    matched: MatchedClasses
    task: str | None
    prompts: tuple[tuple[str, ...], ...]  # the same number for each class


def read_text(task: TargetTask, index: ConceptIndex) -> TaskText:
    """Match a task's classes to concepts, and make the prompts that the models embed."""
    descriptions = describe.from_templates(task.classes, index.graph, task.domain, task.task)
    return TaskText(MatchedClasses.of(descriptions, task.domain, index), task.task, prompts_of(task))


def prompts_of(task: TargetTask) -> tuple[tuple[str, ...], ...]:
    """The prompts of each class, the same for all tasks."""
    return tuple(fill([DEFAULT_TEMPLATE], name) for name in task.classes)


def flat(texts: Sequence[Sequence[str]]) -> list[str]:
    """The texts of all classes in one list."""
    return [text for of_class in texts for text in of_class]


# --- what a method sees -----------------------------------------------------------------------------------------------


class Hindsight(NamedTuple):
    """Results that nobody knows in advance: accuracies [M] on the task, and mean accuracies [M] over all tasks."""

    accuracies: NDArray[np.float64]
    mean_accuracies: NDArray[np.float64]


class LabeledSample(NamedTuple):
    """Positions [L] of a few images, and their true classes [L]."""

    images: NDArray[np.int64]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TaskView:
    """Everything that a method may know about a task of N images and C classes, and about M models."""

    hub: Hub
    text: TaskText
    logits: NDArray[np.float32]  # [M, N, C] float32
    embedded: tuple[Embedded, ...]  # [M]
    general: NDArray[np.float64] | None = None  # [M] accuracies on a general benchmark, if there is one
    labeled: LabeledSample | None = None  # a few labeled images, for methods that need them
    hindsight: Hindsight | None = None  # for bounds that are known only afterwards

    @property
    def n_images(self) -> int:
        """N."""
        return self.logits.shape[1]

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """[M, N, C] from each model's own logits."""
        return softmax(self.logits)

    @cached_property
    def calibrated(self) -> NDArray[np.float64]:
        """[M, N, C] from logits divided by the temperatures of the labels."""
        return softmax(np.divide(self.logits, self.hub.temperatures[:, None, None], dtype=np.float32))

    @cached_property
    def answers(self) -> NDArray[np.int64]:
        """[M, N] the most probable class."""
        return self.logits.argmax(axis=2)

    def candidates(self, strategy: Strategy) -> Candidates:
        """The input of a strategy."""
        return self.text.matched.candidates(self.hub.joined, strategy, self.hub.embeddings)

    def of_models(self, rows: Rows) -> TaskView:
        """Restrict to some of the models."""
        return replace(
            self,
            hub=self.hub.of_models(rows),
            logits=self.logits[rows],
            embedded=tuple(self.embedded[m] for m in rows),
            general=None if self.general is None else self.general[rows],
        )

    def of_images(self, rows: Rows) -> TaskView:
        """Restrict to some of the images, none of them labeled."""
        embedded = tuple((images[rows], head) for images, head in self.embedded)
        return replace(self, logits=self.logits[:, rows], embedded=embedded, labeled=None)

    def revealing(self, *, labeled: LabeledSample | None = None, hindsight: Hindsight | None = None) -> TaskView:
        """The same view with labeled images or hindsight; derived arrays are kept."""
        more = replace(self, labeled=labeled, hindsight=hindsight)
        for name in vars(self).keys() & {"probabilities", "calibrated", "answers"}:
            vars(more)[name] = vars(self)[name]
        return more


class TaskEmbeddings(NamedTuple):
    """Embeddings and zero-shot heads [M] of the N decodable images, and which of all [N0] images are."""

    embedded: tuple[Embedded, ...]
    readable: NDArray[np.bool_]


def read_embeddings(
    cache: EmbeddingCache, refs: Sequence[ModelRef], task: TargetTask, prompts: Sequence[Sequence[str]]
) -> TaskEmbeddings:
    """What all models say to a task, from a cache that contains its images and prompts.

    Raises:
        InputError: No image can be decoded.
    """
    images = [cache.images(ref, task) for ref in refs]
    readable = np.logical_and.reduce([np.isfinite(x[:, 0]) for x in images])
    if not readable.any():
        raise InputError(f"no image of the task '{task.name}' can be decoded; leave it out")
    embedded = []
    for ref, x in zip(refs, images, strict=True):
        texts, facts = class_embeddings(cache.texts(ref, flat(prompts)), len(prompts)), cache.facts(ref)
        embedded.append((x[readable], Head.zero_shot(texts, facts.logit_scale, facts.logit_bias)))
    return TaskEmbeddings(tuple(embedded), readable)


def class_embeddings(texts: Floats, n_classes: int) -> Floats:
    """[C, D] unit-norm means of the embeddings [C * P, D] of each class's P prompts."""
    means = texts.reshape(n_classes, -1, texts.shape[1]).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def open_task(
    hub: Hub, task: TargetTask, index: ConceptIndex, cache: EmbeddingCache
) -> tuple[TaskView, NDArray[np.int64]]:
    """A view of a task without other tasks, and the true classes of its decodable images.

    Raises:
        InputError: No image can be decoded.
    """
    text = read_text(task, index)
    embedded, readable = read_embeddings(cache, hub.refs, task, text.prompts)
    logits = np.stack([head.logits(images) for images, head in embedded])
    return TaskView(hub, text, logits, embedded), task.labels[readable]
