"""Build the table of known models in mll_hf/models/data, and their published figures in scripts/known_models/figures.

    python scripts/known_models/build.py                   # only the models of scripts/known_models/pages.csv
    python scripts/known_models/build.py --tables DIR
    python scripts/known_models/build.py --tables DIR --check

DIR holds the published tables: openclip_results.csv, openclip_model_profile.csv, clip_benchmark.csv,
mobileclip_results.csv, models_2026.csv, mteb_zeroshot.csv, babel_imagenet_12models.csv, specialist_tables.csv,
whu_rs19_accuracy_by_prompt.csv, biobench_probe_means.csv and per_class_recall.parquet. Names of pretrained weights
come from the installed open_clip; scripts/known_models/ has facts that were looked up by hand, with their sources:

- aliases.csv: names of models in a source that differ from the names used here;
- counted.csv: parameters and GFLOPs of architectures that are not in open_clip's profile, counted on models without
  weights;
- languages.csv: languages that families of models were trained for, "many" for more than a hundred; English otherwise;
- families.csv: license and bytes per parameter of families of repositories; the first matching pattern applies
  (the EVA repositories have 16-bit weights, as all six that were checked);
- mteb_models.csv: parameters, size in memory and license of the models that MTEB measured;
- pages.csv: models that are in no table, with what their pages say; ``architecture`` names one of open_clip with the
  same towers, ``image_tower`` one with the same image tower;
- stated.csv: figures of specialists beside general models on their pages;
- paper.csv: the 49 models of the paper's Table 6, in its order;
- twins.csv: repositories with the same weights in another layout;
- weights.csv: sizes of weights as shown on the Hub.

The command prints which of the committed files differ. With --check nothing is written, and the exit status is 1 if
anything would change.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from known_models import domain_figures

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "mll_hf" / "models" / "data"
LOOKED_UP = Path(__file__).resolve().parent
FIGURES = LOOKED_UP / "figures"
RECALL_SCALE = 65535
BYTES_PER_PARAMETER = 4  # float32, unless families.csv says otherwise

MODEL_COLUMNS = (
    *("name", "hub_id", "twin", "architecture", "tag", "backend", "loadable", "weights", "gated"),
    *("domains", "languages", "prompt"),
    *("parameters", "parameters_source", "gflops", "image_gflops", "text_gflops", "gflops_source"),
    *("download_bytes", "download_is_estimate", "download_source", "license", "license_source"),
    *("imagenet", "imagenet_source", "revision", "twin_revision", "paper_place", "source", "readme"),
)
PAGE_COLUMNS = (
    *("name", "hub_id", "twin", "architecture", "image_tower", "backend", "loadable", "weights", "gated"),
    *("parameters", "image_gflops", "text_gflops", "download_bytes", "license"),
    *("domains", "languages", "prompt", "imagenet", "page"),
)
WEIGHTS = {"yes": "safetensors", "no": "pickle only", "": "not checked"}
FIGURE_ORDER = {
    "parameters": ("open_clip", "profile", "counted", "readmes", "mteb"),
    "imagenet": ("open_clip", "mobileclip", "readmes", "frequency", "clip_benchmark"),
}

Row = dict[str, str]


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit status (0 done or unchanged, 1 would change, 2 wrong usage or bad tables)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=Path, metavar="DIR", help="folder of the published tables")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if anything would change")
    options = parser.parse_args(arguments)
    try:
        files = build(options.tables) if options.tables else build_pages()
    except (OSError, KeyError, ValueError) as error:
        print(f"error: a table is missing or invalid: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    report = changes(files)
    print("\n".join(report) or "nothing changed")
    if options.check:
        return 1 if report else 0
    for name, content in files.items():
        place(name).write_bytes(content)
    return 0


def place(name: str) -> Path:
    """Path of a generated file: in the package, or among the figures that only scripts read."""
    return (DATA if name in ("known_models.csv", "figures.csv") else FIGURES) / name


def build(tables: Path) -> dict[str, bytes]:
    """All generated data files by name."""
    models = Models(tables)
    measured = measurements(tables, models)
    recall, about = class_recalls(tables, models)
    names = set(models.rows)
    if unknown := {row["model"] for row in measured} - names:
        raise ValueError(f"figures of unknown models {sorted(unknown)}; add them to aliases.csv")
    rows = with_pages(models.rows.values())
    datasets = read(FIGURES / "datasets.csv")
    figures = domain_figures.figure_rows(tables, measured, rows, datasets, looked_up("stated"), models.aliases)
    return {
        "known_models.csv": to_csv(MODEL_COLUMNS, rows),
        "figures.csv": to_csv(domain_figures.COLUMNS, figures),
        "accuracies.csv": to_csv(("source", "model", "dataset", "metric", "value"), measured),
        "stated_figures.csv": to_csv(("model", "figure", "value", "source"), models.stated_rows()),
        "class_recalls.npy": to_npy(recall),
        "class_recalls.json": (json.dumps(about, indent=0, ensure_ascii=False) + "\n").encode(),
    }


def build_pages() -> dict[str, bytes]:
    """known_models.csv with updated models of pages.csv; all others are unchanged."""
    return {"known_models.csv": to_csv(MODEL_COLUMNS, with_pages(read(DATA / "known_models.csv")))}


def with_pages(rows: Iterable[Row]) -> list[Row]:
    """The rows of models in a table, then those that are only in pages.csv."""
    rows = [row for row in rows if row["source"] != "hub"]
    ids = {row["hub_id"] for row in rows}
    costs = costs_by_architecture(rows)
    return [*rows, *(row_of_page(entry, costs) for entry in looked_up("pages") if entry["hub_id"] not in ids - {""})]


def costs_by_architecture(rows: Iterable[Row]) -> dict[str, Row]:
    """Parameters and GFLOPs of each architecture: of a model that has it, else as counted."""
    columns = ("parameters", "image_gflops", "text_gflops")
    known = {row["architecture"]: row for row in [*looked_up("counted"), *rows] if row["image_gflops"]}
    return {name: {column: row[column] for column in columns} for name, row in known.items()}


def row_of_page(entry: Row, costs: dict[str, Row]) -> Row:
    """The row of a model from its page; what the page does not say follows from its architecture or image tower."""
    same = costs[entry["architecture"]] if entry["architecture"] else {}
    tower = costs[entry["image_tower"]] if entry["image_tower"] else {}
    found = {column: entry[column] or same.get(column, "") for column in ("parameters", "image_gflops", "text_gflops")}
    found["image_gflops"] = found["image_gflops"] or tower.get("image_gflops", "")
    if found["image_gflops"] and found["text_gflops"]:
        found["gflops"] = f"{float(found['image_gflops']) + float(found['text_gflops']):.2f}"
    size, origin, counted = entry["download_bytes"], "hub", "architecture"
    if found["parameters"] and not size:
        size, origin = str(int(found["parameters"]) * BYTES_PER_PARAMETER), f"parameters x {BYTES_PER_PARAMETER} bytes"
    elif size and entry["image_tower"] and not found["parameters"]:
        found["parameters"], counted = str(int(size) // BYTES_PER_PARAMETER), f"bytes / {BYTES_PER_PARAMETER}"
    copied = ("name", "hub_id", "twin", "architecture", "backend", "loadable", "weights", "gated", "license")
    return dict.fromkeys(MODEL_COLUMNS, "") | {
        **{column: entry[column] for column in (*copied, "domains", "languages", "prompt")},
        **found,
        **{f"{figure}_source": "hub" for figure in ("parameters", "license", "imagenet") if entry[figure]},
        **({"parameters_source": counted} if found["parameters"] and not entry["parameters"] else {}),
        **({"gflops_source": "hub" if entry["image_gflops"] else "architecture"} if found["image_gflops"] else {}),
        **{"imagenet": fraction(entry["imagenet"]) if entry["imagenet"] else "", "download_bytes": size},
        **({"download_is_estimate": "no" if origin == "hub" else "yes", "download_source": origin} if size else {}),
        **{"source": "hub", "readme": entry["page"]},
    }


class Models:
    """The rows of known_models.csv, gathered source by source."""

    def __init__(self, tables: Path) -> None:
        self.rows: dict[str, Row] = {}
        self.stated: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
        self._by_hub_id: dict[str, list[str]] = defaultdict(list)
        self.aliases = {(row["source"], row["name"]): row["model"] for row in looked_up("aliases")}
        self._tags, self._pickles = open_clip_tags()
        self._add_open_clip(read(tables / "openclip_results.csv"))
        self._add_readmes(read(tables / "models_2026.csv"))
        self._add_tags()
        self._add_mobileclip(read(tables / "mobileclip_results.csv"))
        self._add_twins()
        self._add_mteb(read(tables / "mteb_zeroshot.csv"))
        self._add_research(tables)
        self._add_clip_benchmark(read(tables / "clip_benchmark.csv"))
        self._add_costs(read(tables / "openclip_model_profile.csv"))
        self._choose_figures()
        self._add_facts_of_repositories()
        self._add_languages()
        for row in looked_up("paper"):
            self.rows[f"{row['architecture']}/{row['tag']}"]["paper_place"] = row["place"]

    def named(self, source: str, name: str) -> str:
        """Our name of a model that `source` calls `name`."""
        return self.aliases.get((source, name), name)

    def of_repository(self, hub_id: str) -> list[str]:
        """Names of the models of a repository."""
        return self._by_hub_id.get(hub_id, [])

    def stated_rows(self) -> list[Row]:
        """Figures of models for which there are two or more sources."""
        return [
            {"model": name, "figure": figure, "value": value, "source": source}
            for name, figures in self.stated.items()
            for figure, values in figures.items()
            if len(values) > 1
            for source, value in values.items()
        ]

    def _add(self, name: str, source: str, **columns: str) -> Row:
        row = self.rows.get(name)
        if row is None:
            row = self.rows[name] = dict.fromkeys((*MODEL_COLUMNS, "safetensors"), "")
            row |= {"name": name, "loadable": "no"} | columns
            row["backend"] = row["backend"] or "open_clip"
            if row["hub_id"]:
                self._by_hub_id[row["hub_id"]].append(name)
        if source not in row["source"].split():
            row["source"] = f"{row['source']} {source}".strip()
        return row

    def _add_weights_of_open_clip(self, architecture: str, tag: str, source: str) -> Row:
        hub_id = self._tags.get((architecture, tag), "")
        loadable = "yes" if hub_id else "no"
        row = self._add(
            f"{architecture}/{tag}", source, hub_id=hub_id, architecture=architecture, tag=tag, loadable=loadable
        )
        if hub_id in self._pickles:
            row["safetensors"] = "no"
        return row

    def _add_open_clip(self, table: list[Row]) -> None:
        for entry in table:
            row = self._add_weights_of_open_clip(entry["name"], entry["pretrained"], "open_clip")
            row["gflops"], row["gflops_source"] = entry["FLOPs (B)"], "open_clip"
            self.stated[row["name"]]["parameters"]["open_clip"] = millions(entry["params (M)"])
            self.stated[row["name"]]["imagenet"]["open_clip"] = fraction(entry["ImageNet 1k"])

    def _add_readmes(self, table: list[Row]) -> None:
        for entry in table:
            hub_id, twin = entry["hub_id"], entry["alt_hub_id"]
            if hub_id.startswith("facebook/metaclip-2"):  # the open_clip layout is the one in open_clip's table
                hub_id, twin = twin, hub_id
            if hub_id == "timm MetaCLIP 1 bigG (metaclip_fullcc)":
                hub_id = self._tags["ViT-bigG-14-quickgelu", "metaclip_fullcc"]
            if "*" in hub_id:  # a family without figures of one model
                continue
            if hub_id not in self._by_hub_id and (weights := self._weights_of(hub_id)):
                self._add_weights_of_open_clip(*weights, "readmes")
            elif hub_id not in self._by_hub_id:
                backend = "open_clip" if entry["backend"].startswith("open_clip") else "other"
                loadable = "yes" if backend == "open_clip" else "no"
                self._add(hub_id, "readmes", hub_id=hub_id, backend=backend, loadable=loadable)
            for name in self.of_repository(hub_id):
                row = self._add(name, "readmes")
                row["twin"], row["readme"] = row["twin"] or twin, entry["source"]
                row["license"], row["license_source"] = license_of_readme(entry["licence"])
                layout = entry["safetensors_open_clip_layout"]
                row["safetensors"] = {"yes": "yes", "no (pytorch_model.bin)": "no"}.get(layout, row["safetensors"])
                if entry["params_m"].isdecimal():
                    self.stated[name]["parameters"]["readmes"] = millions(entry["params_m"])
                accuracy = entry["imagenet_zeroshot"].split(" ")[0].lstrip("~")
                if accuracy.replace(".", "").isdecimal() and "OSTB" not in entry["imagenet_zeroshot"]:
                    self.stated[name]["imagenet"]["readmes"] = fraction(str(float(accuracy) / 100))

    def _weights_of(self, hub_id: str) -> tuple[str, str] | None:
        """Architecture and tag under which open_clip lists a repository; with QuickGELU if there are both."""
        found = [weights for weights, repository in self._tags.items() if repository == hub_id]
        return max(found, key=lambda weights: "quickgelu" in weights[0], default=None)

    def _add_tags(self) -> None:
        for hub_id in dict.fromkeys(self._tags.values()):
            if hub_id and hub_id not in self._by_hub_id and (weights := self._weights_of(hub_id)):
                self._add_weights_of_open_clip(*weights, "tags")

    def _add_mobileclip(self, table: list[Row]) -> None:
        for entry in table:
            name = self.aliases["mobileclip", entry["model"]]
            if tuple(name.split("/")) in self._tags:
                row = self._add_weights_of_open_clip(*name.split("/"), "mobileclip")
            else:
                row = self._add(name, "mobileclip", hub_id=name if "/" in name else "", backend="other")
            if entry["key"] == "imagenet1k":
                self.stated[row["name"]]["imagenet"]["mobileclip"] = fraction(entry["acc1"])

    def _add_twins(self) -> None:
        for entry in looked_up("twins"):
            for name in self.of_repository(entry["hub_id"]):
                self.rows[name]["twin"] = entry["twin"]

    def _add_mteb(self, table: list[Row]) -> None:
        facts = {row["name"]: row for row in looked_up("mteb_models")}
        twins: dict[str, list[str]] = defaultdict(list)
        for name, row in self.rows.items():
            if row["twin"]:
                twins[row["twin"]].append(name)
        for mteb_name, revision in {entry["model"]: entry["model_revision"] for entry in table}.items():
            fact = facts.get(mteb_name, {})
            alias = self.named("mteb", mteb_name)
            if alias in self.rows:
                names, column = [alias], "twin_revision"
            elif names := self.of_repository(mteb_name):
                column = "revision"
            elif names := twins[mteb_name]:
                column = "twin_revision"
            else:
                hub_id = mteb_name if fact else ""
                names, column = [mteb_name], "revision"
                row = self._add(mteb_name, "mteb", hub_id=hub_id, backend="other")
                row["safetensors"] = fact.get("safetensors", "")
                row["license"], row["license_source"] = fact.get("license", ""), "mteb" if fact.get("license") else ""
                if memory := fact.get("memory_mb"):
                    row["download_bytes"] = str(int(memory) * 2**20)
                    row["download_is_estimate"] = "yes"
                    row["download_source"] = "mteb: memory of the weights"
            for name in names:
                row = self._add(name, "mteb")
                row[column] = "" if revision == "1" else revision
                if column == "revision" and not row["safetensors"]:
                    row["safetensors"] = fact.get("safetensors", "")
                if fact.get("parameters"):
                    self.stated[name]["parameters"]["mteb"] = fact["parameters"]
            for other in names:
                self.aliases.setdefault(("mteb", mteb_name), other)

    def _add_research(self, tables: Path) -> None:
        for entry, accuracy in imagenet_of_recall(tables).items():
            name = self.aliases["frequency", entry]
            architecture, tag = entry.split("/")
            self._add(name, "frequency", architecture=architecture, tag=tag)
            self.stated[name]["imagenet"]["frequency"] = fraction(str(accuracy))

    def _add_clip_benchmark(self, table: list[Row]) -> None:
        for entry in table:
            name = f"{entry['model']}/{entry['pretrained']}"
            self._add(name, "clip_benchmark", architecture=entry["model"], tag=entry["pretrained"])
            if entry["dataset"] == "imagenet1k":
                self.stated[name]["imagenet"]["clip_benchmark"] = fraction(entry["acc1"])

    def _add_costs(self, profile: list[Row]) -> None:
        profiled = {row["model"]: row for row in profile}
        counted = {row["architecture"]: row for row in looked_up("counted")}
        for name, row in self.rows.items():
            if entry := profiled.get(row["architecture"]):
                row["image_gflops"], row["text_gflops"] = entry["image_gflops"], entry["text_gflops"]
                row["gflops"] = row["gflops"] or entry["gflops"]
                row["gflops_source"] = row["gflops_source"] or "profile"
                self.stated[name]["parameters"]["profile"] = millions(entry["mparams"])
            elif entry := counted.get(row["architecture"]):
                row["image_gflops"], row["text_gflops"] = entry["image_gflops"], entry["text_gflops"]
                row["gflops"] = row["gflops"] or f"{float(entry['image_gflops']) + float(entry['text_gflops']):.2f}"
                row["gflops_source"] = row["gflops_source"] or "counted"
                self.stated[name]["parameters"]["counted"] = entry["parameters"]

    def _choose_figures(self) -> None:
        for name, row in self.rows.items():
            for figure, order in FIGURE_ORDER.items():
                source = next((source for source in order if source in self.stated[name][figure]), "")
                row[figure] = self.stated[name][figure].get(source, "")
                row[f"{figure}_source"] = source

    def _add_facts_of_repositories(self) -> None:
        families = looked_up("families")
        pages = {row["hub_id"]: row for row in looked_up("weights")}
        for row in self.rows.values():
            page = pages.get(row["hub_id"], {})
            family = next((f for f in families if row["hub_id"] and fnmatchcase(row["hub_id"], f["pattern"])), {})
            if family:
                row["license"], row["license_source"] = family["license"], family["license_source"]
            row["safetensors"] = page.get("safetensors") or row["safetensors"]
            if page.get("bytes"):
                row["download_bytes"], row["download_is_estimate"] = page["bytes"], "no"
                row["download_source"] = f"hub: page at {page['page']}"
            elif row["parameters"] and row["hub_id"] and not row["download_bytes"]:
                size = int(family.get("bytes_per_parameter", BYTES_PER_PARAMETER))
                row["download_bytes"] = str(int(row["parameters"]) * size)
                row["download_is_estimate"] = "yes"
                row["download_source"] = f"parameters x {size} bytes"

    def _add_languages(self) -> None:
        claims = looked_up("languages")
        for row in self.rows.values():
            names = (row["hub_id"], row["name"])
            claim = next((c for c in claims if any(fnmatchcase(name, c["pattern"]) for name in names)), {})
            row["languages"] = claim.get("languages", "en")
            weights = row.pop("safetensors")
            row["weights"] = WEIGHTS.get(weights, weights)


def measurements(tables: Path, models: Models) -> list[Row]:
    """Rows of accuracies.csv: by source, then in the source's order of models and datasets."""
    datasets = read(FIGURES / "datasets.csv")
    known: dict[tuple[str, str], Row] = {
        (table, name): row
        for row in datasets
        for table in ("open_clip", "clip_benchmark", "mteb", "frequency")
        for name in row[table].split("|")
        if name
    }
    rows = []

    def add(source: str, model: str, dataset: str, metric: str, value: str) -> None:
        rows.append({"source": source, "model": model, "dataset": dataset, "metric": metric, "value": fraction(value)})

    for entry in read(tables / "openclip_results.csv"):
        for column, value in list(entry.items())[5:]:
            dataset = known["open_clip", column]
            if value:
                name = f"{entry['name']}/{entry['pretrained']}"
                add("open_clip", name, dataset["id"], dataset["open_clip_metric"], value)
    for source, table in (("mobileclip", "mobileclip_results.csv"), ("clip_benchmark", "clip_benchmark.csv")):
        for entry in read(tables / table):
            key = entry["key"] if source == "mobileclip" else entry["dataset"]
            name = entry["model"] if source == "mobileclip" else f"{entry['model']}/{entry['pretrained']}"
            for metric in ("acc1", "mean_per_class_recall"):
                if entry[metric]:
                    add(source, models.named(source, name), known["clip_benchmark", key]["id"], metric, entry[metric])
    for entry in read(tables / "mteb_zeroshot.csv"):
        add("mteb", models.named("mteb", entry["model"]), known["mteb", entry["task"]]["id"], "acc1", entry["accuracy"])
    order = {name: place for place, name in enumerate(models.rows)}
    places = {row["id"]: place for place, row in enumerate(datasets)}
    sources = list(dict.fromkeys(row["source"] for row in rows))
    return sorted(
        rows, key=lambda r: (sources.index(r["source"]), order[r["model"]], places[r["dataset"]], r["metric"])
    )


