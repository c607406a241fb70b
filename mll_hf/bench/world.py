"""What methods may see: the models with their labels, and of each task everything but the true classes.

True classes are used by the code that scores answers, in :mod:`mll_hf.bench.run`, and reach a method only as an
explicit :class:`LabeledSample`, or as :class:`Hindsight` for what no user can know.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.embeddings import ProbeEmbeddings
from mll_hf.labels.label import ModelLabel, label_metadata
from mll_hf.matching import describe
from mll_hf.matching.prompts import clean_class_name, fill, templates_for
from mll_hf.selection import Candidates
from mll_hf.selection.probabilities import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.bench.cache import EmbeddingCache
    from mll_hf.bench.metrics import Floats
    from mll_hf.bench.suites import TargetTask
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.hub.sources import LabelSource
    from mll_hf.labels.label import LabelSummary, ModelRef
    from mll_hf.matching.concept_index import ClassMatch, ConceptIndex

    Rows = NDArray[np.int64]


# --- the models -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hub:
    """The M models that may be chosen.

    Attributes:
        graph: What they were measured on.
        labels: Their labels, whole ones.
        embeddings: Their probe embeddings; empty unless they are at hand for all of them.
    """

    graph: SemanticGraph
    labels: tuple[LabelSummary, ...]
    embeddings: tuple[ProbeEmbeddings, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def refs(self) -> tuple[ModelRef, ...]:
        """The models, pinned."""
        return tuple(label.model for label in self.labels)

    @cached_property
    def gflops(self) -> NDArray[np.float64]:
        """[M] GFLOPs per image."""
        return np.array([label.cost.gflops for label in self.labels])

    @cached_property
    def temperatures(self) -> NDArray[np.float64]:
        """[M] calibration temperatures."""
        return np.array([float(label.temperature[0]) for label in self.labels])

    @cached_property
    def node_precision(self) -> NDArray[np.float64]:
        """[M, V] precision of every model on every concept."""
        return np.stack([label.node_precision for label in self.labels]).astype(np.float64)

    @cached_property
    def measured(self) -> NDArray[np.bool_]:
        """[V] concepts that were tested with images for all models."""
        return np.stack([label.support for label in self.labels]).min(axis=0) > 0

    @cached_property
    def digest(self) -> str:
        """Names labels, models and whether there are probe embeddings."""
        whole = hashlib.sha256(f"{self.graph.digest} {bool(self.embeddings)}".encode())
        for label in self.labels:
            whole.update(json.dumps(label_metadata(label), sort_keys=True).encode())
            tensors = label.tensors if isinstance(label, ModelLabel) else {}
            for counts in (label.ranks, label.domain_ranks, label.temperature, *tensors.values()):
                whole.update(counts.tobytes())
        return whole.hexdigest()

    def of_models(self, rows: Rows) -> Hub:
        """Only some of the models."""
        return replace(
            self,
            labels=tuple(self.labels[m] for m in rows),
            embeddings=tuple(self.embeddings[m] for m in rows) if self.embeddings else (),
        )

    def scaled(self, factors: NDArray[np.float64]) -> Hub:
        """As if the models' logits had been multiplied by [M] factors before they were measured."""
        temperatures = (self.temperatures * factors).astype(np.float32)
        labels = zip(self.labels, temperatures, strict=True)
        return replace(self, labels=tuple(replace(label, temperature=np.array([t])) for label, t in labels))


@dataclass(frozen=True)
class _Remembered(ProbeEmbeddings):
    """Probe embeddings that answer at once what they were asked before; hubs of a task all ask the same."""

    known: dict[bytes, NDArray[np.float64]] = field(default_factory=dict, compare=False, repr=False)

    def restricted_precision(self, selected: NDArray[np.int64]) -> NDArray[np.float64]:
        key = selected.tobytes()
        if key not in self.known:
            self.known[key] = super().restricted_precision(selected)
        return self.known[key]


