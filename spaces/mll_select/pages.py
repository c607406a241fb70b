"""Texts of the page as HTML. Pure functions; untrusted texts (visitors, model cards, graphs, labels) are escaped."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from huggingface_hub import constants

from mll_hf.hub.locations import REPO_ID
from mll_hf.labels.branches import branch_recalls
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.matching.concept_index import COVERED
from mll_hf.selection import STRATEGIES, Figures
from mll_hf.selection.task import MIN_IMAGES
from mll_hf.utils.text import abridged, gigaflops, parameter_count, shortened

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from answers import Labels, ListedModel
    from fitting import Fitted

    from mll_hf import Selection
    from mll_hf.graph.concepts import Concept, SemanticGraph
    from mll_hf.labels.join import LeftOut
    from mll_hf.labels.label import Label, ModelRef

CLOSE = 0.1  # of a class with less coverage no concept is close
_MODELS_SHOWN = 10
_ROWS_SHOWN = 100
_ENDS_SHOWN = 6


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


# --- the first page ---------------------------------------------------------------------------------------------------

HEAD = wrap(
    "<h1>Which vision model fits your images?</h1>"
    "<p>Name the classes and drop some images, which need no class: you get the open model that is the best value, "
    "fitted to them, and how good it is.</p>"
)
ASK_HEAD = wrap(
    "<h2>Correct what is wrong</h2><p>What does this image show? Or choose any other below. Accuracy, class shares and "
    "classifier follow each answer.</p>"
)
LINKS = wrap(
    '<p class="quiet"><a href="?explore">All models</a> · <a href="?model">What a model knows</a> · '
    '<a href="?concept">Which models know a concept</a></p>'
)
BACK = wrap('<p><a href="?">← Find a model for your classes</a></p>')


def card(selection: Selection, fitted: Fitted | None = None) -> str:
    """The answer: the best value, how good it is, what is better at any cost, and what would settle it."""
    lead, lines = selection.models[selection.chosen_models[0]], selection.answer_lines
    license = f" · license {escape(lead.license)}" if lead.license else ""
    facts = f"{parameter_count(lead.cost.parameters)} parameters · {gigaflops(lead.cost.gflops)} GFLOPs per image"
    others = len(selection.chosen_models) - 1
    together = f" and {_counted(others, 'other', 'others')}" if others else ""
    return wrap(
        '<div class="mll-card">',
        f'<p class="mll-kicker">{"Fitted to your images" if fitted and fitted.asked else "Best value"}</p>',
        f'<h2 class="mll-answer">{model_html(lead.ref)}{together}</h2>',
        f'<p class="quiet">{facts}{license} · <a href="{_address(model=lead.name)}">more about it</a></p>',
        _accuracy(selection),
        _gain(selection, fitted),
        *(f"<p>{escape(line)}</p>" for line in lines[1:]),
        f'<p class="mll-settle"><strong>What would settle it:</strong> {_settles(fitted)}</p>',
        "</div>",
    )


def _accuracy(selection: Selection) -> str:
    """The estimated accuracy of the first chosen model as a bar with its interval, if it is known."""
    estimate, m = selection.estimate, selection.chosen_models[0]
    if estimate is None or not estimate.known[m]:
        return '<p class="mll-unknown">Accuracy not known yet</p>'
    low, middle, high = (100 * float(at[m]) for at in (estimate.interval[0], estimate.accuracy, estimate.interval[1]))
    return (
        f'<div class="mll-interval" aria-hidden="true"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<b style="left:{middle:.1f}%"></b></div><p class="mll-accuracy"><strong>{_percent(middle / 100)}</strong> '
        f'estimated accuracy <span class="quiet">(90\u00a0% interval: {low:.0f} to {_percent(high / 100)})</span></p>'
    )


def _gain(selection: Selection, fitted: Fitted | None) -> str:
    """What the fit changed for the best model, measured on images that it was not fitted to."""
    trial = selection.trial
    if fitted is None or trial is None:
        return ""
    skipped = f" {_counted(fitted.n_unreadable, 'file', 'files')} could not be read." if fitted.n_unreadable else ""
    change = f"{_percent(trial.zero_shot[0])} zero-shot, {_percent(trial.fitted[0])} fitted"
    counted, tried = len(fitted.counted), f"{_counted(len(selection.models), 'model', 'models')} tried"
    gain = f"Agreement with all {len(selection.models)} models: {change}."
    if counted and not (selection.estimate and selection.estimate.known[selection.chosen_models[0]]):
        gain = ""  # too few to tell
    elif counted:
        gain = (
            f"Of {_counted(counted, 'image', 'images')} that you were asked for, correct in cross-validation: {change}."
        )
    return f"<p>{tried} on {_counted(trial.n_images, 'image', 'images')}.{skipped} {gain}</p>"


def _settles(fitted: Fitted | None) -> str:
    if fitted is None:
        return (
            f"{MIN_IMAGES} or more of your images, which need no class: models are tried on them and fitted to them. "
            "The class of about 25, by a click each, tells the accuracy."
        )
    if not fitted.asked:
        return f"{MIN_IMAGES} images or more. These are only classified, since they are too few to fit a model to."
    if left := len(fitted.asked) - len(fitted.counted):
        return f"the class of {_counted(left, 'more image', 'more images')} that this page asks for."
    return "nothing more here; add images if the interval is too wide."


def captions(fitted: Fitted) -> list[tuple[str, str]]:
    """Thumbnails with their class: as told, or predicted with its probability."""
    shown = []
    for n, path in enumerate(fitted.thumbnails):
        name = shortened(fitted.question.classes[fitted.class_of(n)], 40)
        share = fitted.probabilities[n].max()
        shown.append((path, f"✓ {name}" if n in fitted.answers else f"{name} {_percent(share)}"))
    return shown


def _warnings(selection: Selection) -> list[str]:
    if not STRATEGIES[selection.strategy].needs_labels:
        return [_note("The text encoder is missing. This ranking uses published ImageNet accuracies only.")]
    uncovered = [name for name, cover in zip(selection.classes, selection.coverage, strict=True) if cover < COVERED]
    if not uncovered:
        return []
    names = escape(abridged([shortened(name, 40) for name in uncovered], 5))
    which = "any of your classes" if len(uncovered) == len(selection.classes) else names
    return [
        _note(
            f"The test images have nothing close enough to {which}. For {'it' if len(uncovered) == 1 else 'these'} the "
            "models’ general level is used, so do not rely on the order. A few dozen of your own images, which need "
            "no class, are a better guide: drop them beside the classes."
        )
    ]


def shown_models(selection: Selection) -> list[int]:
    """Positions of the best models and of all chosen ones."""
    return sorted({*range(min(_MODELS_SHOWN, len(selection.models))), *selection.chosen_models})


def ranking_html(selection: Selection) -> str:
    """What is known about the classes, and the ranking."""
    estimate, shown = selection.estimate, shown_models(selection)
    kinds = Counter(model.figures for model in selection.models)
    columns: dict[tuple[str, str], list[str]] = {
        ("#", "number"): [str(m + 1) for m in shown],
        ("model", ""): [
            model_html(selection.models[m].ref)
            + (' <span class="mll-badge">chosen</span>' if m in selection.chosen_models else "")
            for m in shown
        ],
    }
    if estimate is not None:
        columns["estimated accuracy", "number"] = [estimate.text(m) for m in shown]
    if selection.trial is None and any(has_recall(selection, m) for m in shown):
        columns["recall on your concepts", "number wide"] = [
            _percent(selection.overall[m]) if has_recall(selection, m) else "–" for m in shown
        ]
    if set(kinds) != {Figures.LABEL}:
        columns["based on", "wide"] = [escape(BASED_ON[selection.models[m].figures]) for m in shown]
    columns["parameters", "number"] = [parameter_count(selection.models[m].cost.parameters) for m in shown]
    columns["GFLOPs / image", "number wide"] = [gigaflops(selection.models[m].cost.gflops) for m in shown]
    columns["license", "wide"] = [escape(selection.models[m].license or "unknown") for m in shown]
    chosen = [at for at, m in enumerate(shown) if m in selection.chosen_models]
    legend = (
        "<strong>Estimated accuracy</strong>: share of your images that the model should classify correctly, with its "
        "90 % interval, where it is known. <strong>Recall on your concepts</strong>: the same for the test images of "
        "the matched concepts; yours may be harder. Models may have any license: read their pages."
    )
    return wrap(
        *(f"<p>{escape(note)}</p>" for note in selection.notes),
        *_warnings(selection),
        _table("Ranking", list(columns), list(zip(*columns.values(), strict=True)), chosen),
        _quiet(legend + _not_shown(len(selection.models) - len(shown), "model", "models")),
    )


BASED_ON = {
    Figures.LABEL: "label",
    Figures.PUBLISHED: "ImageNet accuracy",
    Figures.NOMINATED: "figures for this domain or language",
    Figures.NONE: "nothing",
}


def has_recall(selection: Selection, m: int) -> bool:
    """Whether a model has figures per class, rather than one for all classes."""
    return selection.models[m].figures is Figures.LABEL


def matches_html(selection: Selection, labels: Labels) -> str:
    """The concepts of each class, and its coverage."""
    header = [("your class", ""), ("matched to", ""), ("match", "")]
    rows = []
    for y in range(min(len(selection.classes), _ROWS_SHOWN)):
        coverage = float(selection.coverage[y])
        rows.append(
            [
                escape(shortened(selection.classes[y], 60)),
                _concepts(selection, labels, y),
                _bar_and_percent(coverage),
            ]
        )
    return wrap(
        _quiet(
            "The concepts whose test images are used for each class, with their weight. <strong>Match</strong>: the "
            f"probability that the tests cover this class; it counts as covered from {_percent(COVERED)} on."
            + _not_shown(len(selection.classes) - len(rows), "class", "classes")
        ),
        _table("Matches", header, rows),
    )


def _concepts(selection: Selection, labels: Labels, y: int) -> str:
    """The concepts of a class, with their definitions."""
    if selection.coverage[y] < CLOSE:
        return '<span class="mll-weak">nothing close</span>'
    matches = selection.matches[y]
    shown = []
    for match in matches[:3]:
        if match.weight >= 0.05 * matches[0].weight:
            name = _concept_name(labels.concept(match.id))
            shown.append(f'{name} <span class="mll-weak">{_percent(match.weight)}</span>')
    return "<br>".join(shown)


def pushed_html(url: str) -> str:
    """The URL of a published selection."""
    return wrap(f'<p>Published: <a href="{escape(url)}" target="_blank" rel="noopener">{escape(url)}</a></p>')


# --- all models, one model, one concept -------------------------------------------------------------------------------

EXPLORE_HEAD = wrap("<h2>All models</h2><p>Sort by any column. Each name links to the page of the model.</p>")
MODEL_HEAD = wrap("<h2>What does a model know?</h2>")
CONCEPT_HEAD = wrap("<h2>Which models know a concept best?</h2>")
CONCEPT_EMPTY = empty("Enter a concept, for example umbrella, to see which models recognize it.")

COLUMNS = ("model", "recall, %", "ImageNet, %", "parameters, M", "GFLOPs", "license", "based on")


def leaderboard(models: Sequence[ListedModel]) -> list[list[str | float | None]]:
    """Rows of models for :data:`COLUMNS`, by decreasing recall on the reference graph, then by ImageNet accuracy."""
    recalls = {model.name: label.mean_recall for model in models if (label := model.labels[0])}
    order = sorted(models, key=lambda model: (-recalls.get(model.name, -1), -(model.imagenet or 0), model.name))
    return [
        [
            f"[{_markdown(model.name)}](?{urlencode({'model': model.name})})",
            round(100 * recalls[model.name], 1) if model.name in recalls else None,
            None if model.imagenet is None else round(100 * model.imagenet, 1),
            round(model.cost.parameters / 1e6, 1) or None,
            round(model.cost.gflops, 2) or None,
            model.license or "unknown",
            BASED_ON[model.figures],
        ]
        for model in order
    ]


def _markdown(text: str) -> str:
    return "".join(c if c.isalnum() or c in " ./@-" else f"&#{ord(c)};" for c in text)


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
    published = [
        [escape(one.dataset), escape(one.domain or "general"), _percent(one.value), escape(one.metric)]
        for one in model.published
    ]
    columns = [("data set", ""), ("domain", "wide"), ("figure", "number"), ("metric", "")]
    return wrap(
        f"<h3>{model_html(model.ref, model.name)}</h3>",
        _table(f"About {model.name}", [("fact", ""), ("value", "")], facts),
        _table("Published figures", columns, published) if published else "",
        *(
            branches_html(label, board.graph)
            for board, label in zip(labels.boards, model.labels, strict=True)
            if label is not None
        ),
    )


def branches_html(label: Label, graph: SemanticGraph) -> str:
    """Mean recall of a model, and its strongest and weakest branches, if any."""
    branches = branch_recalls(label, graph)
    ends = branches if len(branches) <= 2 * _ENDS_SHOWN else [*branches[:_ENDS_SHOWN], *branches[-_ENDS_SHOWN:]]
    rows = [
        [escape(b.name), _bar_and_percent(b.recall), str(b.concepts), escape(shortened(b.definition, 80))] for b in ends
    ]
    columns = [("branch", ""), ("recall", "number"), ("concepts", "number"), ("meaning", "wide")]
    return wrap(
        f"<p>It recognizes <strong>{_percent(label.mean_recall)}</strong> of a concept’s images on average, over "
        f"{_counted(label.n_tested, 'concept', 'concepts')}.</p>",
        _table("Strongest and weakest branches", columns, rows) if rows else "",
    )


def concept_html(labels: Labels, ids: Sequence[str], named: bool, asked: str) -> str:
    """Concepts, and the models with the highest recall on each, for every board that has the concept."""
    parts = []
    if not named:
        parts.append(_note(f"The tests have no concept named “{escape(shortened(asked, 60))}”. The nearest ones:"))
    for id in ids:
        concept = labels.concept(id)
        parts.append(f"<h3>{escape(concept.name)}</h3><p>{escape(concept.definition)}</p>")
        tables = []
        for b, board in enumerate(labels.boards):
            row = board.graph.index.get(id, -1)
            if row < 0 or not (best := labels.best_at(row, b)[:_MODELS_SHOWN]):
                continue
            rows = [
                [
                    f'<a href="{_address(model=model.name)}">{escape(model.name)}</a>',
                    _bar_and_percent(label.node_precision[row]),
                    f"{label.support[row]}",
                ]
                for model, label in best
            ]
            on = f" on {board.name}" if len(labels.boards) > 1 else ""
            header = [("model", ""), ("recall", "number"), ("images", "number")]
            tables.append(_table(f"Best at {concept.name}{on}", header, rows))
        parts += tables or [_quiet("No images test this concept itself.")]
    return wrap(*parts)


def _left_out(left_out: Sequence[LeftOut]) -> str:
    """Labels that are not in the rankings, with the reason; collapsed."""
    if not left_out:
        return ""
    items = []
    for one in left_out:
        names = [id.rsplit("/", 1)[-1] if id.startswith(LOCAL_PREFIX) else id for id in one.models]
        items.append(f"<li>{escape(f'{abridged(names, 5)} on {one.graph_name}: {one.reason}')}</li>")
    return f"<details><summary>Labels that are left out</summary><ul>{''.join(items)}</ul></details>"


HOW_TO_USE = wrap(
    "<p>Install first: <code>pip install '.[models,offline]'</code> in a clone of the project. The saved folder holds "
    "the chosen models with their commits, and the fitted classifiers; none of your images. Unpack it, and:</p>"
    "<pre><code>mll-hf predict photo.jpg --selection choice\n"
    "mll-hf push --selection choice --to YOUR-NAME/my-selection</code></pre>"
)
PUSH_HEAD = wrap("<h3>Or publish it in your own small repo</h3>")
HOW_TO_LABEL = wrap(
    "<h3>Can these results be trusted?</h3><p>A label is a claim of its publisher. This command measures a random "
    "sample of concepts again and compares.</p>"
    "<pre><code>mll-hf labels verify $ORG/MODEL --labels hub</code></pre>"
    "<h3>How do I add my model?</h3><p>Measure it once, then publish the label in the model’s own repo, or in a "
    "collection if it is not yours.</p>"
    "<pre><code>mll-hf label $ORG/MODEL --graph hf://datasets/$ORG/GRAPH --labels my-labels\n"
    "mll-hf push $ORG/MODEL --labels my-labels</code></pre>"
)
