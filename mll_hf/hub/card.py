"""Labels in the cards of models and collections, and as an evaluation result.

Names in graphs and labels come from strangers: everything that Markdown, HTML or YAML would interpret is escaped.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml  # type: ignore[import-untyped]
from huggingface_hub import DatasetCardData, EvalResultEntry, eval_result_entries_to_yaml

from mll_hf.errors import InputError
from mll_hf.hub.connection import FULL_SHA
from mll_hf.hub.readme import CardMetadata, edit_card, put_section
from mll_hf.labels.branches import branch_precisions
from mll_hf.utils.text import markdown_table, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.branches import Branch
    from mll_hf.labels.label import LabelSummary, ModelLabel

LABEL_TAG = "mll-label"
COLLECTION_TAG = "mll-labels"
GRAPH_TAG_PREFIX = "mll-graph-"
LABEL_PATH = "mll/label.safetensors"  # in a model's own repo
EVAL_RESULTS_PATH = ".eval_results/mll.yaml"
_SCHEMA = 1  # of the metadata block
_LONGEST_NAME = 200
_BRANCHES_SHOWN = 5
_MODELS_SHOWN = 200
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def graph_tag(digest: str) -> str:
    """The tag of everything that belongs to a graph; the Hub searches tags, not nested metadata."""
    return GRAPH_TAG_PREFIX + digest[:12]


# --- a model's card ---------------------------------------------------------------------------------------------------


def add_label(readme: str, label: ModelLabel, graph: SemanticGraph, sha256: str) -> str:
    """Add a label to a model's card: two tags and a block in the metadata, a section in the body.

    Replaces what an earlier label left and keeps every other character. Idempotent.

    Args:
        readme: The README of the model's repo with its own line breaks; may be empty.
        label: The label.
        graph: Its graph.
        sha256: Hash of the label's file, 64 hex digits.

    Raises:
        CardError: The card cannot be edited safely.
        InputError: The label is of another graph, or of a model that is not on the Hub.
    """
    if label.graph_digest != graph.digest:
        raise InputError(f"the label is not of the graph {graph.name}; give the graph that it was measured on")
    if not _REPO_ID.fullmatch(label.model.repo_id):
        raise InputError("the label is of a model in a folder; publish the model and label it as org/name")
    revisions = (label.model.revision, label.probes_revision)
    if not (all(map(FULL_SHA.fullmatch, revisions)) and re.fullmatch(r"[0-9a-f]{64}", sha256)):
        raise InputError("the label's revisions or the sha256 of its file are no full hashes; label the model again")
    tags = [LABEL_TAG, graph_tag(graph.digest)]
    metadata = CardMetadata(tags, GRAPH_TAG_PREFIX, "mll", _metadata_block(label, sha256))
    return edit_card(readme, metadata, _section(label, graph))


def _metadata_block(label: ModelLabel, sha256: str) -> dict[str, Any]:
    """What the card's metadata say about the label, for those who search; readers trust the label alone."""
    return {
        "schema": _SCHEMA,
        "graph": {"name": _name(label.graph_name), "digest": label.graph_digest},
        "probes": {"name": _name(label.probes_name), "revision": label.probes_revision},
        "file": LABEL_PATH,
        "sha256": sha256,
        "revision": label.model.revision,
        "recall": round(label.mean_precision, 4),
        "concepts": _concepts_tested(label),
        "tests": _tests(label),
        "temperature": float(f"{float(label.temperature[0]):.4g}"),
        "package_version": _name(label.package_version),
    }


def _name(text: str) -> str:
    return printable(text)[:_LONGEST_NAME]


def _concepts_tested(label: LabelSummary) -> int:
    return int((label.support > 0).sum())


def _tests(label: LabelSummary) -> int:
    """Tests of concepts: an image tests its concept and the concept's ancestors."""
    return int(label.support.sum(dtype=np.int64))


def _section(label: ModelLabel, graph: SemanticGraph) -> list[str]:
    # No link to the paper: the Hub would tag the model with it.
    return [
        "## Model label",
        "",
        f"This model has a label: its recall on each of {_concepts_tested(label):,} visual concepts of the graph "
        f'"{_escaped(_name(label.graph_name))}" (`{label.graph_digest[:12]}`), measured at revision '
        f"`{label.model.revision[:12]}` in {_tests(label):,} tests with the images of "
        f'"{_escaped(_name(label.probes_name))}" (`{label.probes_revision[:12]}`). An image of a concept is recognized '
        "if it is closer to that concept than to every concept that it does not show. On average the model recognizes "
        f"{label.mean_precision:.1%} of a concept's images, ± {label.mean_precision_margin:.1%} for the choice of "
        "images.",
        "",
        *_branch_tables(branch_precisions(label, graph)),
        f"The label is the file `{LABEL_PATH}`. `mll-hf` reads labels to select models for a list of classes:",
        "",
        "```bash",
        "pip install 'mll-hf[match]'",
        "mll-hf select --classes 'dog, cat, car' --labels hub",
        f"mll-hf labels show {label.model.repo_id} --labels hub",
        "```",
    ]