def read_hub(source: LabelSource) -> Hub:
    """All labeled models of a source, with the probe embeddings if all have them.

    Raises:
        InputError: There are no labels.
        MLLError: The labels cannot be had.
    """
    refs = [label.model for label in source.list()]
    if not refs:
        raise InputError(f"{source.name} has no labels; label models first: mll-hf label MODEL --graph DIR")
    embeddings = [source.embeddings_of(ref) for ref in refs]
    known = [_Remembered(e.images, e.scales, e.concepts, e.offsets, e.members) for e in embeddings if e is not None]
    return Hub(source.graph, source.fetch(refs), tuple(known) if len(known) == len(refs) else ())


# --- what a task says in words ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TaskText:
    """The words of a task, and the concepts that they match.

    Attributes:
        classes: The C class names.
        domain: How the images look.
        task: What is recognized.
        match: The classes, matched to concepts our way.
        caption_match: The same the paper's way.
        names: [C, E] embeddings of the class names by the encoder that matches.
        concepts: [V, E] embeddings of the concepts' first names.
        prompts: For each class its prompts, as many for each.
        captions: For each class texts that stand for captions of its images.
        synonyms: For each class its synonyms and superclasses.
    """

    classes: tuple[str, ...]
    domain: str | None
    task: str | None
    match: ClassMatch = field(repr=False)
    caption_match: ClassMatch = field(repr=False)
    names: NDArray[np.float32] = field(repr=False)
    concepts: NDArray[np.float32] = field(repr=False)
    prompts: tuple[tuple[str, ...], ...] = field(repr=False)
    captions: tuple[tuple[str, ...], ...] = field(repr=False)
    synonyms: tuple[tuple[str, ...], ...] = field(repr=False)


def read_text(task: TargetTask, index: ConceptIndex, templates: Sequence[str] | None) -> TaskText:
    """Match a task's classes and write the texts that the models are to embed.

    Captions are the descriptions by which classes are matched and the prompts of the task's domain: with no language
    model at hand these stand for LOVM's generated captions. Synonyms and superclasses are the lemmas of the best
    matching concept and the names of its hypernyms.

    Args:
        task: The task.
        index: Concepts of the graph.
        templates: Prompt templates; None for those that fit the task's domain and purpose.
    """
    descriptions = describe.from_templates(task.classes, index.graph, task.domain, task.task)
    fitting = templates_for(task.domain, task.task)
    match = index.match(descriptions)
    return TaskText(
        classes=task.classes,
        domain=task.domain,
        task=task.task,
        match=match,
        caption_match=index.match_captions(descriptions),
        names=index.encoder.encode([clean_class_name(name) for name in task.classes]),
        concepts=index.lemmas[index.starts],
        prompts=tuple(fill(templates or fitting, name) for name in task.classes),
        captions=tuple((*d.texts, *fill(fitting, d.class_name)) for d in descriptions),
        synonyms=tuple(_synonyms(index.graph, int(v)) for v in match.concepts[:, 0]),
    )


def _synonyms(graph: SemanticGraph, v: int) -> tuple[str, ...]:
    return (*graph.concepts[v].lemmas, *(graph.concepts[parent].name for parent in graph.parents[v]))


def flat(texts: Sequence[Sequence[str]]) -> list[str]:
    """The texts of all classes, one after another."""
    return [text for of_class in texts for text in of_class]


# --- what a method sees -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownTasks:
    """What is known of the other tasks of the benchmark, for methods that learn from them.

    Attributes:
        features: [M, S, F] of each model on each of S other tasks, from texts alone.
        accuracies: [M, S] of each model there.
        own: [M, F] features of each model on the task itself.
    """

    features: NDArray[np.float64]
    accuracies: NDArray[np.float64]
    own: NDArray[np.float64]

    def of_models(self, rows: Rows) -> KnownTasks:
        """Only some of the models."""
        return KnownTasks(self.features[rows], self.accuracies[rows], self.own[rows])


