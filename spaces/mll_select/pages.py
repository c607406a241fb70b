"""What the page says, as HTML. Pure functions; whatever comes from visitors, cards, graphs and labels is escaped."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from answers import how_sure, shown_names
from huggingface_hub import constants

from mll_hf.cli.report import label_difference
from mll_hf.hub.locations import REPO_ID
from mll_hf.labels.branches import branch_pairs, branch_precisions
from mll_hf.matching.concept_index import COVERED
from mll_hf.plots.selection import shown_classes, shown_models
from mll_hf.selection import Strategy
from mll_hf.utils.text import abridged, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from answers import Catalogue, Trial

    from mll_hf import Selection
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import LabelSummary, ModelRef

_MODELS_SHOWN = 10
_ROWS_SHOWN = 100
_ENDS_SHOWN = 6
_TOP_CLASSES = 5
_SURE = 1.96


# --- parts ------------------------------------------------------------------------------------------------------------


def wrap(*parts: str) -> str:
    """Parts of a page as one block."""
    return f'<div class="mll">{"".join(parts)}</div>'


def alert(error: Exception | str) -> str:
    """One line that says what is wrong; screen readers read it at once."""
    text = " ".join(str(error).split()).rstrip(".")
    if text.split(" ")[0].isalpha():  # no id and no path
        text = text[:1].upper() + text[1:]
    return wrap(f'<p class="mll-alert" role="alert">{escape(text)}.</p>')


def empty(text: str) -> str:
    """What stands where nothing is yet."""
    return wrap(f'<p class="mll-empty">{escape(text)}</p>')


def _note(text: str) -> str:
    return f'<p class="mll-note" role="note">{text}</p>'


def _table(caption: str, header: Sequence[tuple[str, str]], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of cells that are HTML already.

    Args:
        caption: What it shows.
        header: Of each column its name and class: ``number``, ``wide`` (left out on a phone), both or none.
        rows: Of each row its class, and its cells; the first names the row.
    """
    head = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in header)
    body = "".join(
        f'<tr class="{kind}"><th scope="row" class="{header[0][1]}">{cells[0]}</th>'
        + "".join(f'<td class="{of}">{cell}</td>' for cell, (_, of) in zip(cells[1:], header[1:], strict=True))
        + "</tr>"
        for kind, cells in rows
    )
    tall = " tall" if len(rows) > 15 else ""
    return (
        f'<div class="mll-scroll{tall}" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _bar(share: float) -> str:
    """A share as a bar, which repeats the number beside it."""
    return f'<span class="mll-bar" aria-hidden="true"><i style="width:{100 * min(max(share, 0), 1):.0f}%"></i></span>'


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _bar_and_percent(share: float) -> str:
    """Both, with the bars of a column below one another however many digits there are."""
    return f'{_bar(share)}<span class="mll-figure">{_percent(share)}</span>'


def model_html(ref: ModelRef, name: str | None = None) -> str:
    """A model's name, with a link to its page if it is on the Hub."""
    shown = escape(name or (ref.short_name if ref.is_local else ref.repo_id))
    if ref.is_local or not REPO_ID.fullmatch(ref.repo_id):
        return shown
    return f'<a href="{escape(constants.ENDPOINT)}/{ref.repo_id}" target="_blank" rel="noopener noreferrer">{shown}</a>'


def _size(parameters: float) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.3g} M"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


# --- the head of the page ---------------------------------------------------------------------------------------------

