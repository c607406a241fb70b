"""What a label loses compared with Eq. 5 on all similarities, and with fewer probe images per concept.

Labels are recomputed from cached embeddings of the probe images, so no model runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from benchmark.cache import ProbeImages
from benchmark.metrics import accuracy, pearson, spearman
from benchmark.tables import Cell, Report, Table
from benchmark.world import MatchedClasses, read_embeddings, read_text
from mll_hf.graph.union import GraphUnion
from mll_hf.labeling.contest import Contest
from mll_hf.labeling.run import label_from_counts
from mll_hf.labels.embeddings import ProbeEmbeddings
from mll_hf.labels.join import JoinedLabels
from mll_hf.labels.label import Environment, Rivals
from mll_hf.selection import SelectionConfig, Strategy
from mll_hf.selection.mll import mll_scores
from mll_hf.selection.paper import precision_from_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from benchmark.cache import EmbeddingCache
    from benchmark.suites import TargetTask
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.label import Label, ModelRef
    from mll_hf.matching.concept_index import ConceptIndex

_ENVIRONMENT = Environment("unknown", "float32", "unknown", "unknown", "unknown")  # not recorded in the cache
_BLOCK = 2048


@dataclass(frozen=True)
class LabeledHub:
    """M models whose embeddings of all probe images of a graph are cached."""

    refs: tuple[ModelRef, ...]
    graph: SemanticGraph
    probes: ProbeSet
    cache: EmbeddingCache

    def labels(self, probes: ProbeSet) -> tuple[tuple[Label, Rivals], ...]:
        """Labels with their rivals, counted on a sample of the probe images."""
        rows = np.searchsorted(self.probes.rows, probes.rows)
        progress = tqdm(self.refs, unit="model", desc=f"{len(probes)} images", name="benchmark", leave=False)  # type: ignore[no-untyped-call]
        labels = []
        for ref in progress:
            images, captions = self._embeddings(ref)
            images, facts = images[rows], self.cache.facts(ref)
            contest = Contest(self.graph, probes, captions, facts.logit_scale)
            counts = contest.count((at, images[at : at + _BLOCK]) for at in range(0, len(images), _BLOCK))
            label = label_from_counts(ref, facts.cost, self.graph, probes, counts, environment=_ENVIRONMENT)
            labels.append((label, Rivals(*counts.rivals())))
        return tuple(labels)

    def sidecar(self, ref: ModelRef) -> ProbeEmbeddings:
        """The probe embeddings that would be stored with a model's label."""
        return ProbeEmbeddings.quantize(*self._embeddings(ref), self.probes)

    def _embeddings(self, ref: ModelRef) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embeddings of the probe images and of the captions of the concepts."""
        captions = [concept.caption for concept in self.graph.concepts]
        return self.cache.images(ref, ProbeImages(self.probes)), self.cache.texts(ref, captions)


@dataclass(frozen=True, eq=False)
class KnownTask(MatchedClasses):
    """A task whose classes are matched to concepts, and on which each model's accuracy is known."""

    name: str
    accuracies: NDArray[np.float64]  # [M]


def read_known_task(hub: LabeledHub, task: TargetTask, index: ConceptIndex) -> KnownTask:
    """Read a task whose embeddings are cached."""
    text = read_text(task, index)
    embeddings = read_embeddings(hub.cache, hub.refs, task, text.prompts)
    labels = task.labels[embeddings.readable]
    accuracies = np.array([accuracy(of_model.argmax(axis=1), labels) for of_model in embeddings.logits])
    return KnownTask(task.domain, text.matched.match, text.matched.caption_match, task.name, accuracies)


def fidelity_report(
    hub: LabeledHub, samples: Mapping[int, ProbeSet], tasks: Sequence[KnownTask], command: str
) -> Report:
    """Both tables; samples are given by their maximum number of images per concept."""
    tables = estimates_against_exact(hub, hub.labels(hub.probes), tasks), quality_of_samples(hub, samples, tasks)
    return Report(
        "What a small label loses", {"command": command}, tables, "Labels are counted from cached embeddings."
    )


def estimates_against_exact(
    hub: LabeledHub, labels: Sequence[tuple[Label, Rivals]], tasks: Sequence[KnownTask]
) -> Table:
    """Compare Eq. 5 as estimated from labels with the exact one, on the concepts that each task selects."""
    exact: list[list[NDArray[np.float64]]] = [[] for _ in tasks]
    for ref in hub.refs:
        sidecar = hub.sidecar(ref)  # one in memory at a time
        for task, of_task in zip(tasks, exact, strict=True):
            of_task.append(sidecar.restricted_precision(task.caption_match.selected))
    rows: list[dict[str, Cell]] = []
    for task, of_task in zip(tasks, exact, strict=True):
        selected, truth = task.caption_match.selected, np.stack(of_task)
        estimated = np.stack([precision_from_label(*label, selected, hub.graph.rival_counts) for label in labels])
        overall = [(recall @ task.caption_match.transition).mean(axis=1) for recall in (truth, estimated)]
        rows.append(
            {
                "task": task.name,
                "concepts": len(selected),
                "correlation": float(np.mean([pearson(a, b) for a, b in zip(estimated, truth, strict=True)])),
                "error": float(np.abs(estimated - truth).mean()),
                "bias": float((estimated - truth).mean()),
                "model_correlation": spearman(overall[1], overall[0]),
                "accuracy_exact": float(task.accuracies[overall[0].argmax()]),
                "accuracy_estimated": float(task.accuracies[overall[1].argmax()]),
            }
        )
    note = (
        "Per concept (means over models): Pearson correlation over the concepts that the task selects, mean absolute "
        "error and bias. Over models: Spearman correlation of the overall scores of strategy paper, and the accuracy "
        "of the model ranked first by exact and by estimated scores."
    )
    return Table("estimates", "Eq. 5 estimated from a label, against all similarities", note, rows)


def quality_of_samples(hub: LabeledHub, samples: Mapping[int, ProbeSet], tasks: Sequence[KnownTask]) -> Table:
    """Compare labels of samples of the probe images, by maximum images per concept, with labels of all images."""

    def measured(probes: ProbeSet) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        """Mean recall [M], and overall scores [M] on each task."""
        labels = [label for label, _ in hub.labels(probes)]
        return np.array([label.mean_recall for label in labels]), [_scores(labels, hub.graph, t) for t in tasks]

    levels_of_all, scores_of_all = measured(hub.probes)
    rows: list[dict[str, Cell]] = []
    for limit, probes in sorted(samples.items()):
        levels, scores = measured(probes)
        rows.append(
            {
                "images_per_concept": limit,
                "images": len(probes),
                "general_correlation": spearman(levels, levels_of_all),
                "score_correlation": float(np.mean(list(map(spearman, scores, scores_of_all)))),
                "accuracy": float(np.mean([t.accuracies[s.argmax()] for t, s in zip(tasks, scores, strict=True)])),
            }
        )
    note = (
        "Against labels of all images: Spearman correlation over models of the mean recall and of the scores of "
        "strategy mll (mean over tasks); and the mean accuracy of the model ranked first."
    )
    return Table("samples", "Images per concept", note, rows)


def _scores(labels: Sequence[Label], graph: SemanticGraph, task: KnownTask) -> NDArray[np.float64]:
    """[M] overall scores of strategy mll."""
    joined = JoinedLabels(GraphUnion.of([graph]), tuple((label,) for label in labels))
    return mll_scores(task.candidates(joined, Strategy.MLL), SelectionConfig().class_weight).mean(axis=1)
