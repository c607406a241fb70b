"""What a small label loses: against Eq. 5 on all similarities, and with fewer probe images per concept.

Everything is counted again from cached embeddings of the probe images, so no model runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from mll_hf.bench.cache import ProbeImages
from mll_hf.bench.metrics import accuracy, spearman
from mll_hf.bench.world import read_embeddings, read_text
from mll_hf.labeling.contest import Contest
from mll_hf.labeling.run import label_from_counts
from mll_hf.labels.embeddings import ProbeEmbeddings
from mll_hf.labels.label import rival_counts
from mll_hf.selection import Candidates, SelectionConfig, Strategy, score
from mll_hf.selection.paper import precision_from_label
from mll_hf.utils.text import markdown_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mll_hf.bench.cache import EmbeddingCache
    from mll_hf.bench.suites import TargetTask
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.label import ModelLabel, ModelRef
    from mll_hf.matching.concept_index import ClassMatch, ConceptIndex

_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class EstimateQuality:
    """How near the estimate from a label comes to Eq. 5 on all similarities; means over the models.

    Attributes:
        task: Name of the task.
        concepts: Selected concepts, among which the contest is.
        correlation: Pearson's, over the selected concepts; 0 where a model is equally good at all.
        error: Mean absolute difference of the precisions.
        bias: Mean difference, estimate minus exact.
        model_correlation: Spearman's over the models, of their overall scores by the paper's rule.
        accuracy_exact: Of the model that the exact scores put first.
        accuracy_estimated: Of the model that the estimated scores put first.
    """

    task: str
    concepts: int
    correlation: float
    error: float
    bias: float
    model_correlation: float
    accuracy_exact: float
    accuracy_estimated: float


@dataclass(frozen=True, slots=True)
class SampleQuality:
    """What labels of so many images per concept are worth.

    Attributes:
        images_per_concept: Most images per concept.
        images: Probe images in all.
        general_correlation: Spearman's over the models, of their mean precision, with labels of all images.
        score_correlation: The same of the scores on a task under strategy ``mll``; mean over the tasks.
        accuracy: Of the model that strategy ``mll`` puts first; mean over the tasks.
    """

    images_per_concept: int
    images: int
    general_correlation: float
    score_correlation: float
    accuracy: float


@dataclass(frozen=True)
class LabeledHub:
    """Models whose probe embeddings are cached.

    Attributes:
        refs: The M models.
        graph: The graph.
        probes: All its probe images that are embedded.
        cache: Where the embeddings are.
    """

    refs: tuple[ModelRef, ...]
    graph: SemanticGraph
    probes: ProbeSet
    cache: EmbeddingCache

    def labels(self, probes: ProbeSet) -> tuple[ModelLabel, ...]:
        """Labels counted on a sample of the probe images."""
        rows = np.searchsorted(self.probes.rows, probes.rows)
        captions = [concept.caption for concept in self.graph.concepts]
        progress = tqdm(self.refs, unit="model", desc=f"{len(probes)} images", name="mll_hf.bench", leave=False)  # type: ignore[no-untyped-call]
        labels = []
        for ref in progress:
            images = self.cache.images(ref, ProbeImages(self.probes))[rows]
            facts = self.cache.facts(ref)
            contest = Contest(self.graph, probes, self.cache.texts(ref, captions), facts.logit_scale)
            counts = contest.count((at, images[at : at + _BLOCK]) for at in range(0, len(images), _BLOCK))
            labels.append(label_from_counts(ref, facts.cost, self.graph, probes, counts))
        return tuple(labels)

    def embeddings(self, ref: ModelRef) -> ProbeEmbeddings:
        """The sidecar of a model's label."""
        captions = [concept.caption for concept in self.graph.concepts]
        images = self.cache.images(ref, ProbeImages(self.probes))
        return ProbeEmbeddings.quantize(images, self.cache.texts(ref, captions), self.probes)


@dataclass(frozen=True, eq=False)
class KnownTask:
    """A task as far as fidelity is concerned.

    Attributes:
        name: Of the task.
        domain: How the images look.
        match: The classes, matched our way.
        caption_match: The classes, matched the paper's way.
        accuracies: [M] accuracy of each model.
    """

    name: str
    domain: str | None
    match: ClassMatch
    caption_match: ClassMatch
    accuracies: NDArray[np.float64]


def read_known_task(
    hub: LabeledHub, task: TargetTask, index: ConceptIndex, templates: Sequence[str] | None
) -> KnownTask:
    """A task whose images are in the cache.

    Args:
        hub: The models.
        task: The task.
        index: Concepts of the hub's graph.
        templates: Prompt templates; None for those that fit the task's domain and purpose.
    """
    text = read_text(task, index, templates)
    embeddings = read_embeddings(hub.cache, hub.refs, task, text.prompts)
    labels = task.labels[embeddings.readable]
    accuracies = np.array([accuracy(of_model.argmax(axis=1), labels) for of_model in embeddings.logits])
    return KnownTask(task.name, task.domain, text.match, text.caption_match, accuracies)