def _branch_tables(branches: Sequence[Branch]) -> list[str]:
    """The best branches of the better half, and the worst of the other half."""
    half = (len(branches) + 1) // 2
    lines: list[str] = []
    for title, shown in (("strongest", branches[:half]), ("weakest", branches[half:][::-1])):
        rows = [
            [_escaped(shortened(b.name, 60)), f"{b.precision:.1%}", str(b.concepts),
             _escaped(shortened(b.definition, 80))]
            for b in shown[:_BRANCHES_SHOWN]
        ]  # fmt: skip
        header = [f"{title} branches", "recall", "concepts", "meaning"]
        lines += [*markdown_table(header, ["---", "---:", "---:", "---"], rows), ""] if rows else []
    return lines


# --- a collection's card ----------------------------------------------------------------------------------------------


def collection_card(repo_id: str, graph: SemanticGraph, labels: Sequence[LabelSummary], readme: str = "") -> str:
    """The README of a dataset repo that collects labels.

    Args:
        repo_id: ``owner/name`` of the dataset repo.
        graph: The labels' graph.
        labels: The labels; the table has the best 200.
        readme: The README so far; everything but our section is kept. An empty one gets metadata and a title.

    Raises:
        CardError: The comments that mark our section do not match.
    """
    if not readme.strip():
        readme = _collection_head(graph)
    return put_section(readme, _collection_section(repo_id, graph, labels))


def _collection_head(graph: SemanticGraph) -> str:
    title = f"Model labels on the graph {_name(graph.name)}"
    tags = [COLLECTION_TAG, graph_tag(graph.digest)]
    metadata = DatasetCardData(license="apache-2.0", pretty_name=title, tags=tags, viewer=False)
    return f"---\n{metadata.to_yaml()}\n---\n\n# {_escaped(title)}\n"


def _collection_section(repo_id: str, graph: SemanticGraph, labels: Sequence[LabelSummary]) -> list[str]:
    source = f"hf://datasets/{repo_id}"
    ranked = sorted(labels, key=lambda label: (-label.mean_precision, label.model.repo_id, label.model.revision))
    more = len(ranked) - _MODELS_SHOWN
    return [
        f"A label is the recall of a vision-language model on each of {len(graph):,} visual concepts "
        f"(graph `{graph.digest[:12]}`). Each model was measured once. `mll-hf` reads the labels to select models for "
        "a list of classes and to combine them; for this no model is run or downloaded.",
        "",
        "```bash",
        "pip install 'mll-hf[match]'",
        f"mll-hf select --classes 'dog, cat, car' --labels {source}",
        f"mll-hf labels ls --labels {source}",
        "```",
        "",
        "The method is Model Label Learning ([arXiv 2501.18271](https://arxiv.org/abs/2501.18271)).",
        "",
        "## Models",
        "",
        *markdown_table(
            ["model", "revision", "recall", "parameters", "GFLOPs"],
            ["---", "---", "---:", "---:", "---:"],
            [_model_row(label) for label in ranked[:_MODELS_SHOWN]],
        ),
        "",
        *([f"And {more:,} more: `mll-hf labels ls --labels {source}`", ""] if more > 0 else []),
        "Recall: the share of a concept's images that the model recognizes against all concepts that they do not "
        "show, averaged over the concepts. GFLOPs: to encode one image.",
    ]


def _model_row(label: LabelSummary) -> list[str]:
    model, cost = label.model, label.cost
    name, revision = _escaped(model.short_name if model.is_local else model.repo_id), f"`{model.revision[:7]}`"
    if _REPO_ID.fullmatch(model.repo_id):
        url = f"https://huggingface.co/{model.repo_id}"
        name, revision = f"[{name}]({url})", f"[{revision}]({url}/tree/{model.revision})"
    return [name, revision, f"{label.mean_precision:.3f}", f"{cost.parameters / 1e6:.1f} M", f"{cost.gflops:.3g}"]


def _escaped(text: str) -> str:
    """Plain text as Markdown: characters with a meaning in Markdown or HTML become character references."""
    return re.sub(r"[!\"#$&*:<>@\[\\\]^_`{|}~]", lambda found: f"&#{ord(found[0])};", printable(text))


# --- an evaluation result ---------------------------------------------------------------------------------------------


def eval_results(label: ModelLabel, dataset_id: str, task_id: str, source_url: str | None) -> str:
    """A label's mean recall in percent as an evaluation result: the content of EVAL_RESULTS_PATH.

    The Hub shows it only if the dataset is registered as a benchmark.

    Args:
        label: The label.
        dataset_id: The dataset repo of the probe images.
        task_id: The task, as named in the dataset's ``eval.yaml``.
        source_url: Where to read more, if anywhere.
    """
    entry = EvalResultEntry(
        dataset_id=dataset_id,
        task_id=task_id,
        value=round(100 * label.mean_precision, 2),
        dataset_revision=label.probes_revision,
        source_url=source_url,
        notes=f"Mean recall in percent over {_concepts_tested(label)} concepts of graph {label.graph_digest[:12]}",
    )
    content: str = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
    return content