_MARK = (
    '<svg viewBox="0 0 48 48" fill="none" stroke="currentColor" stroke-width="3" aria-hidden="true">'
    '<path d="M24 13 12 33M24 13l12 20M12 33h24" opacity=".45"/><circle cx="24" cy="12" r="6" fill="currentColor"/>'
    '<circle cx="11" cy="35" r="6"/><circle cx="37" cy="35" r="6"/></svg>'
)
HEAD = wrap(
    f'<div class="mll-brand">{_MARK}<div><h1>Which vision model knows your classes?</h1>'
    "<p>Hundreds of open models can sort images into classes that you only have to <em>name</em>: CLIP, SigLIP and "
    "their relatives. None is best at everything. Type your classes to see which models know them, try these on an "
    "image, and take the code with you.</p>"
    '<p class="quiet">How? Every model was tested once on images of everyday concepts. Your classes are matched to '
    "these concepts, so no model has to run to answer you.</p></div></div>"
)
FIND_HEAD = wrap("<h2>Find models for your classes</h2>")
FIND_EMPTY = empty("Your ranking will appear here: write some classes and press “Find models”, or choose an example.")
TRY_HEAD = wrap(
    "<h2>Try them on an image</h2><p>The chosen models look at your image one after another and vote. "
    "Uploads are deleted within two hours.</p>"
)
TRY_EMPTY = empty("The answer will appear here: what all models say together, and what each says by itself.")
EXPLORE_HEAD = wrap(
    "<h2>What does a model know?</h2><p>Each tile is a concept of WordNet, a dictionary ordered from the general to "
    "the special. The darker it is, the more of its images the model recognized among all other concepts. Click a tile "
    "to go into it, and the bar at the top to come back.</p>"
    '<p class="mll-key"><span>0 %</span><i aria-hidden="true"></i><span>100 % recognized</span></p>'
)
CONCEPT_HEAD = wrap("<h2>Who knows a concept best?</h2>")
CONCEPT_EMPTY = empty("Write a concept, for example umbrella, to see which models recognize it.")


# --- find -------------------------------------------------------------------------------------------------------------


def selection_html(selection: Selection, licenses: Sequence[str] = ()) -> str:
    """The answer in a sentence, what to be careful about, and the ranking.

    Args:
        selection: The answer.
        licenses: Those that the chosen models may have; none for any.
    """
    return wrap(_sentence(selection), *_warnings(selection), _ranking(selection), _license_note(selection, licenses))


def _sentence(selection: Selection) -> str:
    chosen = [selection.models[m] for m in selection.union]
    names = [f"<strong>{model_html(model.ref)}</strong>" for model in chosen]
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    cost = selection.cost
    size = f"{_size(cost.parameters)} parameters, {cost.gflops:.3g} GFLOPs per image"
    together = " together" if len(chosen) > 1 else ""
    first = float(selection.overall[selection.union[0]])
    if selection.strategy is not Strategy.MLL:
        expected = ""
    elif (selection.coverage < COVERED).all():
        expected = " This is a guess: no model was tested on anything like your classes."
    else:
        who = "It" if len(chosen) == 1 else "The first alone"
        expected = f" {who} should get about <strong>{_percent(first)}</strong> of your images right."
    return f'<p class="mll-answer">Use {listed}.{expected} <span class="mll-weak">({size}{together})</span></p>'


def _warnings(selection: Selection) -> list[str]:
    if selection.strategy is Strategy.IMAGENET:
        return [
            _note(
                "No model has been measured yet. This ranking rests on published ImageNet accuracies, which know "
                "nothing of your classes."
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
            "models’ general level decides, so do not rely on the order. A few dozen of your own images, without "
            "labels, decide much better: see <code>--images</code> of the command line."
        )
    ]


def _ranking(selection: Selection) -> str:
    labeled = selection.strategy is not Strategy.IMAGENET
    shown = shown_models(selection, _MODELS_SHOWN)
    header = [
        ("#", "number"),
        ("model", ""),
        ("estimated precision" if labeled else "ImageNet accuracy", "number"),
        *([("on all concepts", "number wide")] if labeled else []),
        ("parameters", "number"),
        ("GFLOPs / image", "number wide"),
    ]
    rows = []
    for m in shown:
        model, chosen = selection.models[m], m in selection.union
        badge = ' <span class="mll-badge">chosen</span>' if chosen else ""
        general = [_percent(model.general)] if labeled else []
        rows.append(
            (
                "chosen" if chosen else "",
                [
                    str(m + 1),
                    model_html(model.ref) + badge,
                    _bar_and_percent(selection.overall[m]),
                    *general,
                    _size(model.cost.parameters),
                    f"{model.cost.gflops:.3g}",
                ],
            )
        )
    more = len(selection.models) - len(shown)
    legend = (
        "<strong>Estimated precision</strong>: of 100 images of your classes, how many the model should get right "
        "when it has to choose among them. <strong>On all concepts</strong>: how many it recognized in the test, where "
        "it had to choose among all concepts."
        if labeled
        else ""
    )
    rest = f" {_counted(more, 'more model is', 'more models are')} not shown." if more else ""
    return _table("Ranking", header, rows) + f'<p class="quiet">{legend}{rest}</p>'