def read_recall(tables: Path) -> tuple[list[str], list[str], dict[str, list[str]], np.ndarray]:
    """Models, prompt sets, classes of each dataset, and [M, P, C] recall of per_class_recall.parquet."""
    import pyarrow.parquet as pq

    table = pq.read_table(tables / "per_class_recall.parquet").to_pydict()
    models, prompts = sorted(set(table["model"])), sorted(set(table["prompts"]))
    classes: dict[str, dict[str, None]] = defaultdict(dict)
    for dataset, name in zip(table["dataset"], table["class"], strict=True):
        classes[dataset].setdefault(name)
    position = {(d, name): None for d in sorted(classes) for name in classes[d]}
    position = {key: place for place, key in enumerate(position)}
    recall = np.full((len(models), len(prompts), len(position)), np.nan)
    for dataset, name, model, prompt, value in zip(
        table["dataset"], table["class"], table["model"], table["prompts"], table["recall"], strict=True
    ):
        recall[models.index(model), prompts.index(prompt), position[dataset, name]] = value
    if not ((recall >= 0) & (recall <= 1)).all():
        raise ValueError("per_class_recall.parquet lacks values, or has recall outside 0 to 1")
    return models, prompts, {dataset: list(classes[dataset]) for dataset in sorted(classes)}, recall


