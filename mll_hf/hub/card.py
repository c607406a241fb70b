"""Cards of models, collections and graphs. The texts are templates in ``data``.

Names in graphs and labels are untrusted: everything that Markdown, HTML or YAML would interpret is escaped.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import DatasetCardData

from mll_hf.hub.readme import edit_card, put_section
from mll_hf.labels.branches import branch_recalls
from mll_hf.labels.summary import SUMMARY_PATH
from mll_hf.utils.package import library_in_markdown, page_of_model
from mll_hf.utils.tables import markdown_table
from mll_hf.utils.text import abridged, escaped, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probe_counts import ProbeCounts
    from mll_hf.labels.branches import Branch
    from mll_hf.labels.label import Label

LABEL_TAG = "mll-label"
COLLECTION_TAG = "mll-labels"
GRAPH_TAG = "mll-graph"
IMAGES_TAG = "mll-probe-images"
GRAPH_TAG_PREFIX = "mll-graph-"
LABEL_PATH = "mll/label.safetensors"  # in a model's own repo
_SCHEMA = 3  # of the metadata block
_MAX_NAME_LENGTH = 200
_BRANCHES_SHOWN = 5
_WORDNET = (
    "Names and glosses of the concepts are from WordNet 3.0, copyright 2006 by Princeton University, under the WordNet "
    "license."
)
_SYNSET = re.compile(r"n\d{8}", re.ASCII)


def graph_tag(digest: str) -> str:
    """The tag of all repos that belong to a graph. The Hub can search tags, but not nested metadata."""
    return GRAPH_TAG_PREFIX + digest[:12]


# --- a model's card ---------------------------------------------------------------------------------------------------


def add_label(readme: str, label: Label, graph: SemanticGraph, sha256: str, path: str = LABEL_PATH) -> str:
    """Add a label to a model's card: two tags and an entry in the metadata, a section in the body.

    Replaces the texts of an earlier label on the same graph and keeps every other character of the README, which may
    be empty. Idempotent. ``sha256`` is the hash of the label's file, which is at ``path`` in the repo.

    Raises:
        CardError: The card cannot be edited safely.
    """
    short = graph.digest[:12]
    entry = _entry(label, sha256, path)

    def block(old: object) -> dict[str, Any]:
        entries = old.get("labels") if isinstance(old, dict) else None
        entries = entries if isinstance(entries, dict) else {}
        kept = {key: value for key, value in entries.items() if _is_short_digest(key) and _is_like(value, entry)}
        return {"schema": _SCHEMA, "labels": dict(sorted({**kept, short: entry}.items()))}

    tags = [LABEL_TAG, graph_tag(graph.digest)]
    return edit_card(readme, tags, "mll", block, f"mll-label-{short}", _section(label, graph, path))


def _entry(label: Label, sha256: str, path: str) -> dict[str, Any]:
    """A label's entry in the card's metadata. It serves search only; the facts are read from the label."""
    return {
        "graph": {
            "name": _name(label.graph_name),
            "digest": label.graph_digest,
            "location": _name(label.graph_location),
        },
        "probes": {"digest": label.probes_digest, "location": _name(label.probes_location)},
        "file": path,
        "sha256": sha256,
        "revision": label.model.revision,
        "recall": round(label.mean_recall, 4),
        "concepts": label.n_tested,
        "tests": _tests(label),
        "temperature": float(f"{float(label.temperature[0]):.4g}"),
        "package_version": _name(label.package_version),
    }


def _is_short_digest(key: object) -> bool:
    return isinstance(key, str) and bool(re.fullmatch("[0-9a-f]{12}", key))


def _is_like(value: object, example: object) -> bool:
    """Whether a YAML value has the structure of an example; numbers may be of any type, strings must be one line."""
    if isinstance(example, dict):
        return isinstance(value, dict) and list(value) == list(example) and all(
            _is_like(value[key], example[key]) for key in example)  # fmt: skip
    if isinstance(example, str):
        return isinstance(value, str) and value.isprintable() and len(value) <= _MAX_NAME_LENGTH
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e15 < value < 1e15


def _name(text: str) -> str:
    return printable(text)[:_MAX_NAME_LENGTH]


def _tests(label: Label) -> int:
    """Tests of concepts: an image tests its concept and the concept's ancestors."""
    return int(label.support.sum(dtype=np.int64))


def _section(label: Label, graph: SemanticGraph, path: str) -> list[str]:
    # No link to the paper: the Hub would tag the model with it.
    environment, page = label.environment, page_of_model(label.model.repo_id)
    facts = [
        ["graph", f"{escaped(_name(label.graph_name))} (`{label.graph_digest[:12]}`)"],
        ["graph from", escaped(_name(label.graph_location))],
        ["images", f"{escaped(_name(label.probes_name))} (`{label.probes_digest[:12]}`), {_tests(label):,} tests"],
        ["revision of the model", f"`{label.model.revision[:12]}`"],
        ["license of the model", escaped(_name(label.license or "unknown"))],
        ["measured on", escaped(_name(f"{environment.device}, {environment.dtype}, torch {environment.torch}"))],
        ["mean recall", f"{label.mean_recall:.1%} ± {label.mean_recall_margin:.1%}"],
    ]
    return _filled(
        "label",
        title=escaped(_name(label.graph_name)),
        concepts=f"{label.n_tested:,}",
        facts="\n".join(markdown_table(["label", f"`{path}`"], facts)),
        branches="".join(f"{line}\n" for line in _branch_tables(branch_recalls(label, graph))),
        library=library_in_markdown(),
        repo_id=label.model.repo_id,
        page=f"\n[Compare this model with others]({page})" if page else "",
    )


