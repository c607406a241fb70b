"""Texts of the page as HTML. Pure functions; untrusted texts (visitors, model cards, graphs, labels) are escaped."""

from __future__ import annotations

import base64
import json
from collections import Counter
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import numpy as np
from answers import describe_coverage
from huggingface_hub import constants

from mll_hf.cli.report import label_difference
from mll_hf.hub.locations import REPO_ID
from mll_hf.labels.branches import branch_pairs, branch_recalls, largest_branches
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.matching.concept_index import COVERED
from mll_hf.plots.selection import CLOSE, shown_classes, shown_models
from mll_hf.selection import Figures, Strategy
from mll_hf.utils.text import abridged, gigaflops, parameter_count, shortened

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from answers import Labels, ListedModel, Trial

    from mll_hf import Selection
    from mll_hf.graph.concepts import Concept, SemanticGraph
    from mll_hf.labels.join import LeftOut
    from mll_hf.labels.label import Label, ModelRef
    from mll_hf.selection import Estimate

_MODELS_SHOWN = 10
_ROWS_SHOWN = 100
_ENDS_SHOWN = 6
_SIGNIFICANT = 1.96  # standard errors


# --- parts ------------------------------------------------------------------------------------------------------------


def wrap(*parts: str) -> str:
    """Parts of the page as one block."""
    return f'<div class="mll">{"".join(parts)}</div>'


def alert(error: Exception | str) -> str:
    """An error in one line, announced by screen readers."""
    text = " ".join(str(error).split()).rstrip(".")
    if text.split(" ")[0].isalpha():  # not an id or a path
        text = text[:1].upper() + text[1:]
    return wrap(f'<p class="mll-alert" role="alert">{escape(text)}.</p>')


def empty(text: str) -> str:
    """A placeholder."""
    return wrap(f'<p class="mll-empty">{escape(text)}</p>')


def _note(text: str) -> str:
    return f'<p class="mll-note" role="note">{text}</p>'


def _quiet(text: str) -> str:
    return f'<p class="quiet">{text}</p>' if text else ""


