"""Labels and selections as text that a person can act on. Pure functions from values to strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection import Selection, Strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.graph import SemanticGraph
    from mll_hf.labels import ModelLabel
    from mll_hf.selection import MatchedConcept, SelectedModel

_MODELS_SHOWN = 10
_CLASSES_SHOWN = 25
_EXTREMES_SHOWN = 8
_FEWEST_IMAGES = 10


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under a header; a column of numbers is aligned to the right.

    What no terminal should be sent (names come from labels and graphs of others) is shown as a question mark.
    """
    header, *rows = ([_printable(cell) for cell in row] for row in (header, *rows))
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
    """Which models, how good, at what cost, which concepts decided and how sure it is."""
    return "\n\n".join([_headline(selection), _model_table(selection), _class_table(selection), _legend(selection)])


def _headline(selection: Selection) -> str:
    k, many = selection.k, len(selection.union)
    per_class = "" if selection.strategy is Strategy.UNIFORM else f", k = {k}"
    return (
        f"{len(selection.classes)} classes, {len(selection.models)} labelled models, strategy "
        f"{selection.strategy}{per_class}: {many} {'model' if many == 1 else 'models'} chosen (marked *)"
    )


def _model_table(selection: Selection) -> str:
    shown = sorted({*range(min(_MODELS_SHOWN, len(selection.models))), *selection.union})
    rows = [
        [
            "*" if m in selection.union else "",
            _name(selection.models[m]),
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


def _class_table(selection: Selection) -> str:
    rows = []
    for y, name in enumerate(selection.classes[:_CLASSES_SHOWN]):
        models = sorted(np.flatnonzero(selection.chosen[:, y]).tolist(), key=lambda m: -selection.scores[m, y])
        names = [_name(selection.models[m]) for m in models]
        rows.append(
            [
                _shorten(name, 32),
                _score_with_error(selection, models[0], y),
                f"{selection.coverage[y]:.2f}",
                _concepts(selection.matches[y]),
                ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
            ]
        )
    concepts = "concepts that decided" if selection.strategy in (Strategy.MLL, Strategy.PAPER) else "nearest concepts"
    header = ["class", _score_name(selection), "coverage", concepts, "models"]
    more = len(selection.classes) - len(rows)
    return table(header, rows) + (f"\n... and {more} more; --json has all" if more else "")


def _legend(selection: Selection) -> str:
    cost = selection.cost
    scores = {
        Strategy.MLL: "precision: expected share of a class's images that a model gets right among your classes",
        Strategy.PAPER: "score r: the paper's reuse metric, which is no probability",
        Strategy.GENERAL: "precision: mean over all concepts of the graph, the same for every class",
        Strategy.UNIFORM: "share: the same for all; no model is preferred",
    }[selection.strategy]
    return (
        f"{scores}; general: share of all probe images recognised among all concepts; "
        "coverage: 1 if the graph has the class, 0 if nothing like it.\n"
        f"Together: {cost.parameters / 1e6:.1f} M parameters, {cost.gflops:.3g} GFLOPs per image."
    )


def _score_name(selection: Selection) -> str:
    return {Strategy.PAPER: "score r", Strategy.UNIFORM: "share"}.get(selection.strategy, "precision")


def _score_with_error(selection: Selection, m: int, y: int) -> str:
    """The score of a model on a class; where it is the class's own precision, with its standard error."""
    score, images = float(selection.scores[m, y]), float(selection.images[y])
    if selection.strategy is not Strategy.MLL or images == 0:
        return f"{score:.3f}"
    return f"{score:.2f} ± {np.sqrt(score * (1 - score) / images):.2f}"


def _concepts(matches: tuple[MatchedConcept, ...]) -> str:
    best = [concept for concept in matches[:3] if concept.weight >= 0.05 * matches[0].weight]
    return ", ".join(f"{concept.name} {concept.weight:.2f}" for concept in best)


def _name(model: SelectedModel) -> str:
    """The id on the Hub; of a local folder its name."""
    return model.ref.short_name if model.ref.is_local else model.ref.repo_id


def label_report(label: ModelLabel, graph: SemanticGraph) -> str:
    """What one label says."""
    facts = [
        ["model", label.model.repo_id],
        ["revision", label.model.revision],
        ["backend", label.model.backend],
        ["size", f"{label.cost.parameters / 1e6:.1f} M parameters, {label.cost.gflops:.3g} GFLOPs per image"],
        ["graph", f"{label.graph_name} ({label.graph_digest[:12]}), {int((label.support > 0).sum())} concepts tested"],
        ["images", f"{label.probes_name} ({label.probes_revision[:12]}), {int(label.support.sum())} tests"],
        ["precision", f"{label.mean_precision:.3f} on average"],
        ["temperature", f"{float(label.temperature[0]):.2f}"],
    ]
    domains = [
        [name, f"{hits.sum() / max(int(support.sum()), 1):.3f}", str(int(support.sum()))]
        for name, hits, support in zip(label.domain_names, label.domain_hits, label.domain_support, strict=True)
    ]
    has_rivals = np.array([len(graph.relatives(v)) + 1 < len(graph) for v in range(len(graph))])
    enough = label.support >= min(_FEWEST_IMAGES, int(label.support.max()))
    tested = np.flatnonzero(has_rivals & enough)  # without rivals there is nothing to recognise
    ranked = tested[np.argsort(-label.node_precision[tested], kind="stable")]
    parts = [
        table(["", ""], facts).lstrip("\n"),
        "By domain\n" + table(["domain", "share recognised", "tests"], domains),
        "Recognises best\n" + _concept_table(label, graph, ranked[:_EXTREMES_SHOWN]),
        "Recognises worst\n" + _concept_table(label, graph, ranked[: -_EXTREMES_SHOWN - 1 : -1]),
    ]
    return "\n\n".join(parts)


def _concept_table(label: ModelLabel, graph: SemanticGraph, concepts: Sequence[int] | np.ndarray) -> str:
    rows = [
        [
            graph.concepts[v].name,
            f"{label.node_precision[v]:.2f}",
            str(label.support[v]),
            _shorten(graph.concepts[v].definition, 60),
        ]
        for v in concepts
    ]
    return table(["concept", "precision", "images", "meaning"], rows)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