def _license_note(selection: Selection, licenses: Sequence[str]) -> str:
    if licenses:
        return (
            '<p class="quiet">The pages of the chosen models name one of these licenses: '
            f"{escape(', '.join(licenses))}. Models that are only listed may have any: read their pages.</p>"
        )
    if all(selection.models[m].ref.is_local for m in selection.union):
        return ""
    return (
        '<p class="quiet">These models may have any license: read each model’s page before you use it, or choose '
        "licenses under “Number of models and limits”.</p>"
    )


def heatmap_head(selection: Selection, height: int) -> str:
    """Heading of the heat map; keeps its place free, so that nothing jumps when it is drawn."""
    shown, total = len(shown_classes(selection)), len(selection.classes)
    part = f" Of your {total:,} classes, the {shown} on which these models differ most." if shown < total else ""
    return wrap(
        f"<style>#mll-heat {{ min-height: {int(height)}px; }}</style>",
        "<h3>How good is each model on each class?</h3>",
        f'<p class="quiet">Estimated precision in percent; chosen models are in bold.{part}</p>',
    )


def matches_html(selection: Selection, graph: SemanticGraph) -> str:
    """What each class was matched to and how sure, with the best chosen model's precision."""
    header = [("your class", ""), ("matched to", ""), ("match", ""), ("precision", "number")]
    rows = []
    for y in range(min(len(selection.classes), _ROWS_SHOWN)):
        best = max(np.flatnonzero(selection.chosen[:, y]).tolist(), key=lambda m: selection.scores[m, y])
        coverage = float(selection.coverage[y])
        rows.append(
            (
                "",
                [
                    escape(shortened(selection.classes[y], 60)),
                    _concepts(selection, graph, y),
                    f"{_bar(coverage)}{how_sure(coverage)} <span class='wide'>({_percent(coverage)})</span>",
                    _precision(selection, best, y),
                ],
            )
        )
    more = len(selection.classes) - len(rows)
    rest = f" {_counted(more, 'more class is', 'more classes are')} not shown." if more else ""
    return wrap(
        "<h3>What were your classes matched to?</h3>",
        '<p class="quiet">The concepts whose test images speak for each class, with their share. '
        f"<strong>Match</strong>: how sure it is that the tests cover this class; from {_percent(COVERED)} on it "
        f"counts as covered. <strong>Precision</strong>: of the best chosen model, with its standard error.{rest}</p>",
        _table("Matches", header, rows),
    )


def _concepts(selection: Selection, graph: SemanticGraph, y: int) -> str:
    if selection.coverage[y] < 0.1:
        return '<span class="mll-weak">nothing close</span>'
    matches = selection.matches[y]
    best = [concept for concept in matches[:3] if concept.weight >= 0.05 * matches[0].weight]
    definitions = {concept.id: graph.concepts[graph.index[concept.id]].definition for concept in best}
    return ", ".join(
        f'<span title="{escape(definitions[concept.id])}">{escape(concept.name)}</span> '
        f'<span class="mll-weak">{_percent(concept.weight)}</span>'
        for concept in best
    )


def _precision(selection: Selection, m: int, y: int) -> str:
    score, images = float(selection.scores[m, y]), float(selection.images[y])
    if images == 0 or selection.coverage[y] < 0.1:
        return _percent(score)
    error = np.sqrt(max(score * (1 - score), 0) / images)
    return f'{100 * score:.0f}<span class="wide"> ± {max(100 * error, 1):.0f}</span>\u00a0%'