def estimates_against_exact(
    hub: LabeledHub, labels: Sequence[ModelLabel], tasks: Sequence[KnownTask]
) -> tuple[EstimateQuality, ...]:
    """Compare Eq. 5 as estimated from labels with the exact one, on each task's selected concepts."""
    exact: dict[str, list[NDArray[np.float64]]] = {task.name: [] for task in tasks}
    for ref in hub.refs:
        embeddings = hub.embeddings(ref)
        for task in tasks:
            exact[task.name].append(embeddings.restricted_precision(task.caption_match.selected))
    n_rivals = rival_counts(hub.graph, labels[0].part_numbers)
    return tuple(_compare(task, labels, n_rivals, np.stack(exact[task.name])) for task in tasks)


def _compare(
    task: KnownTask, labels: Sequence[ModelLabel], n_rivals: NDArray[np.int32], exact: NDArray[np.float64]
) -> EstimateQuality:
    selected, transition = task.caption_match.selected, task.caption_match.transition
    estimated = np.stack([precision_from_label(label, selected, n_rivals) for label in labels])
    overall = [(precision @ transition).mean(axis=1) for precision in (exact, estimated)]
    return EstimateQuality(
        task=task.name,
        concepts=len(selected),
        correlation=float(np.mean([_pearson(a, b) for a, b in zip(estimated, exact, strict=True)])),
        error=float(np.abs(estimated - exact).mean()),
        bias=float((estimated - exact).mean()),
        model_correlation=spearman(overall[1], overall[0]),
        accuracy_exact=float(task.accuracies[overall[0].argmax()]),
        accuracy_estimated=float(task.accuracies[overall[1].argmax()]),
    )


def quality_of_samples(
    hub: LabeledHub, samples: Mapping[int, ProbeSet], tasks: Sequence[KnownTask]
) -> tuple[SampleQuality, ...]:
    """Compare labels of samples of the probe images with labels of all of them.

    Args:
        hub: The models.
        samples: Samples by their most images per concept.
        tasks: The tasks.
    """
    whole = hub.labels(hub.probes)
    general = np.array([label.mean_precision for label in whole])
    of_whole = [_scores(whole, hub.graph, task) for task in tasks]
    found = []
    for most, probes in sorted(samples.items()):
        labels = hub.labels(probes)
        scores = [_scores(labels, hub.graph, task) for task in tasks]
        found.append(
            SampleQuality(
                images_per_concept=most,
                images=len(probes),
                general_correlation=spearman(np.array([label.mean_precision for label in labels]), general),
                score_correlation=float(np.mean([spearman(a, b) for a, b in zip(scores, of_whole, strict=True)])),
                accuracy=float(np.mean([t.accuracies[s.argmax()] for t, s in zip(tasks, scores, strict=True)])),
            )
        )
    return tuple(found)


def _scores(labels: tuple[ModelLabel, ...], graph: SemanticGraph, task: KnownTask) -> NDArray[np.float64]:
    """[M] overall scores under strategy mll."""
    candidates = Candidates(labels, graph, task.match, task.domain)
    return score(candidates, SelectionConfig(strategy=Strategy.MLL)).mean(axis=1)


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 0.0


def fidelity_to_json(estimates: Sequence[EstimateQuality], samples: Sequence[SampleQuality]) -> dict[str, Any]:
    """Both comparisons as plain JSON."""
    return {"estimates": [asdict(quality) for quality in estimates], "samples": [asdict(q) for q in samples]}


def fidelity_to_markdown(estimates: Sequence[EstimateQuality], samples: Sequence[SampleQuality], command: str) -> str:
    """Both comparisons as Markdown."""
    by_task = [
        [q.task, str(q.concepts)]
        + [
            f"{value:.3f}"
            for value in (q.correlation, q.error, q.bias, q.model_correlation, q.accuracy_exact, q.accuracy_estimated)
        ]
        for q in estimates
    ]
    by_size = [
        [str(q.images_per_concept), f"{q.images:,}"]
        + [f"{value:.3f}" for value in (q.general_correlation, q.score_correlation, q.accuracy)]
        for q in samples
    ]
    lines = [
        "# What a small label loses",
        "",
        f"Made by `{command}`. Labels are counted from cached embeddings.",
        "",
        "## Eq. 5 estimated from a label, against all similarities",
        "",
        "Per concept (means over models): Pearson correlation over the concepts that the task selects, mean absolute "
        "difference and mean difference. Over models: Spearman correlation of the overall scores by the paper's rule, "
        "and the accuracy of the model that comes first, by exact and by estimated scores.",
        "",
        *_table(
            [
                "task",
                "concepts",
                "correlation",
                "error",
                "bias",
                "over models",
                "accuracy, exact",
                "accuracy, estimated",
            ],
            by_task,
        ),
        "",
        "## Images per concept",
        "",
        "Against labels of all images: Spearman correlation over models of the mean precision and of the scores under "
        "strategy mll (mean over tasks); and the mean accuracy of the model that comes first.",
        "",
        *_table(["images per concept", "images", "mean precision", "scores", "accuracy"], by_size),
    ]
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return markdown_table(header, ["---", *["---:"] * (len(header) - 1)], rows)
