"""Selections, labels and verifications as text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mll_hf.cli.output import recall_text
from mll_hf.labels.branches import branch_recalls
from mll_hf.selection import STRATEGIES, Figures, Selection, Strategy
from mll_hf.utils.tables import table
from mll_hf.utils.text import gigaflops, shortened

if TYPE_CHECKING:
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labeling.verification import Verification
    from mll_hf.labels.label import Cost, Label
    from mll_hf.labels.store import Origin
    from mll_hf.selection import Estimate

T = TypeVar("T")

_MODELS_SHOWN = 10
_CLASSES_SHOWN = 25
_BAR = 50  # characters
_ENDS_SHOWN = 6
_MIN_COVERAGE = 0.005  # shown as 0.01
_FIGURES = {
    Figures.LABEL: "label",
    Figures.PUBLISHED: "published ImageNet accuracy",
    Figures.NOMINATED: "published, for this domain or language",
    Figures.NONE: "nothing",
}


# --- selections -------------------------------------------------------------------------------------------------------


def selection_report(selection: Selection, is_verbose: bool = False) -> str:
    """The answer as a card; if asked, or without an answer, also the models and the concepts of the classes."""
    parts = ["\n".join(_card(selection))]
    if is_verbose or not selection.answer_lines:
        parts += [_headline(selection), _model_table(selection)]
        if selection.trial is None:
            strategy = STRATEGIES[selection.strategy]
            legend = (
                f"{strategy.column}: {strategy.meaning}; coverage: 1 if the graph has the class, 0 if nothing similar."
            )
            parts += [_class_table(selection), legend]
        parts[-1] += f"\nTogether: {_size(selection.cost)}."
    return "\n\n".join(part for part in parts if part)


def _card(selection: Selection) -> list[str]:
    """What to use, how good it is, what else would do, what the fit gained and what was noted."""
    first, *others = selection.answer_lines or ("",)
    lead, estimate = selection.chosen_models[0], selection.estimate
    bar = [_bar(estimate, lead)] if estimate is not None and estimate.known[lead] else []
    return [line for line in (first, *bar, *_gain_of_fit(selection), *others, *selection.notes) if line]


def _bar(estimate: Estimate, m: int) -> str:
    """The estimated accuracy of a model between 0 and 100 %, with its interval."""
    low, high = (float(end[m]) for end in estimate.interval)
    cells = ["=" if low <= (cell + 0.5) / _BAR <= high else "." for cell in range(_BAR)]
    cells[min(int(_BAR * estimate.accuracy[m]), _BAR - 1)] = "#"
    return f"0 % [{''.join(cells)}] 100 %"


def _gain_of_fit(selection: Selection) -> list[str]:
    """What the fit changed for the best model, measured on images that it was not fitted to."""
    trial = selection.trial
    if trial is None:
        return []
    before, after, name = (
        f"{100 * trial.zero_shot[0]:.0f} %",
        f"{100 * trial.fitted[0]:.0f} %",
        selection.models[0].name,
    )
    if trial.n_examples:
        return [f"Of {trial.n_examples} examples, {name} classifies {before} correctly zero-shot, {after} fitted."]
    return [
        f"{name} agrees with all models together on {before} of the images zero-shot, on {after} fitted.",
        "To know the accuracy, name the classes of 25 images: add --suggest 25, and fit again with --examples.",
    ]


def _headline(selection: Selection) -> str:
    tried = f" tried on {selection.trial.n_images} images" if selection.trial else ""
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
    if selection.trial is not None:
        of = "examples" if selection.trial.n_examples else "agreement"
        columns[f"{of}, zero-shot"] = [f"{100 * selection.trial.zero_shot[m]:.0f} %" for m in shown]
        columns[f"{of}, fitted"] = [f"{100 * selection.trial.fitted[m]:.0f} %" for m in shown]
    else:
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
    is_covered = y is None or selection.coverage[y] >= _MIN_COVERAGE
    return is_covered and selection.models[m].figures is Figures.LABEL


def _size(cost: Cost) -> str:
    return f"{cost.parameters / 1e6:.1f} M parameters, {gigaflops(cost.gflops)} GFLOPs per image"


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _omitted(count: int) -> str:
    return f"\n... and {count} more; --json has all" if count else ""


# --- labels -----------------------------------------------------------------------------------------------------------


def label_report(label: Label, graph: SemanticGraph, origin: Origin) -> str:
    """The content of a label, its publisher, and what the model recognizes best and worst."""
    facts = [
        ["model", f"{label.model.repo_id}@{label.model.revision} ({label.model.backend})"],
        ["published by", origin.publisher or "nobody (local file)"],
        ["read from", origin.location],
        ["size", _size(label.cost)],
        ["graph", f"{label.graph_name} ({label.graph_digest[:12]}) from {label.graph_location}"],
        ["images", f"{label.probes_location} ({label.probes_digest[:12]}), {int(label.support.sum())} tests"],
        ["recall", f"{recall_text(label)} on average over {label.n_tested} concepts"],
        ["temperature", f"{float(label.temperature[0]):.2f}"],
    ]
    for name, hits, support in zip(label.domain_names, label.domain_hits, label.domain_support, strict=True):
        tests = int(support.sum())
        facts.append([f"recall, {name}", f"{hits.sum() / max(tests, 1):.3f} in {tests} tests"])
    branches = [[b.name, f"{b.recall:.3f}", str(b.concepts)] for b in _ends(branch_recalls(label, graph))]
    tested = np.flatnonzero((label.support > 0) & (graph.rival_counts > 0))  # without rivals it is always recognized
    ranked = _ends(tested[np.argsort(-label.node_precision[tested], kind="stable")].tolist())
    concepts = [[graph.concepts[v].name, f"{label.node_precision[v]:.3f}", str(label.support[v])] for v in ranked]
    parts = [table(["", ""], facts).lstrip("\n")]
    if branches:
        parts.append("Strongest and weakest branches\n" + table(["branch", "recall", "concepts"], branches))
    parts.append("Recognizes best and worst\n" + table(["concept", "recall", "images"], concepts))
    return "\n\n".join(parts)


def _ends(ranked: list[T]) -> list[T]:
    """The first and last of a ranking, or all of a short one."""
    short = len(ranked) <= 2 * _ENDS_SHOWN
    return ranked if short else [*ranked[:_ENDS_SHOWN], *ranked[-_ENDS_SHOWN:]]


# --- verifications ----------------------------------------------------------------------------------------------------


def verification_report(verification: Verification, graph: SemanticGraph) -> str:
    """Whether a label agrees with a new measurement, with what confidence, and the largest differences."""
    from mll_hf.labeling.verification import Verdict  # loads the client of the Hub

    lower, upper = verification.interval
    worst = [at for at in np.argsort(-verification.moved, kind="stable")[:_ENDS_SHOWN] if verification.moved[at]]
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