@dataclass(frozen=True)
class LabeledSample:
    """A few images whose class is told.

    Attributes:
        images: [L] which of the images.
        labels: [L] their classes.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Hindsight:
    """What nobody knows before the test.

    Attributes:
        accuracies: [M] of each model on the task.
        mean_accuracies: [M] over all tasks.
    """

    accuracies: NDArray[np.float64]
    mean_accuracies: NDArray[np.float64]

    def of_models(self, rows: Rows) -> Hindsight:
        """Only some of the models."""
        return Hindsight(self.accuracies[rows], self.mean_accuracies[rows])


@dataclass(frozen=True, eq=False)
class TaskView:
    """All that a method may know of a task of N images and C classes, and of M models on it.

    Attributes:
        hub: The models.
        text: The task's words.
        logits: [M, N, C] float32, as each model gives them: scale times cosine, plus bias.
        features: For each model [N, D_m], unit-norm embeddings of the images.
        general: [M] accuracies on a general benchmark; None without one.
        known: The other tasks; None if there are none.
        labeled: A few labeled images, for methods that ask for them.
        hindsight: For bounds that are known afterwards only.
    """

    hub: Hub
    text: TaskText
    logits: NDArray[np.float32]
    features: tuple[NDArray[np.float32], ...]
    general: NDArray[np.float64] | None = None
    known: KnownTasks | None = None
    labeled: LabeledSample | None = None
    hindsight: Hindsight | None = None

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

    def candidates(self, *, captions: bool = False) -> Candidates:
        """The evidence of the labels, as selection takes it.

        Args:
            captions: Match the classes as the paper does.
        """
        match = self.text.caption_match if captions else self.text.match
        return Candidates(self.hub.labels, self.hub.graph, match, self.text.domain, self.hub.embeddings)

    def of_models(self, rows: Rows) -> TaskView:
        """The same task, as if there were only some of the models."""
        return replace(
            self,
            hub=self.hub.of_models(rows),
            logits=self.logits[rows],
            features=tuple(self.features[m] for m in rows),
            general=None if self.general is None else self.general[rows],
            known=self.known and self.known.of_models(rows),
            hindsight=self.hindsight and self.hindsight.of_models(rows),
        )

    def of_images(self, rows: Rows) -> TaskView:
        """The same task with some of its images, none of them labeled."""
        return replace(self, logits=self.logits[:, rows], features=tuple(x[rows] for x in self.features), labeled=None)

    def scaled(self, factors: NDArray[np.float64], *, relabeled: bool) -> TaskView:
        """The same task, if the models gave their logits multiplied by [M] factors.

        Args:
            factors: One for each model.
            relabeled: Whether the labels were measured with these factors, so that their temperatures follow.
        """
        logits = self.logits * factors[:, None, None].astype(np.float32)
        return replace(self, logits=logits, hub=self.hub.scaled(factors) if relabeled else self.hub)


@dataclass(frozen=True, eq=False)
class TaskEmbeddings:
    """What the models make of a task, out of the cache.

    Attributes:
        logits: [M, N, C] float32 of the N images that can be decoded.
        features: For each model [N, D_m].
        readable: [N0] which images of the task can be decoded.
    """

    logits: NDArray[np.float32]
    features: tuple[NDArray[np.float32], ...]
    readable: NDArray[np.bool_]


def read_embeddings(
    cache: EmbeddingCache, refs: Sequence[ModelRef], task: TargetTask, prompts: Sequence[Sequence[str]]
) -> TaskEmbeddings:
    """The logits of all models on a task; :meth:`~mll_hf.bench.cache.EmbeddingCache.fill` must have been there.

    Args:
        cache: Holds images and prompts of all models.
        refs: The models.
        task: The task.
        prompts: For each class its prompts, as many for each.
    """
    images = [cache.images(ref, task) for ref in refs]
    readable = np.logical_and.reduce([np.isfinite(x[:, 0]) for x in images])
    logits, features = [], tuple(x[readable] for x in images)
    for ref, x in zip(refs, features, strict=True):
        texts, facts = class_embeddings(cache.texts(ref, flat(prompts)), len(prompts)), cache.facts(ref)
        logits.append((facts.logit_scale * x @ texts.T + facts.logit_bias).astype(np.float32))
    return TaskEmbeddings(np.stack(logits), features, readable)


def class_embeddings(texts: Floats, n_classes: int) -> Floats:
    """[C, D] unit-norm mean of the embeddings [C * P, D] of each class's P prompts."""
    means = texts.reshape(n_classes, -1, texts.shape[1]).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)