def heatmap_in_words(selection: Selection) -> str:
    """The heat map as a table, which opens when it is asked for."""
    models, classes = shown_models(selection, 8), shown_classes(selection)
    header = [("class", ""), *((escape(selection.models[m].ref.short_name), "number") for m in models)]
    rows = [
        ("", [escape(shortened(selection.classes[y], 60)), *(_percent(selection.scores[m, y]) for m in models)])
        for y in classes
    ]
    table = _table("Estimated precision by class and model", header, rows)
    return wrap(f"<details><summary>The same as a table</summary>{table}</details>")


COST_HEAD = wrap(
    "<h3>What does precision cost?</h3>",
    '<p class="quiet">Models on the dotted line are the best at their cost or less; further left is cheaper to '
    "run.</p>",
)
CODE_HEAD = wrap(
    "<h3>Take it with you</h3>",
    "<p>The same answer on your machine, in Python or on the command line. Install first: "
    "<code>pip install '.[models,offline]'</code> in a clone of the project.</p>",
)


# --- try --------------------------------------------------------------------------------------------------------------


def chosen_html(selection: Selection) -> str:
    """Which models and classes the trial is about."""
    names = ", ".join(model_html(selection.models[m].ref) for m in selection.union)
    classes = escape(abridged([shortened(name, 40) for name in selection.classes], 8))
    return wrap(f"<p><strong>Models:</strong> {names}<br><strong>Classes:</strong> {classes}</p>")


TRY_FIRST = empty("First find models for your classes under “Find”. They are then ready here.")


def trial_html(trial: Trial, names: Sequence[str]) -> str:
    """What the models say: of one image in full, of several a line each."""
    unreadable = np.isnan(trial.probabilities).any(axis=1)
    if unreadable.all():
        return alert("this is no image that can be read; use PNG, JPEG or WebP")
    if len(names) == 1:
        return wrap(*_one_image(trial))
    return wrap(_many_images(trial, names, unreadable.tolist()))


def _one_image(trial: Trial) -> list[str]:
    classes, probabilities = trial.selection.classes, trial.probabilities[0]
    best = np.argsort(-probabilities, kind="stable")[:_TOP_CLASSES].tolist()
    answer = f"<strong>{escape(shortened(classes[best[0]], 80))}</strong>"
    tops = [("", [escape(shortened(classes[y], 60)), _bar_and_percent(probabilities[y])]) for y in best]
    parts = [
        f'<p class="mll-answer" role="status">{answer}, with {_percent(probabilities[best[0]])} probability.</p>',
        _table("Most probable classes", [("class", ""), ("probability", "number")], tops),
    ]
    rows = []
    for u, m in enumerate(trial.selection.union):
        vote = trial.votes[u, 0]
        y = int(vote.argmax())
        rows.append(
            (
                "",
                [
                    model_html(trial.selection.models[m].ref),
                    escape(shortened(classes[y], 60)),
                    _percent(vote[y]),
                    _percent(trial.weights[u]),
                ],
            )
        )
    header = [("model", ""), ("its vote", ""), ("how sure", "number"), ("weight", "number")]
    legend = "<strong>Weight</strong>: how much a vote counts; better models for your classes count more."
    return [
        *parts,
        _table("Each model’s vote", header, rows),
        f'<p class="quiet">{legend}</p>' if len(rows) > 1 else "",
    ]


def _many_images(trial: Trial, names: Sequence[str], unreadable: list[bool]) -> str:
    rows = []
    for n, name in enumerate(names):
        shown = escape(shortened(name, 60))
        if unreadable[n]:
            rows.append(("", [shown, '<span class="mll-weak">no readable image</span>', "", ""]))
            continue
        y = int(trial.probabilities[n].argmax())
        agreeing = int((trial.votes[:, n].argmax(axis=1) == y).sum())
        cells = [shown, escape(shortened(trial.selection.classes[y], 60)), _percent(trial.probabilities[n, y])]
        rows.append(("", [*cells, f"{agreeing} of {len(trial.votes)}"]))
    header = [("image", ""), ("class", ""), ("probability", "number"), ("models that agree", "number")]
    return _table("Answers", header, rows)


