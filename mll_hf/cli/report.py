"""Selections, labels and verifications as text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mll_hf.cli.output import recall_text
from mll_hf.selection import STRATEGIES, Figures, Selection, Strategy
from mll_hf.utils.tables import table
from mll_hf.utils.text import gigaflops

if TYPE_CHECKING:
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labeling.verification import Verification
    from mll_hf.labels.label import Cost, Label
    from mll_hf.labels.store import Origin
    from mll_hf.selection import Estimate

T = TypeVar("T")

_MODELS_SHOWN = 10
_BAR = 50  # characters
_ENDS_SHOWN = 6
_FIGURES = {
    Figures.LABEL: "label",
    Figures.PUBLISHED: "published ImageNet accuracy",
    Figures.NOMINATED: "published, for this domain or language",
    Figures.NONE: "nothing",
}


# --- selections -------------------------------------------------------------------------------------------------------


def selection_report(selection: Selection, is_verbose: bool = False) -> str:
    """The answer as a card; if asked, or without an answer, also a table of the models."""
    notes = selection.notes if is_verbose or not selection.trial else ()  # they are about what the names tell
    parts = ["\n".join([*_card(selection), *notes])]
    if is_verbose or not selection.answer_lines:
        parts += [_headline(selection), f"{_model_table(selection)}\nTogether: {_size(selection.cost)}."]
    return "\n\n".join(part for part in parts if part)


def _card(selection: Selection) -> list[str]:
    """What to use, how good it is, what the fit gained, and what else would do."""
    first, *others = selection.answer_lines or ("",)
    lead, estimate = selection.chosen_models[0], selection.estimate
    bar = [_bar(estimate, lead)] if estimate is not None and estimate.known[lead] else []
    return [line for line in (first, *bar, *_gain_of_fit(selection), *others) if line]


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
    before, after = (f"{100 * shares[0]:.0f} %" for shares in (trial.zero_shot, trial.fitted))
    name = selection.models[0].name
    if trial.n_examples:
        return [f"Of {trial.n_examples} examples, {name} classifies {before} correctly zero-shot, {after} fitted."]
    if len(selection.models) == 1:
        return []
    agreement = f"agrees with all models together on {before} of the images zero-shot, on {after} fitted"
    return [f"{name} {agreement}; this is not its accuracy, since all may be wrong."]


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
    elif selection.strategy is not Strategy.MLL or all(model.figures is Figures.LABEL for model in models):
        columns[STRATEGIES[selection.strategy].column] = [f"{selection.overall[m]:.3f}" for m in shown]
    columns["parameters"] = [f"{model.cost.parameters / 1e6:.1f} M" for model in models]
    columns["GFLOPs"] = [gigaflops(model.cost.gflops) for model in models]
    if any(model.license for model in selection.models):
        columns["license"] = [model.license or "unknown" for model in models]
    more = len(selection.models) - len(shown)
    rows = table(list(columns), list(zip(*columns.values(), strict=True)))
    return rows + (f"\n... and {more} more; --json has all" if more else "")


def _size(cost: Cost) -> str:
    return f"{cost.parameters / 1e6:.1f} M parameters, {gigaflops(cost.gflops)} GFLOPs per image"


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


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
    tested = np.flatnonzero((label.support > 0) & (graph.rival_counts > 0))  # without rivals it is always recognized
    ranked = _ends(tested[np.argsort(-label.node_precision[tested], kind="stable")].tolist())
    concepts = [[graph.concepts[v].name, f"{label.node_precision[v]:.3f}", str(label.support[v])] for v in ranked]
    parts = [table(["", ""], facts).lstrip("\n")]
    parts.append("Recognizes best and worst\n" + table(["concept", "recall", "images"], concepts))
    return "\n\n".join(parts)


def _ends(ranked: list[T]) -> list[T]:
    """The first and last of a ranking, or all of a short one."""
    short = len(ranked) <= 2 * _ENDS_SHOWN
    return ranked if short else [*ranked[:_ENDS_SHOWN], *ranked[-_ENDS_SHOWN:]]


# --- verifications ----------------------------------------------------------------------------------------------------


def verification_report(verification: Verification, graph: SemanticGraph) -> str:
    """Whether a label agrees with a new measurement, with what confidence, and the largest differences."""
    (lower, upper), (claimed, measured), counts = verification.interval, verification.recalls, verification.counts
    worst = [at for at in np.argsort(-counts[:, 2], kind="stable")[:_ENDS_SHOWN] if counts[at, 2]]
    rows = [[graph.concepts[verification.concepts[at]].name, *map(str, counts[at].tolist())] for at in worst]
    meaning = {
        "agrees": "the label agrees with the new measurement",
        "disagrees": "the label DISAGREES with the new measurement; do not rely on it",
        "undecided": "the sample is too small to tell; try again with more --concepts",
    }[verification.verdict]
    parts = [
        f"{verification.model.repo_id}@{verification.model.revision[:12]}: {meaning}.",
        f"{verification.agreeing} of {len(counts)} sampled concepts agree (seed {verification.seed}), so between "
        f"{lower:.1%} and {upper:.1%} of all do (95 % confidence). Mean recall of the sample: "
        f"{claimed:.3f} claimed, {measured:.3f} measured.",
    ]
    if rows:
        header = ["concept", "claimed", "measured", "rank changed", "images"]
        parts.append("Largest differences\n" + table(header, rows))
    return "\n\n".join(parts)
