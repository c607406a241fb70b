"""Selections, labels and verifications as text for the terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.branches import branch_pairs, branch_recalls
from mll_hf.selection import STRATEGIES, Figures, Selection, Strategy
from mll_hf.utils.tables import table
from mll_hf.utils.text import gigaflops, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labeling.verification import Verification
    from mll_hf.labels.label import Cost, Label
    from mll_hf.labels.store import Origin

T = TypeVar("T")

_MODELS_SHOWN = 10
_CLASSES_SHOWN = 25
_EXTREMES_SHOWN = 8
_BRANCHES_SHOWN = 5
_SIGNIFICANT = 1.96  # standard errors
_MIN_IMAGES = 10
_MIN_COVERAGE = 0.005  # shown as 0.01
_FIGURES = {
    Figures.LABEL: "label",
    Figures.PER_CLASS: "published recall on each class of ImageNet",
    Figures.OVERALL: "published ImageNet accuracy",
}


# --- selections -------------------------------------------------------------------------------------------------------


def selection_report(selection: Selection) -> str:
    """The answer, the models with accuracy and cost, and, unless they were tried on images, the matched concepts."""
    parts = ["\n".join(selection.answer_lines)] if selection.answer_lines else []
    parts += [_headline(selection), _model_table(selection)]
    if selection.calibration is None:
        strategy = STRATEGIES[selection.strategy]
        legend = f"{strategy.column}: {strategy.meaning}; coverage: 1 if the graph has the class, 0 if nothing similar."
        parts += [_class_table(selection), legend]
    return "\n\n".join(parts) + f"\nTogether: {_size(selection.cost)}."


def _headline(selection: Selection) -> str:
    tried = f" tried on {selection.calibration.n_images} images" if selection.calibration else ""
    return (
        f"{_count(len(selection.classes), 'class', 'classes')}, {_count(len(selection.models), 'model', 'models')}"
        f"{tried}, strategy {selection.strategy}, k = {selection.k}: "
        f"{_count(len(selection.chosen_models), 'model', 'models')} chosen (marked *)"
    )


def _model_table(selection: Selection) -> str:
    """The best models and all chosen ones; columns in which there is nothing to show are left out."""
    shown = sorted({*range(min(_MODELS_SHOWN, len(selection.models))), *selection.chosen_models})
    models = [selection.models[m] for m in shown]
    columns: dict[str, list[str]] = {
        "": ["*" if m in selection.chosen_models else "" for m in shown],
        "model": [model.name for model in models],
    }
    if any(model.figures is not Figures.LABEL for model in selection.models):
        columns["based on"] = [_FIGURES[model.figures] for model in models]
    if selection.estimate is not None:
        columns["estimated accuracy"] = [selection.estimate.text(m) for m in shown]
    if selection.calibration is None:
        column = STRATEGIES[selection.strategy].column
        columns[column] = [f"{selection.overall[m]:.3f}" if _is_measured(selection, m) else "-" for m in shown]
    columns["parameters"] = [f"{model.cost.parameters / 1e6:.1f} M" for model in models]
    columns["GFLOPs"] = [gigaflops(model.cost.gflops) for model in models]
    if any(model.license for model in selection.models):
        columns["license"] = [model.license or "unknown" for model in models]
    return table(list(columns), list(zip(*columns.values(), strict=True))) + _omitted(
        len(selection.models) - len(shown)
    )


def _class_table(selection: Selection) -> str:
    rows = []
    for y, name in enumerate(selection.classes[:_CLASSES_SHOWN]):
        models = sorted(np.flatnonzero(selection.chosen[:, y]).tolist(), key=lambda m: -selection.scores[m, y])
        names = [selection.models[m].name for m in models]
        concepts = [concept for concept in selection.matches[y][:3] if concept.weight >= 0.05]
        score = f"{selection.scores[models[0], y]:.2f}" if _is_measured(selection, models[0], y) else "-"
        rows.append(
            [
                shortened(name, 32),
                score,
                f"{selection.coverage[y]:.2f}",
                ", ".join(f"{concept.name} {concept.weight:.2f}" for concept in concepts) or "(none)",
                ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
            ]
        )
    header = ["class", STRATEGIES[selection.strategy].column, "coverage", "nearest concepts", "models"]
    return table(header, rows) + _omitted(len(selection.classes) - len(rows))


def _is_measured(selection: Selection, m: int, y: int | None = None) -> bool:
    """Whether the score of a model, on a class, was measured, rather than the general level of the models."""
    if selection.strategy is not Strategy.MLL:
        return True
    is_covered = y is None or (selection.coverage[y] >= _MIN_COVERAGE and selection.images[y] > 0)
    return is_covered and selection.models[m].figures is not Figures.OVERALL


def _size(cost: Cost) -> str:
    return f"{cost.parameters / 1e6:.1f} M parameters, {gigaflops(cost.gflops)} GFLOPs per image"


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _omitted(count: int) -> str:
    return f"\n... and {count} more; --json has all" if count else ""


# --- labels -----------------------------------------------------------------------------------------------------------


def label_report(label: Label, graph: SemanticGraph, origin: Origin) -> str:
    """The content of a label, and its publisher."""
    facts = [
        ["model", label.model.repo_id],
        ["revision", label.model.revision],
        ["backend", label.model.backend],
        ["published by", origin.publisher or "nobody (local file)"],
        ["read from", origin.location],
        ["size", _size(label.cost)],
        ["graph", f"{label.graph_name} ({label.graph_digest[:12]}), {label.n_tested} concepts tested"],
        ["graph from", label.graph_location],
        ["images", f"{label.probes_location} ({label.probes_digest[:12]}), {int(label.support.sum())} tests"],
        ["recall", f"{label.mean_recall:.3f} on average, ± {label.mean_recall_margin:.3f}"],
        ["temperature", f"{float(label.temperature[0]):.2f}"],
    ]
    domains = [
        [name, f"{hits.sum() / max(int(support.sum()), 1):.3f}", str(int(support.sum()))]
        for name, hits, support in zip(label.domain_names, label.domain_hits, label.domain_support, strict=True)
    ]
    branches = [
        [b.name, f"{b.recall:.3f}", str(b.concepts), shortened(b.definition, 60)]
        for b in _ends(branch_recalls(label, graph))
    ]
    typical = np.median(label.support[label.support > 0]) if label.support.any() else 0
    enough = label.support >= min(_MIN_IMAGES, typical)
    tested = np.flatnonzero(enough & (graph.rival_counts > 0))  # a concept without rivals is always recognized
    ranked = tested[np.argsort(-label.node_precision[tested], kind="stable")]
    parts = [table(["", ""], facts).lstrip("\n"), "By domain\n" + table(["domain", "recall", "tests"], domains)]
    if branches:
        header = ["branch", "recall", "concepts", "meaning"]
        parts.append("Branches, strongest and weakest\n" + table(header, branches))
    if len(ranked) <= 2 * _EXTREMES_SHOWN:
        parts.append("Recognizes best to worst\n" + _concept_table(label, graph, ranked))
    else:
        parts.append("Recognizes best\n" + _concept_table(label, graph, ranked[:_EXTREMES_SHOWN]))
        parts.append("Recognizes worst\n" + _concept_table(label, graph, ranked[: -_EXTREMES_SHOWN - 1 : -1]))
    return "\n\n".join(parts)


def _concept_table(label: Label, graph: SemanticGraph, concepts: NDArray[np.intp]) -> str:
    rows = []
    for v in concepts:
        name, meaning = graph.concepts[v].name, shortened(graph.concepts[v].definition, 60)
        rows.append([name, f"{label.node_precision[v]:.2f}", str(label.support[v]), meaning])
    return table(["concept", "recall", "images", "meaning"], rows)


def _ends(ranked: Sequence[T]) -> Sequence[T]:
    """The first and last of a ranking, or all of a short one."""
    if len(ranked) <= 2 * _BRANCHES_SHOWN:
        return ranked
    return [*ranked[:_BRANCHES_SHOWN], *ranked[-_BRANCHES_SHOWN:]]


# --- differences of labels --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelDifference:
    """Differences between two labels of the same graph.

    Attributes:
        first: The first label.
        second: The second label.
        graph: Their graph.
        concepts: [K] indices of the concepts that both were tested on.
        gain: [K] recall of the first minus recall of the second.
        z: [K] the same in standard errors of a difference of two proportions.
    """

    first: Label
    second: Label
    graph: SemanticGraph
    concepts: NDArray[np.intp]
    gain: NDArray[np.float64]
    z: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """The difference as plain JSON."""
        return {
            "first": asdict(self.first.model),
            "second": asdict(self.second.model),
            "recall": [self.first.mean_recall, self.second.mean_recall],
            "concepts": [
                {
                    "id": self.graph.concepts[v].id,
                    "name": self.graph.concepts[v].name,
                    "first": float(self.first.node_precision[v]),
                    "second": float(self.second.node_precision[v]),
                    "z": float(z),
                }
                for v, z in zip(self.concepts, self.z, strict=True)
            ],
        }


def label_difference(first: Label, second: Label, graph: SemanticGraph) -> LabelDifference:
    """Compare two labels concept by concept.

    Raises:
        InputError: They were not measured on the same images.
    """
    if (first.probes_digest, first.sampling) != (second.probes_digest, second.sampling):
        raise InputError("the two labels were measured on different images; label both models on the same images")
    concepts = np.flatnonzero((first.support > 0) & (second.support > 0))
    p, q = (label.node_precision[concepts].astype(np.float64) for label in (first, second))
    n, m = (label.support[concepts].astype(np.float64) for label in (first, second))
    pooled = (n * p + m * q) / (n + m)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    z = np.divide(p - q, error, out=np.zeros(len(p)), where=error > 0)
    return LabelDifference(first, second, graph, concepts, p - q, z)


def difference_report(difference: LabelDifference) -> str:
    """Two labels side by side: overall, by branch, and the concepts with the most significant differences."""
    first, second, graph = difference.first, difference.second, difference.graph
    pair = first, second
    names = [_distinct_name(first, second), _distinct_name(second, first)]
    wins = [int((sign * difference.z > _SIGNIFICANT).sum()) for sign in (1, -1)]
    facts = [
        ["mean recall", *(f"{label.mean_recall:.3f}" for label in pair)],
        ["significantly better on", *(f"{won} concepts" for won in wins)],
        ["parameters", *(f"{label.cost.parameters / 1e6:.1f} M" for label in pair)],
        ["GFLOPs", *(gigaflops(label.cost.gflops) for label in pair)],
    ]
    branches = [
        [b.name, f"{b.recall:.3f}", f"{other.recall:.3f}", f"{b.recall - other.recall:+.3f}"]
        for b, other in _ends(branch_pairs(first, second, graph))
    ]
    parts = [table(["", *names], facts)]
    if branches:
        parts.append("By branch\n" + table(["branch", *names, "difference"], branches))
    for name, sign in zip(names, (1, -1), strict=True):
        rows = []
        for at in np.argsort(-sign * difference.z, kind="stable")[:_EXTREMES_SHOWN]:
            v, gain, z = difference.concepts[at], difference.gain[at], difference.z[at]
            if sign * gain > 0:
                recalls = [f"{label.node_precision[v]:.2f}" for label in pair]
                rows.append([graph.concepts[v].name, *recalls, f"{gain:+.2f}", f"{z:+.1f}"])
        if rows:
            parts.append(f"{name} is better at\n{table(['concept', *names, 'difference', 'standard errors'], rows)}")
    parts.append(
        f"Significantly: by more than {_SIGNIFICANT:.2f} standard errors, which about 5 % of equally well recognized "
        "concepts exceed by chance."
    )
    return "\n\n".join(parts)


def _distinct_name(label: Label, other: Label) -> str:
    same = label.model.short_name == other.model.short_name
    return f"{label.model.repo_id}@{label.model.revision[:7]}" if same else label.model.short_name


# --- verifications ----------------------------------------------------------------------------------------------------


def verification_report(verification: Verification, graph: SemanticGraph) -> str:
    """Whether a label agrees with a new measurement, with what confidence, and the largest differences."""
    from mll_hf.labeling.verification import Verdict  # loads the client of the Hub

    lower, upper = verification.interval
    worst = [at for at in np.argsort(-verification.moved, kind="stable")[:_EXTREMES_SHOWN] if verification.moved[at]]
    counts = np.stack([verification.claimed, verification.measured, verification.moved, verification.support], axis=1)
    rows = [[graph.concepts[verification.concepts[at]].name, *map(str, counts[at].tolist())] for at in worst]
    meaning = {
        Verdict.AGREES: "the label agrees with the new measurement",
        Verdict.DISAGREES: "the label DISAGREES with the new measurement; do not rely on it",
        Verdict.UNDECIDED: "the sample is too small to tell; try again with more --concepts",
    }[verification.verdict]
    parts = [
        f"{verification.model.repo_id}@{verification.model.revision[:12]}: {meaning}.",
        f"{verification.agreeing} of {len(counts)} sampled concepts agree (seed {verification.seed}), so between "
        f"{lower:.1%} and {upper:.1%} of all do (95 % confidence). Mean recall of the sample: "
        f"{verification.claimed_recall:.3f} claimed, {verification.measured_recall:.3f} measured.",
    ]
    if rows:
        header = ["concept", "claimed", "measured", "rank changed", "images"]
        parts.append("Largest differences\n" + table(header, rows))
    return "\n\n".join(parts)