# --- explore ----------------------------------------------------------------------------------------------------------


def strengths_html(label: LabelSummary) -> str:
    """What a model recognizes on the whole."""
    tested = int((label.support > 0).sum())
    return wrap(
        f"<p>{model_html(label.model)} recognizes <strong>{_percent(label.mean_precision)}</strong> of a concept’s "
        f"images on average, over {_counted(tested, 'concept', 'concepts')}.</p>"
    )


def branches_html(label: LabelSummary, graph: SemanticGraph) -> str:
    """The treemap in words: the branches that a model knows best and worst; nothing if the graph is too small."""
    branches = branch_precisions(label, graph)
    shown = branches if len(branches) <= 2 * _ENDS_SHOWN else [*branches[:_ENDS_SHOWN], *branches[-_ENDS_SHOWN:]]
    rows = [
        (
            "",
            [
                escape(b.name),
                _bar_and_percent(b.precision),
                str(b.concepts),
                escape(shortened(b.definition, 80)),
            ],
        )
        for b in shown
    ]
    header = [("branch", ""), ("recognized", "number"), ("concepts", "number"), ("meaning", "wide")]
    return wrap(_table("Strongest and weakest branches", header, rows)) if rows else ""


def comparison_html(first: LabelSummary, second: LabelSummary, graph: SemanticGraph) -> tuple[str, str]:
    """Two models side by side: overall, and a table of the concepts on which they differ most surely.

    Raises:
        InputError: They were not measured on the same images.
    """
    difference = label_difference(first, second, graph)
    one, other = (escape(name) for name in shown_names([first, second]))
    surely = np.abs(difference.z) > _SURE
    wins = [int((surely & (difference.gain > 0)).sum()), int((surely & (difference.gain < 0)).sum())]
    order = np.argsort(-difference.z, kind="stable")
    ends = [*order[difference.gain[order] > 0][:_ENDS_SHOWN], *order[difference.gain[order] < 0][-_ENDS_SHOWN:]]
    rows = []
    for at in ends:
        v = difference.concepts[at]
        precision = [float(label.node_precision[v]) for label in (first, second)]
        name = f'<span title="{escape(graph.concepts[v].definition)}">{escape(graph.concepts[v].name)}</span>'
        rows.append(("", [name, *map(_percent, precision), f"{100 * difference.gain[at]:+.0f}"]))
    header = [("concept", ""), (one, "number"), (other, "number"), ("difference", "number")]
    said = wrap(
        f"<h3>{one} against {other}</h3>",
        f"<p>{one} recognizes {_percent(first.mean_precision)} of a concept’s images on average, {other} "
        f"{_percent(second.mean_precision)}. Apart from chance, {one} is better on "
        f"{_counted(wins[0], 'concept', 'concepts')} and "
        f"{other} on {wins[1]:,}.</p>",
        '<p class="quiet">By branch of WordNet: bars to the right where the first is ahead, to the left where the '
        "second is.</p>"
        if branch_pairs(first, second, graph)
        else '<p class="quiet">The graph is too small to compare branches.</p>',
    )
    return said, wrap(_table("Concepts on which they differ most surely", header, rows)) if rows else ""