def _table(
    caption: str, header: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], chosen: Collection[int] = ()
) -> str:
    """A table whose cells are HTML.

    Args:
        caption: Its caption.
        header: Name and class of each column: ``number``, ``wide`` (hidden on a phone), both or none.
        rows: The cells; the first of a row is its header.
        chosen: Rows to highlight.
    """
    head = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in header)
    body = "".join(
        f'<tr class="{"chosen" if at in chosen else ""}"><th scope="row" class="{header[0][1]}">{cells[0]}</th>'
        + "".join(f'<td class="{kind}">{cell}</td>' for cell, (_, kind) in zip(cells[1:], header[1:], strict=True))
        + "</tr>"
        for at, cells in enumerate(rows)
    )
    tall = " tall" if len(rows) > 15 else ""
    return (
        f'<div class="mll-scroll{tall}" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _bar(share: float) -> str:
    """A share as a bar, for the number beside it."""
    return f'<span class="mll-bar" aria-hidden="true"><i style="width:{100 * min(max(share, 0), 1):.0f}%"></i></span>'


def _bar_and_percent(share: float) -> str:
    """A bar and a number; the bars of a column align for any number of digits."""
    return f'{_bar(share)}<span class="mll-figure">{_percent(share)}</span>'


def model_html(ref: ModelRef, name: str | None = None) -> str:
    """Name of a model, with a link to its page if it is on the Hub."""
    shown = escape(name or (ref.short_name if ref.is_local else ref.repo_id))
    if ref.is_local or not REPO_ID.fullmatch(ref.repo_id):
        return shown
    return f'<a href="{escape(constants.ENDPOINT)}/{ref.repo_id}" target="_blank" rel="noopener noreferrer">{shown}</a>'


def _address(**parameters: str) -> str:
    """URL of a page of this Space."""
    return f"?{escape(urlencode(parameters))}"


def _concept_name(concept: Concept, more: str = "") -> str:
    """Name of a concept, which expands to its definition."""
    link = f'<a href="{_address(concept=concept.id)}" target="_blank">its page</a>'
    definition = f"{escape(concept.definition + more)}, {link}"
    return f'<details class="mll-term"><summary>{escape(concept.name)}</summary><p>{definition}</p></details>'


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _not_shown(count: int, one: str, many: str) -> str:
    return f" {_counted(count, f'more {one} is', f'more {many} are')} not shown." if count else ""


# --- heading ---------------------------------------------------------------------------------------------

_MARK = (
    '<svg viewBox="0 0 48 48" fill="none" stroke="currentColor" stroke-width="3" aria-hidden="true">'
    '<path d="M24 13 12 33M24 13l12 20M12 33h24" opacity=".45"/><circle cx="24" cy="12" r="6" fill="currentColor"/>'
    '<circle cx="11" cy="35" r="6"/><circle cx="37" cy="35" r="6"/></svg>'
)
HEAD = wrap(
    f'<div class="mll-brand">{_MARK}<div><h1>Which vision model knows your classes?</h1>'
    "<p>Hundreds of open models can sort images into classes that you only have to <em>name</em>: CLIP, SigLIP and "
    "their relatives. No model is best at everything. Type your classes to see which models know them, try the models "
    "on your images, and copy the code.</p>"
    '<p class="quiet">How well each model recognizes everyday concepts has already been measured or published. Your '
    "classes are matched to these concepts, so no model has to run to answer you.</p></div></div>"
)
FIND_HEAD = wrap("<h2>Find models for your classes</h2>")
FIND_EMPTY = empty("Your ranking will appear here: enter some classes and press “Find models”, or choose an example.")
TRY_HEAD = wrap(
    "<h2>Try them on your images</h2><p>With 16 images or more, several models are run on them, and their predictions "
    "show which is best for you; no image needs a label. With fewer images, the models found for you classify them. "
    "Uploads are deleted within two hours.</p>"
)
TRY_EMPTY = empty("The answer will appear here.")
EXPLORE_HEAD = wrap("<h2>All models</h2><p>Sort by any column. Each name links to the page of the model.</p>")
MODEL_HEAD = wrap("<h2>What does a model know?</h2>")
TILES_HEAD = wrap(
    "<p>Each tile is a concept, from general to specific. The darker a tile, the more of its images the model "
    "recognized among all other concepts. Click a tile to zoom in, and the bar at the top to go back.</p>"
    '<p class="mll-key"><span>0 %</span><i aria-hidden="true"></i><span>100 % recognized</span></p>'
)
CONCEPT_HEAD = wrap("<h2>Which models know a concept best?</h2>")
CONCEPT_EMPTY = empty("Enter a concept, for example umbrella, to see which models recognize it.")


# --- find -------------------------------------------------------------------------------------------------------------


def answer_html(selection: Selection) -> str:
    """The answer in sentences, and warnings."""
    return wrap(_sentence(selection), *_warnings(selection))


def ranking_html(selection: Selection, licenses: Sequence[str] = (), left_out: int = 0) -> str:
    """The ranking.

    Args:
        selection: The answer.
        licenses: Licenses that the chosen models may have; empty for any.
        left_out: Number of models whose labels are not used.
    """
    ignored = f"{_counted(left_out, 'measured model is', 'measured models are')} not ranked; see “Explore” for reasons."
    return wrap(
        _ranking(selection),
        _quiet(ignored if left_out else ""),
        _license_note(selection, licenses),
    )


def _sentence(selection: Selection) -> str:
    chosen = [selection.models[m] for m in selection.chosen_models]
    names = [f"<strong>{model_html(model.ref)}</strong>" for model in chosen]
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    cost, together = selection.cost, " together" if len(chosen) > 1 else ""
    size = f"{parameter_count(cost.parameters)} parameters, {gigaflops(cost.gflops)} GFLOPs per image{together}"
    accuracy = selection.answer_lines[0].split(": ", 1)[1] if selection.answer else ""
    lines = [f"The first alone: {accuracy}" if together else accuracy[:1].upper() + accuracy[1:]]
    details = "".join(f"<p>{escape(line)}</p>" for line in (*lines, *selection.answer_lines[1:]))
    return f'<p class="mll-answer">Use {listed}. <span class="mll-weak">({size})</span></p>{details}'


def _warnings(selection: Selection) -> list[str]:
    if selection.strategy is Strategy.IMAGENET:
        return [
            _note(
                "The text encoder is missing. This ranking uses published ImageNet accuracies, regardless of your "
                "classes."
            )
        ]
    uncovered = [name for name, cover in zip(selection.classes, selection.coverage, strict=True) if cover < COVERED]
    if not uncovered:
        return []
    names = escape(abridged([shortened(name, 40) for name in uncovered], 5))
    which = "any of your classes" if len(uncovered) == len(selection.classes) else names
    return [
        _note(
            f"The test images have nothing close enough to {which}. For {'it' if len(uncovered) == 1 else 'these'} the "
            "models’ general level is used, so do not rely on the order. A few dozen of your own images, without "
            "labels, are a much better guide: upload them under “Try”."
        )
    ]


def _ranking(selection: Selection) -> str:
    labeled, estimates = selection.strategy is not Strategy.IMAGENET, selection.estimate
    kinds = Counter(model.figures for model in selection.models)
    several = labeled and set(kinds) != {Figures.LABEL}
    shown = shown_models(selection, _MODELS_SHOWN)
    scored = [m for m in shown if has_recall(selection, m) or not labeled]
    header = [
        ("#", "number"),
        ("model", ""),
        *([] if estimates is None else [("estimated accuracy", "number")]),
        *([("recall on your concepts" if labeled else "ImageNet accuracy", "number")] if scored else []),
        *([("based on", "wide")] if several else []),
        ("parameters", "number"),
        ("GFLOPs / image", "number wide"),
        ("license", "wide"),
    ]
    rows = [
        [
            str(m + 1),
            model_html(model.ref) + (' <span class="mll-badge">chosen</span>' if m in selection.chosen_models else ""),
            *([] if estimates is None else [_estimate(estimates, m)]),
            *([_bar_and_percent(selection.overall[m]) if m in scored else "–"] if scored else []),
            *([escape(BASED_ON[model.figures])] if several else []),
            parameter_count(model.cost.parameters),
            gigaflops(model.cost.gflops),
            escape(model.license or "unknown"),
        ]
        for m, model in ((m, selection.models[m]) for m in shown)
    ]
    legend = (
        "<strong>Estimated accuracy</strong>: share of your images that the model should classify correctly, with its "
        "90 % interval; not known if this is wider than 50 points, or no class has a match. "
    )
    if labeled and scored:
        legend += (
            "<strong>Recall on your concepts</strong>: the same for the test images of the matched concepts; yours may "
            "be harder."
        )
    if several:
        legend += " <strong>Based on</strong>: " + ", ".join(
            f"{BASED_ON[kind]} ({_counted(kinds[kind], 'model', 'models')})" for kind in Figures if kinds[kind]
        )
        legend += ". Labels were measured on many concepts; the other figures were published."
    more = _not_shown((selection.among or len(selection.models)) - len(shown), "model", "models")
    chosen = [at for at, m in enumerate(shown) if m in selection.chosen_models]
    return _table("Ranking", header, rows, chosen) + _quiet(legend + more)


BASED_ON = {
    Figures.LABEL: "label",
    Figures.PER_CLASS: "recall on ImageNet’s classes",
    Figures.OVERALL: "ImageNet accuracy",
}


def has_recall(selection: Selection, m: int) -> bool:
    """Whether a model has figures per class, rather than one for all classes."""
    return selection.models[m].figures is not Figures.OVERALL


def _estimate(estimate: Estimate, m: int) -> str:
    return escape(estimate.text(m))


def _license_note(selection: Selection, licenses: Sequence[str]) -> str:
    if licenses:
        return _quiet(
            f"The chosen models name one of these licenses: {escape(', '.join(licenses))}. Other listed models may "
            "have any license: read their pages."
        )
    if all(selection.models[m].ref.is_local for m in selection.chosen_models):
        return ""
    return _quiet(
        "These models may have any license: read each model’s page before you use it, or choose licenses under "
        "“Number of models and limits”."
    )


def heatmap_head(selection: Selection, height: int) -> str:
    """Heading of the heat map of models with recall; reserves its height, so that the layout does not shift."""
    shown, total = len(shown_classes(selection)), len(selection.classes)
    part = f" Of {total:,} such classes, the {shown} on which these models differ most." if shown < total else ""
    return wrap(
        f"<style>#mll-heat {{ min-height: {int(height)}px; }}</style>",
        "<h3>How good is each model on each class?</h3>",
        _quiet(f"Recall on the concepts of each class that has some, in percent; chosen models are in bold.{part}"),
    )


def matches_html(selection: Selection, labels: Labels) -> str:
    """The concepts of each class, its coverage, and the recall of the best chosen model."""
    header = [("your class", ""), ("matched to", ""), ("match", ""), ("recall", "number")]
    rows = []
    for y in range(min(len(selection.classes), _ROWS_SHOWN)):
        best = max(np.flatnonzero(selection.chosen[:, y]).tolist(), key=lambda m: selection.scores[m, y])
        coverage = float(selection.coverage[y])
        rows.append(
            [
                escape(shortened(selection.classes[y], 60)),
                _concepts(selection, labels, y, best),
                f"{_bar(coverage)}{describe_coverage(coverage)} <span class='wide'>({_percent(coverage)})</span>",
                _recall(selection, best, y),
            ]
        )
    return wrap(
        "<h3>Which concepts match your classes?</h3>",
        _quiet(
            "The concepts whose test images are used for each class, with their weight. <strong>Match</strong>: the "
            f"probability that the tests cover this class; it counts as covered from {_percent(COVERED)} on. "
            "<strong>Recall</strong>: of the best chosen model on these test images, with its standard error."
            + _not_shown(len(selection.classes) - len(rows), "class", "classes")
        ),
        _table("Matches", header, rows),
    )


def _concepts(selection: Selection, labels: Labels, y: int, m: int) -> str:
    """The concepts of a class, with their definitions and the recall of a model."""
    if selection.coverage[y] < CLOSE:
        return '<span class="mll-weak">nothing close</span>'
    matches, position = selection.matches[y], selection.chosen_models.index(m)
    shown = []
    for match in matches[:3]:
        if match.weight >= 0.05 * matches[0].weight:
            recall = match.recall[position]
            more = f" ({'not measured' if recall is None else f'recall {_percent(recall)}'})"
            name = _concept_name(labels.concept(match.id), more)
            shown.append(f'{name} <span class="mll-weak">{_percent(match.weight)}</span>')
    return "<br>".join(shown)


def _recall(selection: Selection, m: int, y: int) -> str:
    score, images = float(selection.scores[m, y]), float(selection.images[y])
    if images == 0 or selection.coverage[y] < CLOSE or not has_recall(selection, m):
        return "–"
    error = np.sqrt(max(score * (1 - score), 0) / images)
    return f'{100 * score:.0f}<span class="wide"> ± {max(100 * error, 1):.0f}</span>\u00a0%'


def heatmap_table(selection: Selection) -> str:
    """The heat map as a collapsed table."""
    models = shown_models(selection, 8)
    header = [("class", ""), *((escape(selection.models[m].ref.short_name), "number") for m in models)]
    rows = [
        [escape(shortened(selection.classes[y], 60)), *(_percent(selection.scores[m, y]) for m in models)]
        for y in shown_classes(selection)
    ]
    return _folded(_table("Recall by class and model", header, rows))


def costs_table(selection: Selection) -> str:
    """The figure of costs as a collapsed table."""
    estimates = selection.estimate
    order = sorted(range(len(selection.models)), key=lambda m: selection.models[m].cost.gflops)
    rows = [
        [model_html(model.ref), gigaflops(model.cost.gflops), _estimate(estimates, m) if estimates else "–"]
        for m, model in ((m, selection.models[m]) for m in order)
    ]
    header = [("model", ""), ("GFLOPs / image", "number"), ("estimated accuracy", "number")]
    return _folded(_table("Accuracy and cost, cheapest model first", header, rows))


def _folded(table: str) -> str:
    return wrap(f"<details><summary>The same as a table</summary>{table}</details>")


COST_HEAD = wrap(
    "<h3>What does accuracy cost?</h3>",
    _quiet("Models on the dotted line are the best at their cost or less; further left is cheaper to run."),
)
CODE_HEAD = wrap(
    "<h3>Take it with you</h3>",
    "<p>The same answer on your machine, in Python or on the command line. Install first: "
    "<code>pip install '.[models,offline]'</code> in a clone of the project.</p>",
)


# --- try --------------------------------------------------------------------------------------------------------------


def chosen_html(selection: Selection) -> str:
    """The models and classes of a trial."""
    names = ", ".join(model_html(selection.models[m].ref) for m in selection.chosen_models)
    classes = escape(abridged([shortened(name, 40) for name in selection.classes], 8))
    return wrap(f"<p><strong>Models:</strong> {names}<br><strong>Classes:</strong> {classes}</p>")


FIND_FIRST = empty("First find models for your classes under “Find”. They are then ready here.")


def trial_html(trial: Trial, names: Sequence[str]) -> str:
    """The predictions of the models, a row for each image."""
    rows = []
    for n, name in enumerate(names):
        shown = escape(shortened(name, 60))
        if np.isnan(trial.probabilities[n]).any():
            rows.append([shown, '<span class="mll-weak">not readable; use PNG, JPEG or WebP</span>', "", ""])
            continue
        y = int(trial.probabilities[n].argmax())
        agreeing = int((trial.votes[:, n].argmax(axis=1) == y).sum())
        cells = [shown, escape(shortened(trial.selection.classes[y], 60)), _bar_and_percent(trial.probabilities[n, y])]
        rows.append([*cells, f"{agreeing} of {len(trial.votes)}"])
    header = [("image", ""), ("class", ""), ("probability", "number"), ("models that agree", "number")]
    return wrap(_table("Predictions", header, rows))


def trial_ranking_html(before: Selection, after: Selection, n_images: int) -> str:
    """The rankings before and after a trial."""
    ranks = {model.name: m for m, model in enumerate(before.models)}
    tried = [model.name for model in after.models]
    rest = [model.name for model in before.models if model.name not in tried][: max(_MODELS_SHOWN - len(tried), 0)]
    rows = []
    for at, name in enumerate([*tried, *rest]):
        m = ranks[name]
        model, is_tried = before.models[m], name in tried
        badge = ' <span class="mll-badge">chosen</span>' if is_tried and at in after.chosen_models else ""
        rows.append(
            [
                str(at + 1) if is_tried else "–",
                model_html(model.ref) + badge,
                _estimate(after.estimate, at) if is_tried and after.estimate else "not tried",
                str(m + 1),
                _estimate(before.estimate, m) if before.estimate else "–",
                parameter_count(model.cost.parameters),
            ]
        )
    header = [
        ("after", "number"), ("model", ""), ("estimated accuracy", "number"), ("before", "number"),
        ("estimated accuracy before", "number"), ("parameters", "number wide"),
    ]  # fmt: skip
    readable = after.calibration.n_images if after.calibration else n_images
    skipped = f" {_counted(n_images - readable, 'image', 'images')} could not be read." if readable < n_images else ""
    return wrap(
        _table("Ranking before and after the trial", header, rows, list(after.chosen_models)),
        _quiet(
            f"{_counted(len(tried), 'model', 'models')} tried on {_counted(readable, 'image', 'images')}.{skipped} "
            "Estimated accuracies with their 90 % intervals. The trial stops when no other model is likely to be "
            "better, or when this page’s limit is reached; the command line has no such limit: "
            "<code>mll-hf select --images FOLDER</code>."
        ),
    )


def download_html(selection: Selection) -> str:
    """A link that saves a selection as a file; nothing is stored on the server."""
    content = base64.b64encode(json.dumps(selection.to_json()).encode()).decode()
    return wrap(
        "<h3>Download the selection</h3>",
        f'<p><a class="mll-button" download="selection.json" href="data:application/json;base64,{content}">Download '
        "selection.json</a></p>",
        "<p>It contains the chosen models with their commits, weights and prompts. Use it on your machine:</p>",
        "<pre><code>mll-hf predict --selection selection.json photo.jpg</code></pre>",
    )


def pushed_html(url: str) -> str:
    """The URL of a published selection."""
    return wrap(f'<p>Published: <a href="{escape(url)}" target="_blank" rel="noopener">{escape(url)}</a></p>')


def classified(trial: Trial) -> str:
    """The predictions in a sentence."""
    readable = ~np.isnan(trial.probabilities).any(axis=1)
    models = abridged([model_html(trial.selection.models[m].ref) for m in trial.selection.chosen_models], 3)
    small = "" if trial.is_first_choice else " The models found for you are too large for this page."
    return f"{_counted(int(readable.sum()), 'image', 'images')} classified by {models}.{small}"


# --- explore ----------------------------------------------------------------------------------------------------------


COLUMNS = ("model", "recall, %", "ImageNet, %", "parameters, M", "GFLOPs", "license", "kind", "based on")


def leaderboard(models: Sequence[ListedModel], recalls: Mapping[str, float]) -> list[list[str | float | None]]:
    """Rows of models for :data:`COLUMNS`, by decreasing recall, those without recall by their ImageNet accuracy.

    Args:
        models: The models.
        recalls: Recall by name, for models that have one.
    """
    order = sorted(models, key=lambda model: (-recalls.get(model.name, -1), -(model.imagenet or 0), model.name))
    return [
        [
            f"[{_markdown(model.name)}](?{urlencode({'model': model.name})})",
            round(100 * recalls[model.name], 1) if model.name in recalls else None,
            None if model.imagenet is None else round(100 * model.imagenet, 1),
            round(model.cost.parameters / 1e6, 1) or None,
            round(model.cost.gflops, 2) or None,
            model.license or "unknown",
            model.family,
            BASED_ON[model.figures],
        ]
        for model in order
    ]


def _markdown(text: str) -> str:
    return "".join(c if c.isalnum() or c in " ./@-" else f"&#{ord(c)};" for c in text)


def listed_html(shown: int, labels: Labels, where: str) -> str:
    """A summary of the leaderboard."""
    text = f"{shown:,} of {_counted(len(labels.models), 'model', 'models')}; recall on {escape(where)}."
    return wrap(f"<p>{text}</p>")


def boards_html(labels: Labels) -> str:
    """The measured graphs, and the labels that are left out."""
    counts = [sum(model.labels[b] is not None for model in labels.models) for b in range(len(labels.boards))]
    boards = "; ".join(
        f"{escape(board.name)}: {_counted(count, 'model', 'models')} on {len(board.graph):,} concepts"
        for board, count in zip(labels.boards, counts, strict=True)
    )
    return wrap(
        _quiet(
            f"<strong>Recall</strong>: mean share of a concept’s images that the model recognizes among all concepts "
            f"({boards}). <strong>ImageNet</strong>: published zero-shot accuracy. <strong>License</strong>: from the "
            "label or the publisher; read the model’s page before you use it."
        ),
        _left_out(labels.left_out),
    )


def model_page(model: ListedModel, labels: Labels) -> str:
    """All facts about a model."""
    facts = [
        ["license", escape(model.license or "unknown")],
        ["parameters", parameter_count(model.cost.parameters) if model.cost.parameters else "unknown"],
        ["GFLOPs per image", gigaflops(model.cost.gflops) if model.cost.gflops else "unknown"],
        ["ImageNet accuracy, published", "unknown" if model.imagenet is None else f"{100 * model.imagenet:.1f} %"],
        ["based on", escape(f"{BASED_ON[model.figures]} ({model.publisher})")],
    ]
    for board, label in zip(labels.boards, model.labels, strict=True):
        if label is not None:
            facts.append([f"mean recall on {escape(board.name)}", _bar_and_percent(label.mean_recall)])
    lacking = (
        "" if any(model.labels) else _note("Only its overall accuracy is known. A label would show what it recognizes.")
    )
    return wrap(
        f"<h3>{model_html(model.ref, model.name)}</h3>",
        lacking,
        _table(f"About {model.name}", [("fact", ""), ("value", "")], facts),
        _permalink(model=model.name),
    )


def _permalink(**parameters: str) -> str:
    address = _address(**parameters)
    return _quiet(f'Permanent link to this page: <a href="{address}">{address}</a>')


def strengths_html(label: Label) -> str:
    """Mean recall of a model."""
    return wrap(
        f"<p>It recognizes <strong>{_percent(label.mean_recall)}</strong> of a concept’s "
        f"images on average, over {_counted(label.n_tested, 'concept', 'concepts')}.</p>"
    )


def branches_html(label: Label, graph: SemanticGraph) -> str:
    """The largest branches as a collapsed table; then the strongest and weakest branches, if any."""
    tiles = [
        [escape(branch.name), _percent(branch.recall), f"{branch.concepts:,}"]
        for branch in largest_branches(label, graph, _ROWS_SHOWN)
    ]
    header = [("branch", ""), ("recall", "number"), ("concepts", "number")]
    table = _folded(_table("Recall by branch, largest first", header, tiles))
    branches = branch_recalls(label, graph)
    ends = branches if len(branches) <= 2 * _ENDS_SHOWN else [*branches[:_ENDS_SHOWN], *branches[-_ENDS_SHOWN:]]
    rows = [
        [escape(b.name), _bar_and_percent(b.recall), str(b.concepts), escape(shortened(b.definition, 80))] for b in ends
    ]
    columns = [*header, ("meaning", "wide")]
    return table + (wrap(_table("Strongest and weakest branches", columns, rows)) if rows else "")


def comparison_html(pair: Sequence[ListedModel], labels: Sequence[Label], graph: SemanticGraph) -> tuple[str, str]:
    """Two models side by side: a text, and a table of the concepts with the most significant differences.

    Raises:
        InputError: They were not measured on the same images.
    """
    difference = label_difference(*labels, graph)
    one, other = (escape(model.name) for model in pair)
    significant = np.abs(difference.z) > _SIGNIFICANT
    wins = [int((significant & (sign * difference.gain > 0)).sum()) for sign in (1, -1)]
    order = np.argsort(-difference.z, kind="stable")
    ends = [*order[difference.gain[order] > 0][:_ENDS_SHOWN], *order[difference.gain[order] < 0][-_ENDS_SHOWN:]]
    rows = [
        [
            _concept_name(graph.concepts[v]),
            *(_percent(label.node_precision[v]) for label in labels),
            f"{100 * gain:+.0f}",
        ]
        for v, gain in zip(difference.concepts[ends], difference.gain[ends], strict=True)
    ]
    header = [("concept", ""), (one, "number"), (other, "number"), ("difference", "number")]
    text = wrap(
        f"<h3>{one} compared with {other}</h3>",
        f"<p>{one} recognizes {_percent(labels[0].mean_recall)} of a concept’s images on average, {other} "
        f"{_percent(labels[1].mean_recall)}. {one} is significantly better on "
        f"{_counted(wins[0], 'concept', 'concepts')}, {other} on {wins[1]:,}.</p>",
        _quiet(
            "By branch: bars point right if the first model is ahead, left if the second is."
            if branch_pairs(*labels, graph)
            else "The graph is too small to compare branches."
        ),
    )
    pairs = branch_pairs(*labels, graph)
    by_branch = [[escape(a.name), _percent(a.recall), _percent(b.recall), str(a.concepts)] for a, b in pairs]
    columns = [("branch", ""), (one, "number"), (other, "number"), ("concepts", "number")]
    tables = _folded(_table("Recall by branch", columns, by_branch)) if pairs else ""
    if rows:
        tables += wrap(_table("Concepts with the most significant differences", header, rows))
    return text, tables


def concept_html(labels: Labels, ids: Sequence[str], named: bool, asked: str) -> str:
    """Concepts, and the models with the highest recall on each, for every board that has the concept."""
    parts = []
    if not named:
        parts.append(_note(f"The tests have no concept named “{escape(shortened(asked, 60))}”. The nearest ones:"))
    for id in ids:
        concept = labels.concept(id)
        parts.append(f"<h3>{escape(concept.name)}</h3><p>{escape(concept.definition)}</p>")
        parts.append(_neighbors(labels, concept))
        tables = []
        for b, board in enumerate(labels.boards):
            row = board.graph.index.get(id, -1)
            if row < 0 or not (best := labels.best_at(row, b)[:_MODELS_SHOWN]):
                continue
            parts += [_picture(content, concept.name) for content in labels.sample_images(row, b)]
            rows = [
                [
                    f'<a href="{_address(model=model.name)}">{escape(model.name)}</a>',
                    _bar_and_percent(label.node_precision[row]),
                    f"{label.hits[row]} of {label.support[row]}",
                ]
                for model, label in best
            ]
            on = f" on {board.name}" if len(labels.boards) > 1 else ""
            header = [("model", ""), ("recall", "number"), ("images", "number")]
            tables.append(_table(f"Best at {concept.name}{on}", header, rows))
        parts += tables or [_quiet("No images test this concept itself.")]
        parts.append(_permalink(concept=id))
    return wrap(*parts)


def _neighbors(labels: Labels, concept: Concept) -> str:
    """Links to more general and more specific concepts."""
    graph = next(board.graph for board in labels.boards if concept.id in board.graph.index)
    specific = [other.id for other in graph.concepts if concept.id in other.hypernyms]
    lines = []
    for name, ids in (("More general", concept.hypernyms), ("More specific", specific)):
        shown = [labels.concept(id) for id in ids if id in graph.index][:_MODELS_SHOWN]
        links = [f'<a href="{_address(concept=one.id)}">{escape(one.name)}</a>' for one in shown]
        if links:
            lines.append(f"{name}: {', '.join(links)}.")
    return _quiet(" ".join(lines))


def _picture(content: bytes, name: str) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "webp" if content[8:12] == b"WEBP" else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return f'<img class="mll-sample" src="{source}" alt="a test image of {escape(name)}" height="96">'


def _left_out(left_out: Sequence[LeftOut]) -> str:
    """Labels that are not in the rankings, with the reason; collapsed."""
    if not left_out:
        return ""
    items = []
    for one in left_out:
        names = [id.rsplit("/", 1)[-1] if id.startswith(LOCAL_PREFIX) else id for id in one.models]
        items.append(f"<li>{escape(f'{abridged(names, 5)} on {one.graph_name}: {one.reason}')}</li>")
    return f"<details><summary>Labels that are left out</summary><ul>{''.join(items)}</ul></details>"


PUSH_HEAD = wrap("<h4>Or publish it in your own small repo</h4>")
HOW_TO_PUSH = wrap(
    "<p>Or publish it in your own small repo, from which anyone can load it by name:</p>"
    "<pre><code>mll-hf push --selection selection.json --to YOUR-NAME/my-selection</code></pre>"
)
HOW_TO_LABEL = wrap(
    "<h3>Can these results be trusted?</h3>"
    "<p>A label is a claim of its publisher. Labels are checked for consistency when they are read, but nothing "
    "records whether anyone else has measured the model again. This command measures a random sample of concepts "
    "again and compares.</p>"
    "<pre><code>mll-hf labels verify ORG/MODEL --labels hub</code></pre>"
    "<h3>How do I add my model?</h3>"
    "<p>Measure it once, then publish the label in the model’s own repo, or in a collection if it is not "
    "yours.</p>"
    "<pre><code>mll-hf label ORG/MODEL --graph hf://datasets/ORG/GRAPH --labels my-labels\n"
    "mll-hf push ORG/MODEL --labels my-labels</code></pre>"
)