def imagenet_of_recall(tables: Path) -> dict[str, float]:
    """Accuracy on ImageNet (50 images a class) with 80 templates by the names of per_class_recall.parquet."""
    models, prompts, classes, recall = read_recall(tables)
    places = [d == "imagenet" for d, names in classes.items() for _ in names]
    values = recall[:, prompts.index("ensemble"), places].sum(axis=1) / sum(places)
    return dict(zip(models, values.tolist(), strict=True))


def class_recalls(tables: Path, models: Models) -> tuple[np.ndarray, dict[str, object]]:
    """[M, P, C] uint16 recall, and a description of its axes."""
    names, prompts, classes, recall = read_recall(tables)
    ids = {row["frequency"]: row["id"] for row in read(FIGURES / "datasets.csv") if row["frequency"]}
    about = {
        "source": "frequency",
        "models": [models.aliases["frequency", name] for name in names],
        "prompts": prompts,
        "classes": {ids[dataset]: of_dataset for dataset, of_dataset in classes.items()},
    }
    return np.rint(recall * RECALL_SCALE).astype("<u2"), about


def open_clip_tags() -> tuple[dict[tuple[str, str], str], set[str]]:
    """Repository of each architecture and tag of the installed open_clip, and the repositories with pickles.

    A tag whose repository is named after another tag of the architecture gets none: open_clip 3.3 lists
    ``laion400m_e32`` of ViT-B-16-plus-240 with the repository of ``laion400m_e31``, which has different weights.
    """
    from open_clip import pretrained

    repositories, pickles = {}, set()
    for architecture, tags in pretrained._PRETRAINED.items():
        for tag, config in tags.items():
            owner, _, rest = config["hf_hub"].partition("/")
            name, _, file = rest.partition("/")
            elsewhere = name.rsplit(".", 1)[-1] in tags.keys() - {tag}
            repositories[architecture, tag] = "" if elsewhere or not name else f"{owner}/{name}"
            if file.endswith(".bin"):
                pickles.add(f"{owner}/{name}")
    return repositories, pickles


