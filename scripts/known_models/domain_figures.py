"""Published figures by data set, domain and language: mll_hf/models/data/figures.csv, which build.py writes.

- General data sets: zero-shot accuracies of the models that can be loaded and have .6 on ImageNet, from open_clip,
  else ml-mobileclip, else MTEB. Their domain is the column ``topic`` of figures/datasets.csv.
- Languages: Babel-ImageNet, where at least 200 classes have a name, with the names as prompts.
- Domains: tables of specialists beside general models; models that we do not know by a repo are left out unless they
  are the general ones.
- BioBench: probes on frozen embeddings, named so.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

COLUMNS = ("model", "dataset", "domain", "language", "metric", "value", "sets", "source")
SOURCES = ("open_clip", "mobileclip", "mteb")  # of general data sets, the first that has a model's figure
MIN_CLASSES = 200  # with a name in a language
BABEL_CODES = {"ZH_YUE": "yue"}  # other codes are those of ISO 639 in capitals
SPECIALISTS = {"SiyuanYan1/DermFM-Zero": "dermfm", "CONCH": "conch", "lexus-x/FishONet": "fishonet"}
METRICS = {"acc1": "accuracy", "mean_per_class_recall": "mean recall", "macro_f1": "f1"}
MIN_IMAGENET = 0.6  # weaker general models are never the best choice

Row = dict[str, str]


def figure_rows(
    tables: Path,
    measured: Iterable[Row],
    models: Sequence[Row],
    datasets: Sequence[Row],
    stated: Iterable[Row],
    aliases: Mapping[tuple[str, str], str],
) -> list[Row]:
    """The rows of figures.csv."""
    loadable = {row["name"] for row in models if row["loadable"] == "yes"}
    found = [
        *_general(measured, models, {row["id"]: row for row in datasets}),
        *_languages(_read(tables / "babel_imagenet_12models.csv"), loadable, aliases),
        *_specialists(_read(tables / "specialist_tables.csv"), aliases),
        *_aerial(_read(tables / "whu_rs19_accuracy_by_prompt.csv"), aliases),
        *_probes(_read(tables / "biobench_probe_means.csv"), {row["name"] for row in models}, aliases),
        *stated,
    ]
    return [{"language": "", "sets": "1"} | row | {"value": f"{float(row['value']):.4g}"} for row in found]


def _general(measured: Iterable[Row], models: Sequence[Row], datasets: Mapping[str, Row]) -> Iterator[Row]:
    usable = {
        row["name"]
        for row in models
        if row["loadable"] == "yes" and row["weights"] != "pickle only" and float(row["imagenet"] or 0) >= MIN_IMAGENET
    }
    best: dict[tuple[str, str], Row] = {}
    for row in sorted(measured, key=lambda row: (*SOURCES, row["source"]).index(row["source"])):
        is_used = row["source"] in SOURCES and row["model"] in usable and row["metric"] in METRICS
        if is_used and datasets[row["dataset"]]["task"] == "classification":
            best.setdefault((row["model"], row["dataset"]), row)
    for (model, dataset), row in best.items():
        described = {"model": model, "dataset": dataset, "domain": datasets[dataset]["topic"], "value": row["value"]}
        yield described | {"metric": METRICS[row["metric"]], "source": row["source"]}


def _languages(table: Iterable[Row], loadable: set[str], aliases: Mapping[tuple[str, str], str]) -> Iterator[Row]:
    for row in table:
        name = aliases.get(("babel", row["model"]), row["model"])
        if name in loadable and row["prompt"] == "label" and int(row["num_classes"]) >= MIN_CLASSES:
            language = BABEL_CODES.get(row["lang"], row["lang"].lower())
            described = {"model": name, "dataset": "imagenet-1k", "domain": "", "language": language}
            yield described | {"metric": "accuracy", "value": row["accuracy"], "source": "babel"}


def _specialists(table: Iterable[Row], aliases: Mapping[tuple[str, str], str]) -> Iterator[Row]:
    for row in table:
        source = next((id for start, id in SPECIALISTS.items() if row["source"].startswith(start)), "")
        if model := aliases.get((source, row["model"])):
            domain = "species" if row["domain"] == "fish" else row["domain"]
            copied = {column: row[column] for column in ("dataset", "metric", "value")}
            yield {"model": model, "domain": domain, **copied, "source": source}


def _aerial(table: Sequence[Row], aliases: Mapping[tuple[str, str], str]) -> Iterator[Row]:
    for model in list(table[0])[1:]:
        value = sum(float(row[model]) for row in table) / len(table)
        described = {"model": aliases.get(("transclip", model), model), "dataset": "whu-rs19"}
        yield described | {
            "domain": "remote sensing", "metric": "accuracy", "value": str(value), "source": "transclip",
        }  # fmt: skip


def _probes(table: Iterable[Row], known: set[str], aliases: Mapping[tuple[str, str], str]) -> Iterator[Row]:
    for row in table:
        model = aliases.get(("biobench", row["model"]), row["model"].removeprefix("hf-hub:"))
        for dataset, value in row.items():
            if model in known and value and dataset not in ("model", "family", "params", "imagenet1k"):
                described = {"model": model, "dataset": dataset, "domain": "species", "metric": "probe"}
                yield described | {"value": value, "source": "biobench"}


def _read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
