"""Labels and selections as text that a person can act on. Pure functions from values to strings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labeling.verification import Verdict
from mll_hf.labels.branches import branch_pairs, branch_precisions
from mll_hf.selection import Selection, Strategy
from mll_hf.utils.text import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labeling.verification import Verification
    from mll_hf.labels.label import LabelSummary, ModelLabel
    from mll_hf.labels.store import Origin
    from mll_hf.selection import MatchedConcept, SelectedModel
    from mll_hf.selection.evidence import UnlabeledEvidence

T = TypeVar("T")

_MODELS_SHOWN = 10
_CLASSES_SHOWN = 25
_EXTREMES_SHOWN = 8
_BRANCHES_SHOWN = 5
_SURE = 1.96  # standard errors
_FEWEST_IMAGES = 10
_LEAST_COVERAGE = 0.005  # what is shown as 0.01


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under a header; a column of numbers is aligned to the right.

    What no terminal should be sent (names come from labels and graphs of others) is shown as a question mark.
    """
    header, *rows = ([printable(cell) for cell in row] for row in (header, *rows))
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    numeric = [all(cell.removeprefix("-")[:1].isdigit() for cell in column[1:]) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, numeric, strict=True)
        )
        for row in [header, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def selection_report(selection: Selection) -> str:
    """Which models, how good, at what cost, which concepts decided or what images said, and how sure it is."""
    if selection.evidence is not None:
        parts = [_trial_table(selection, selection.evidence), _trial_legend(selection)]
    else:
        parts = [_model_table(selection), _class_table(selection), _legend(selection)]
    return "\n\n".join([_headline(selection), *parts])


def _headline(selection: Selection) -> str:
    per_class = "" if selection.strategy is Strategy.UNIFORM else f", k = {selection.k}"
    tried = f" tried on {selection.evidence.n_images} images" if selection.evidence else ""
    return (
        f"{_counted(len(selection.classes), 'class', 'classes')}, {_models_counted(selection)}{tried}, strategy "
        f"{selection.strategy}{per_class}: {_counted(len(selection.union), 'model', 'models')} chosen (marked *)"
    )


def _models_counted(selection: Selection) -> str:
    if selection.among and not selection.evidence:
        return f"{selection.among:,} models, of which the best {len(selection.models)} are here"
    labeled = sum(model.labeled for model in selection.models)
    unlabeled = len(selection.models) - labeled
    parts = [_counted(labeled, "labeled model", "labeled models")] if labeled else []
    return " and ".join([*parts, *([f"{unlabeled} without a label"] if unlabeled else [])])


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _model_table(selection: Selection) -> str:
    shown = sorted({*range(min(_MODELS_SHOWN, len(selection.models))), *selection.union})
    rows = [
        [
            "*" if m in selection.union else "",
            _name(selection.models[m]) + ("" if selection.models[m].labeled else " (no label)"),
            f"{selection.overall[m]:.3f}",
            f"{selection.models[m].general:.3f}",
            f"{selection.chosen[m].sum()}",
            f"{selection.models[m].cost.parameters / 1e6:.1f} M",
            f"{selection.models[m].cost.gflops:.3g}",
        ]
        for m in shown
    ]
    header = ["", "model", _score_name(selection), "general", "classes", "parameters", "GFLOPs"]
    more = len(selection.models) - len(shown)
    return table(header, rows) + (f"\n... and {more} more; --json has all" if more else "")


def _trial_table(selection: Selection, evidence: UnlabeledEvidence) -> str:
    rows = [
        [
            "*" if m in selection.union else "",
            _name(model) + ("" if model.labeled else " (no label)"),
            f"{evidence.calibration.information[m]:.3f}",
            f"{evidence.firsts[m]:.0%}",
            f"{evidence.prior[m]:.3f}",
            f"{model.cost.parameters / 1e6:.1f} M",
            f"{model.cost.gflops:.3g}",
        ]
        for m, model in enumerate(selection.models)
    ]
    return table(["", "model", "information", "first", "precision by label", "parameters", "GFLOPs"], rows)


def _trial_legend(selection: Selection) -> str:
    return (
        "information: what the model's answers tell about the images, 0 to 1: much if it is sure of each and yet gives "
        "all classes; first: how often the model would come first with other images of the kind; precision by label: "
        f"what labels alone make expect.\nTogether: {_together(selection)}"
    )


def _class_table(selection: Selection) -> str:
    rows = []
    for y, name in enumerate(selection.classes[:_CLASSES_SHOWN]):
        models = sorted(np.flatnonzero(selection.chosen[:, y]).tolist(), key=lambda m: -selection.scores[m, y])
        names = [_name(selection.models[m]) for m in models]
        rows.append(
            [
                shortened(name, 32),
                _score_with_error(selection, models[0], y),
                f"{selection.coverage[y]:.2f}",
                _concepts(selection.matches[y]) if _is_seen(selection, y) else "(none)",
                ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
            ]
        )
    concepts = "concepts that decided" if selection.strategy in (Strategy.MLL, Strategy.PAPER) else "nearest concepts"
    header = ["class", _score_name(selection), "coverage", concepts, "models"]
    more = len(selection.classes) - len(rows)
    return table(header, rows) + (f"\n... and {more} more; --json has all" if more else "")


def _legend(selection: Selection) -> str:
    scores = {
        Strategy.MLL: "precision: expected share of a class's images that a model gets right among your classes",
        Strategy.PAPER: "score r: the paper's reuse metric, which is no probability",
        Strategy.GENERAL: "precision: mean over all concepts of the graph, the same for every class",
        Strategy.UNIFORM: "share: the same for all; no model is preferred",
        Strategy.IMAGENET: "accuracy: published zero-shot accuracy on ImageNet, which knows nothing of your classes",
    }[selection.strategy]
    prior = "" if all(model.labeled for model in selection.models) else (
        "no label: nobody has measured this model on the graph; its published ImageNet accuracy stands in.\n"
    )  # fmt: skip
    return (
        f"{scores}; general: share of a concept's images recognized among all concepts, on average; "
        f"coverage: 1 if the graph has the class, 0 if nothing like it.\n{prior}"
        f"Together: {_together(selection)}"
    )


def _together(selection: Selection) -> str:
    cost = selection.cost
    return f"{cost.parameters / 1e6:.1f} M parameters, {cost.gflops:.3g} GFLOPs per image."


def _score_name(selection: Selection) -> str:
    names = {Strategy.PAPER: "score r", Strategy.UNIFORM: "share", Strategy.IMAGENET: "accuracy"}
    return names.get(selection.strategy, "precision")


def _score_with_error(selection: Selection, m: int, y: int) -> str:
    """The score of a model on a class; where it is the class's own precision, with its standard error."""
    score, images = float(selection.scores[m, y]), float(selection.images[y])
    if selection.strategy is not Strategy.MLL or images == 0 or not _is_seen(selection, y):
        return f"{score:.3f}"
    return f"{score:.2f} ± {np.sqrt(score * (1 - score) / images):.2f}"


def _is_seen(selection: Selection, y: int) -> bool:
    """Whether the graph says anything of a class; if not, strategy mll falls back to the models' general level."""
    return selection.strategy is not Strategy.MLL or selection.coverage[y] >= _LEAST_COVERAGE


def _concepts(matches: tuple[MatchedConcept, ...]) -> str:
    best = [concept for concept in matches[:3] if concept.weight >= 0.05 * matches[0].weight]  # none without labels
    return ", ".join(f"{concept.name} {concept.weight:.2f}" for concept in best)


def _name(model: SelectedModel) -> str:
    """The id on the Hub; of a local folder its name."""
    return model.ref.short_name if model.ref.is_local else model.ref.repo_id


def label_report(label: ModelLabel, graph: SemanticGraph, origin: Origin) -> str:
    """What one label says, and who says so."""
    facts = [
        ["model", label.model.repo_id],
        ["revision", label.model.revision],
        ["backend", label.model.backend],
        ["published by", origin.publisher or "nobody: it is on this machine only"],
        ["read from", origin.location],
        ["size", f"{label.cost.parameters / 1e6:.1f} M parameters, {label.cost.gflops:.3g} GFLOPs per image"],
        ["graph", f"{label.graph_name} ({label.graph_digest[:12]}), {int((label.support > 0).sum())} concepts tested"],
        ["images", f"{label.probes_name} ({label.probes_revision[:12]}), {int(label.support.sum())} tests"],
        ["precision", f"{label.mean_precision:.3f} on average, ± {label.mean_precision_margin:.3f}"],
        ["temperature", f"{float(label.temperature[0]):.2f}"],
    ]
    domains = [
        [name, f"{hits.sum() / max(int(support.sum()), 1):.3f}", str(int(support.sum()))]
        for name, hits, support in zip(label.domain_names, label.domain_hits, label.domain_support, strict=True)
    ]
    has_rivals = np.array([len(graph.relatives(v)) + 1 < len(graph) for v in range(len(graph))])
    enough = label.support >= min(_FEWEST_IMAGES, int(label.support.max()))
    tested = np.flatnonzero(has_rivals & enough)  # without rivals there is nothing to recognize
    ranked = tested[np.argsort(-label.node_precision[tested], kind="stable")]
    parts = [
        table(["", ""], facts).lstrip("\n"),
        "By domain\n" + table(["domain", "share recognized", "tests"], domains),
        *_branch_tables(label, graph),
        "Recognizes best\n" + _concept_table(label, graph, ranked[:_EXTREMES_SHOWN]),
        "Recognizes worst\n" + _concept_table(label, graph, ranked[: -_EXTREMES_SHOWN - 1 : -1]),
    ]
    return "\n\n".join(parts)


def _branch_tables(label: ModelLabel, graph: SemanticGraph) -> list[str]:
    branches = branch_precisions(label, graph)
    if not branches:
        return []
    rows = [[b.name, f"{b.precision:.3f}", str(b.concepts), shortened(b.definition, 60)] for b in _ends(branches)]
    return ["Branches, strongest and weakest\n" + table(["branch", "precision", "concepts", "meaning"], rows)]


def _ends(ranked: Sequence[T]) -> Sequence[T]:
    """The best and the worst of a ranking; all of it if it is short."""
    if len(ranked) <= 2 * _BRANCHES_SHOWN:
        return ranked
    return [*ranked[:_BRANCHES_SHOWN], *ranked[-_BRANCHES_SHOWN:]]


def _concept_table(label: ModelLabel, graph: SemanticGraph, concepts: Sequence[int] | np.ndarray) -> str:
    rows = [
        [
            graph.concepts[v].name,
            f"{label.node_precision[v]:.2f}",
            str(label.support[v]),
            shortened(graph.concepts[v].definition, 60),
        ]
        for v in concepts
    ]
    return table(["concept", "precision", "images", "meaning"], rows)


@dataclass(frozen=True)
class LabelDifference:
    """Where one model is better than another, by their labels.

    Attributes:
        first: One label.
        second: Another label of the same graph.
        graph: That graph.
        concepts: [K] indices of the concepts that both were tested on.
        gain: [K] node precision of the first minus that of the second.
        z: [K] the same in standard errors of a difference of two proportions.
    """

    first: LabelSummary
    second: LabelSummary
    graph: SemanticGraph
    concepts: NDArray[np.intp]
    gain: NDArray[np.float64]
    z: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """The difference as plain JSON."""
        names = [{"id": self.graph.concepts[v].id, "name": self.graph.concepts[v].name} for v in self.concepts]
        return {
            "first": asdict(self.first.model),
            "second": asdict(self.second.model),
            "precision": [self.first.mean_precision, self.second.mean_precision],
            "concepts": [
                {**name, "first": float(self.first.node_precision[v]), "second": float(self.second.node_precision[v]),
                 "z": float(z)}
                for name, v, z in zip(names, self.concepts, self.z, strict=True)
            ],
        }  # fmt: skip


def label_difference(first: LabelSummary, second: LabelSummary, graph: SemanticGraph) -> LabelDifference:
    """Compare two labels concept by concept.

    Raises:
        InputError: They were not measured on the same images.
    """
    if (first.probes_revision, first.sampling) != (second.probes_revision, second.sampling):
        raise InputError("the two labels were measured on different images and do not compare; label both on the same")
    concepts = np.flatnonzero((first.support > 0) & (second.support > 0))
    p, q = (label.node_precision[concepts].astype(np.float64) for label in (first, second))
    n, m = (label.support[concepts].astype(np.float64) for label in (first, second))
    pooled = (n * p + m * q) / (n + m)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    z = np.divide(p - q, error, out=np.zeros(len(p)), where=error > 0)
    return LabelDifference(first, second, graph, concepts, p - q, z)


def difference_report(difference: LabelDifference) -> str:
    """Two labels side by side: overall, by branch, and the concepts that differ most surely."""
    first, second, graph = difference.first, difference.second, difference.graph
    names = [_distinct_name(first, second), _distinct_name(second, first)]
    shown = _ends(branch_pairs(first, second, graph))
    surely = np.abs(difference.z) > _SURE
    wins = [int((surely & (difference.gain > 0)).sum()), int((surely & (difference.gain < 0)).sum())]
    order = np.argsort(-difference.z, kind="stable")
    gains = difference.gain[order]
    facts = [
        ["mean precision", *(f"{label.mean_precision:.3f}" for label in (first, second))],
        ["surely better on", *(f"{won} concepts" for won in wins)],
        ["parameters", *(f"{label.cost.parameters / 1e6:.1f} M" for label in (first, second))],
        ["GFLOPs", *(f"{label.cost.gflops:.3g}" for label in (first, second))],
    ]
    rows = [
        [b.name, f"{b.precision:.3f}", f"{other.precision:.3f}", f"{b.precision - other.precision:+.3f}"]
        for b, other in shown
    ]
    parts = [
        table(["", *names], facts),
        *(["By branch\n" + table(["branch", *names, "difference"], rows)] if rows else []),
        *(
            f"{name} is better at\n" + _difference_table(difference, at[:_EXTREMES_SHOWN], names)
            for name, at in zip(names, (order[gains > 0], order[::-1][gains[::-1] < 0]), strict=True)
            if len(at)
        ),
        f"Surely: by more than {_SURE:.2f} standard errors, which about 5 % of equal concepts exceed by chance.",
    ]
    return "\n\n".join(parts)


def _difference_table(difference: LabelDifference, at: NDArray[np.intp], names: Sequence[str]) -> str:
    rows = [
        [
            difference.graph.concepts[v].name,
            *(f"{label.node_precision[v]:.2f}" for label in (difference.first, difference.second)),
            f"{gain:+.2f}",
            f"{z:+.1f}",
        ]
        for v, gain, z in zip(difference.concepts[at], difference.gain[at], difference.z[at], strict=True)
    ]
    return table(["concept", *names, "difference", "standard errors"], rows)


def _distinct_name(label: LabelSummary, other: LabelSummary) -> str:
    same = label.model.short_name == other.model.short_name
    return f"{label.model.repo_id}@{label.model.revision[:7]}" if same else label.model.short_name


def verification_report(verification: Verification, graph: SemanticGraph) -> str:
    """Whether a label agrees with a new measurement, how surely, and where it does not."""
    lower, upper = verification.interval
    n = len(verification.concepts)
    worst = [at for at in np.argsort(-verification.moved, kind="stable")[:_EXTREMES_SHOWN] if verification.moved[at]]
    rows = [
        [
            graph.concepts[verification.concepts[at]].name,
            str(verification.claimed[at]),
            str(verification.measured[at]),
            str(verification.moved[at]),
            str(verification.support[at]),
        ]
        for at in worst
    ]
    header = ["concept", "claimed", "measured", "ranked otherwise", "images"]
    meaning = {
        Verdict.AGREES: "the label agrees with the new measurement",
        Verdict.DISAGREES: "the label DISAGREES with the new measurement; do not rely on it",
        Verdict.UNDECIDED: "the sample is too small to tell; try again with more --concepts",
    }[verification.verdict]
    parts = [
        f"{verification.model.repo_id}@{verification.model.revision[:12]}: {meaning}.",
        f"{verification.agreeing} of {n} sampled concepts agree (seed {verification.seed}), so between {lower:.1%} and "
        f"{upper:.1%} of all do (95 % confidence). Mean precision of the sample: {verification.claimed_precision:.3f} "
        f"claimed, {verification.measured_precision:.3f} measured.",
        *(["Largest gaps\n" + table(header, rows)] if rows else []),
    ]
    return "\n\n".join(parts)