def _filled(template: str, **values: str) -> list[str]:
    """The lines of a section."""
    text = resources.files("mll_hf.hub").joinpath("data", f"{template}.md").read_text(encoding="utf-8")
    return Template(text).substitute(values).rstrip("\n").split("\n")


def _branch_tables(branches: Sequence[Branch]) -> list[str]:
    """The best branches of the better half, and the worst of the other half."""
    half = (len(branches) + 1) // 2
    lines: list[str] = []
    for title, shown in (("strongest", branches[:half]), ("weakest", branches[half:][::-1])):
        rows = [
            [escaped(shortened(b.name, 60)), f"{b.recall:.1%}", str(b.concepts),
             escaped(shortened(b.definition, 80))]
            for b in shown[:_BRANCHES_SHOWN]
        ]  # fmt: skip
        header = [f"{title} branches", "recall", "concepts", "meaning"]
        lines += [*markdown_table(header, rows), ""] if rows else []
    return lines


# --- a collection's card ----------------------------------------------------------------------------------------------


def collection_card(repo_id: str, graphs: Sequence[SemanticGraph], readme: str = "") -> str:
    """The README of a dataset repo that collects labels.

    Replaces only our section of an earlier README; an empty one gets metadata and a title.

    Raises:
        CardError: The comments that mark our section do not match.
    """
    graphs = sorted(graphs, key=lambda graph: (graph.name, graph.digest))
    source = f"hf://datasets/{repo_id}"
    lines = _filled("collection", library=library_in_markdown(), source=source, repo_id=repo_id, summary=SUMMARY_PATH)
    title = f"Model labels on {_name(' and '.join(graph.name for graph in graphs))}"
    terms = {"license": "apache-2.0", "configs": [{"config_name": "default", "data_files": SUMMARY_PATH}]}
    return _dataset_card(readme, COLLECTION_TAG, graphs, title, lines, **terms)


# --- cards of a graph and of its images -------------------------------------------------------------------------------


def graph_card(repo_id: str, graph: SemanticGraph, readme: str = "") -> str:
    """The README of a dataset repo with a graph but no images; says where the images are, if the graph does.

    Replaces only our section of an earlier README; an empty one gets metadata and a title.

    Raises:
        CardError: The comments that mark our section do not match.
    """
    is_wordnet = all(_SYNSET.fullmatch(concept.id) for concept in graph.concepts)
    terms = {"license": "other", "license_name": "wordnet"} if is_wordnet else {}
    lines = _filled(
        "graph",
        concepts=f"{len(graph):,}",
        digest=graph.digest[:12],
        source=f"hf://datasets/{repo_id}",
        images="".join(f"{line}\n" for line in (_images_lines(graph.probes) if graph.probes else ())),
        terms=_WORDNET if is_wordnet else "",
    )
    title = f"{_name(graph.name)}: visual concepts"
    return _dataset_card(readme, GRAPH_TAG, [graph], title, lines, viewer=False, **terms)


def _images_lines(probes: ProbeCounts) -> list[str]:
    where = f"in {escaped(_name(probes.location))}" if probes.location else "not on the Hub"
    by_domain = Counter[str]()
    sources: dict[str, set[str]] = defaultdict(set)
    for (domain, source), count in zip(probes.kinds, probes.by_kind(), strict=True):
        by_domain[domain] += count
        sources[domain].add(_name(source))
    rows = [[escaped(_name(domain)), f"{count:,}", escaped(abridged(sorted(sources[domain]), 5))]
            for domain, count in sorted(by_domain.items())]  # fmt: skip
    return [
        f"The {probes.total:,} probe images (digest `{probes.digest[:12]}`) are {where}. They are needed only to "
        "measure models: labels can be read, compared and used without access to them.",
        "",
        *markdown_table(["domain", "images", "sources"], rows),
        "",
    ]


def images_card(graph: SemanticGraph, graph_repo: str, readme: str = "") -> str:
    """The README of a dataset repo with the probe images of a graph; arguments and errors as in :func:`graph_card`."""
    lines = _filled("images", graph=graph_repo)
    files = [{"config_name": "default", "data_files": [{"split": "test", "path": "images*.parquet"}]}]
    return _dataset_card(readme, IMAGES_TAG, [graph], f"{_name(graph.name)}: probe images", lines, configs=files)


def _dataset_card(
    readme: str,
    tag: str,
    graphs: Sequence[SemanticGraph],
    title: str,
    lines: Sequence[str],
    **fields: Any,  # noqa: ANN401
) -> str:
    """A README with our section; an empty one gets metadata, for the Hub and its viewer, and a title."""
    if not readme.strip():
        tags = [tag, *(graph_tag(graph.digest) for graph in graphs)]
        metadata = DatasetCardData(pretty_name=title, tags=tags, **fields)
        readme = f"---\n{metadata.to_yaml()}\n---\n\n# {escaped(title)}\n"
    return put_section(readme, tag, lines)