def concept_html(catalogue: Catalogue, concepts: Sequence[int], named: bool, asked: str) -> str:
    """Which models recognize a concept best, for each sense of what was asked."""
    graph, labels = catalogue.graph, catalogue.labels()
    names = shown_names(labels)
    parts = []
    if not named:
        parts.append(_note(f"The tests have no concept called “{escape(shortened(asked, 60))}”. The nearest ones:"))
    for v in concepts:
        concept = graph.concepts[v]
        parts.append(f"<h3>{escape(concept.name)}</h3><p>{escape(concept.definition)}</p>")
        parts += [_picture(content, concept.name) for content in catalogue.sample_images(v)]
        ranked = sorted(
            (at for at, label in enumerate(labels) if label.support[v]),
            key=lambda at: -labels[at].node_precision[v],
        )[:_MODELS_SHOWN]
        if not ranked:
            parts.append('<p class="quiet">No images test this concept itself.</p>')
            continue
        rows = [
            (
                "",
                [
                    model_html(labels[at].model, names[at]),
                    _bar_and_percent(labels[at].node_precision[v]),
                    f"{labels[at].hits[v]} of {labels[at].support[v]}",
                ],
            )
            for at in ranked
        ]
        header = [("model", ""), ("recognized", "number"), ("images", "number")]
        parts.append(_table(f"Best at {concept.name}", header, rows))
    return wrap(*parts)


def _picture(content: bytes, name: str) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "webp" if content[8:12] == b"WEBP" else "jpeg"
    data = base64.b64encode(content).decode()
    source = f"data:image/{kind};base64,{data}"
    return f'<img class="mll-sample" src="{source}" alt="a test image of {escape(name)}" height="96">'


# --- the measured models ----------------------------------------------------------------------------------------------


def models_html(catalogue: Catalogue, wanted: str) -> str:
    """The measured models, as far as their names hold what is wanted."""
    labels, source = catalogue.labels(), catalogue.source
    if not labels:
        return empty("No model has been measured yet. Yours can be the first: see below.")
    graph, names = catalogue.graph, shown_names(labels)
    found = [at for at, name in enumerate(names) if wanted.strip().casefold() in name.casefold()]
    rows = []
    for at in found[:_ROWS_SHOWN]:
        label = labels[at]
        tested = int((label.support > 0).sum())
        publisher = source.origin_of(label.model).publisher
        rows.append(
            (
                "",
                [
                    model_html(label.model, names[at]),
                    _bar_and_percent(label.mean_precision),
                    f"{tested:,} of {len(graph):,}",
                    escape(publisher or "local folder"),
                    _size(label.cost.parameters),
                    f"{label.cost.gflops:.3g}",
                ],
            )
        )
    header = [
        ("model", ""), ("recognized on average", "number"), ("concepts tested", "number wide"), ("published by", ""),
        ("parameters", "number wide"), ("GFLOPs / image", "number wide"),
    ]  # fmt: skip
    more = len(found) - len(rows)
    rest = f'<p class="quiet">{_counted(more, "more model", "more models")}: narrow the search.</p>' if more else ""
    if not found:
        return empty(f"No measured model’s name holds “{shortened(wanted.strip(), 60)}”.")
    summary = (
        f"<p>{_counted(len(labels), 'model', 'models')}, measured on {_counted(len(graph), 'concept', 'concepts')} "
        f"({escape(graph.name)}).</p>"
    )
    return wrap(summary, _table("Measured models", header, rows), rest)


MODELS_HEAD = wrap(
    "<h2>Which models have been measured?</h2>"
    "<p>A model’s test results are a small file on the Hub, its <em>label</em>: how many images of each concept it "
    "recognized. Anyone can publish one.</p>"
)
HOW_TO_LABEL = wrap(
    "<h3>Can these results be trusted?</h3>"
    "<p>Each label is what its publisher says. Every one is checked for consistency when it is read, but nothing "
    "records whether somebody else has measured the model again, so this page cannot show it. You can: this command "
    "measures a random sample of concepts again and says whether the label is true.</p>"
    "<pre><code>mll-hf labels verify ORG/MODEL --labels hub</code></pre>"
    "<h3>How do I add my model?</h3>"
    "<p>Measure it once, then publish the label in the model’s own repository, or in a collection if it is not "
    "yours.</p>"
    "<pre><code>mll-hf label ORG/MODEL --graph hf://datasets/ORG/GRAPH --labels my-labels\n"
    "mll-hf push ORG/MODEL --labels my-labels</code></pre>"
)