def changes(files: dict[str, bytes]) -> list[str]:
    """A line for each file that differs from the committed one; ``git diff`` shows the figures."""
    old = {name: place(name).read_bytes() if place(name).is_file() else b"" for name in files}
    return [f"{name}: changed" for name, content in files.items() if old[name] != content]


def read(path: Path) -> list[Row]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def looked_up(name: str) -> list[Row]:
    """Rows of a file of scripts/known_models."""
    return read(LOOKED_UP / f"{name}.csv")


def to_csv(columns: Iterable[str], rows: Iterable[Row]) -> bytes:
    """A CSV file with Unix line endings."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def to_npy(array: np.ndarray) -> bytes:
    """A file in NumPy's format."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def millions(text: str) -> str:
    """Parameters given in millions, as an integer."""
    return str(round(float(text) * 1e6))


def fraction(text: str) -> str:
    """A figure between 0 and 1 with at most five digits after the point."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text} is not between 0 and 1")
    return f"{value:.5f}".rstrip("0").rstrip(".")


def license_of_readme(text: str) -> tuple[str, str]:
    """License id and its source from a cell such as ``apple-amlr (model TOU)``."""
    name = text.split(" ")[0]
    return ("", "") if name in ("", "unverified") else (name, "readmes")


if __name__ == "__main__":
    sys.exit(main())
