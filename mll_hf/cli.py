"""The command line: one parser, one small function per verb, one place where errors become messages."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf import __version__, describe
from mll_hf.client import Client
from mll_hf.describe import LanguageModel
from mll_hf.errors import InputError, LabelError, MLLError, StorageError, abridged
from mll_hf.graph import load_graph
from mll_hf.prompts import check_class_names, parse_class_names
from mll_hf.report import label_report, selection_report, table
from mll_hf.selection import Selection, SelectionConfig, Strategy
from mll_hf.store import LABEL_FILE, LabelStore, read_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mll_hf.describe import Description
    from mll_hf.ensemble.run import Prediction
    from mll_hf.labels import ModelLabel

_IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 done, 1 failed, 2 misused, 130 interrupted)."""
    args = build_parser().parse_args(arguments)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except MLLError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        _complain("interrupted; what was finished is kept, and the same command goes on from there")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has what it wanted
        return 0
    return status


# --- the verbs --------------------------------------------------------------------------------------------------------


def _label(args: argparse.Namespace) -> int:
    from mll_hf.backends import resolve_model
    from mll_hf.labeling import label_model
    from mll_hf.probes import SamplingConfig, load_probes

    graph, store = load_graph(args.graph), LabelStore(args.labels)
    probes = load_probes(graph, args.graph, SamplingConfig(args.images_per_concept, args.seed))
    failed = 0
    for spec in args.models:
        try:
            result = label_model(
                resolve_model(spec),
                graph,
                probes,
                store,
                device=args.device,
                batch_size=args.batch_size,
                keep_embeddings=args.keep_embeddings,
                overwrite=args.overwrite,
            )
        except StorageError:
            raise  # the next model would meet the same full disk
        except MLLError as error:
            failed += 1
            _complain(str(error))
            continue
        if result.undecodable:
            _note(f"{spec}: {result.undecodable} of {len(probes)} probe images could not be decoded and do not count")
        summary = {**_summary(result.label), "path": str(result.path), "measured": result.measured}
        done = "labelled" if result.measured else "already labelled"
        _print_row(args, summary, f"{done}: {spec} (general precision {result.label.mean_precision:.3f})")
    return _verdict(failed, len(args.models), "models")


def _labels_ls(args: argparse.Namespace) -> int:
    labels = sorted(LabelStore(args.labels).labels, key=lambda label: -label.mean_precision)
    if args.json:
        print(json.dumps([_summary(label) for label in labels]))
        return 0
    header = ["model", "revision", "backend", "precision", "parameters", "GFLOPs"]
    rows = [
        [
            label.model.repo_id,
            label.model.revision[:12],
            label.model.backend,
            f"{label.mean_precision:.3f}",
            f"{label.cost.parameters / 1e6:.1f} M",
            f"{label.cost.gflops:.3g}",
        ]
        for label in labels
    ]
    print(table(header, rows))
    return 0


def _labels_show(args: argparse.Namespace) -> int:
    store = LabelStore(args.labels)
    label = _find_label(store, args.model)
    if args.json:
        print(json.dumps(_summary(label)))
    else:
        print(label_report(label, store.graph))
    return 0


def _labels_check(args: argparse.Namespace) -> int:
    failed, paths = 0, _label_files(args.path)
    for path in paths:
        try:
            label = read_label(path)
        except LabelError as error:
            failed += 1
            _complain(str(error))
            continue
        _print_row(args, {"path": str(path), **_summary(label)}, f"valid: {path}")
    return _verdict(failed, len(paths), "labels")


def _select(args: argparse.Namespace) -> int:
    selection = _make_selection(args)
    if args.json:
        print(json.dumps(selection.to_json()))
        return 0
    print(selection_report(selection))
    uncovered = [name for name, cover in zip(selection.classes, selection.coverage, strict=True) if cover < 0.1]
    if uncovered and selection.strategy is Strategy.MLL:
        _note(
            f"the graph has nothing like {abridged(uncovered, 5)}; for these classes the models' general level "
            "decides, so try the choice on some images of yours"
        )
    return 0


def _predict(args: argparse.Namespace) -> int:
    from mll_hf.ensemble import Rule
    from mll_hf.ensemble.run import Ensemble

    selection = _read_selection(args.selection) if args.selection else _make_selection(args)
    images = _image_files(args.images)
    ensemble = Ensemble(selection, args.device, tuple(args.template) if args.template else None)
    prediction = ensemble.predict(images, Rule(args.rule))
    _print_prediction(args, images, prediction)
    for n in prediction.unreadable:
        _complain(f"{images[n]} is no readable image; convert or remove it")
    return 1 if prediction.unreadable else 0


# --- the parser -------------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="mll-hf",
        description="Choose and reuse open vision-language models without trying them all: measure each model once "
        "on a graph of visual concepts (label), ask which models suit a list of classes (select), and classify images "
        "with the chosen ones (predict).",
        epilog="Example: mll-hf select --classes 'dog, cat, teapot' --labels my-labels",
    )
    parser.add_argument("--version", action="version", version=f"mll-hf {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_label(verbs)
    _add_labels(verbs)
    _add_select(verbs)
    _add_predict(verbs)
    return parser


def _add_label(verbs: Any) -> None:  # noqa: ANN401 - argparse keeps the type private
    verb = verbs.add_parser(
        "label",
        help="measure models on a graph and keep their labels",
        description="Measure each model once on a graph's probe images and write its label. Models that are labelled "
        "already are skipped; an interrupted run goes on where it stopped; a model that fails does not stop the rest.",
    )
    verb.add_argument("models", nargs="+", metavar="MODEL", help="org/name[@revision] on the Hub, or local-dir:PATH")
    verb.add_argument(
        "--graph", type=Path, required=True, metavar="DIR", help="folder with graph.json and images*.parquet"
    )
    verb.add_argument("--labels", type=Path, required=True, metavar="DIR", help="folder that the labels go to")
    verb.add_argument(
        "--images-per-concept", type=_positive, default=75, metavar="N", help="most images per concept (default: 75)"
    )
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sample of images (default: 0)")
    verb.add_argument("--batch-size", type=_positive, default=128, metavar="N", help="images at a time (default: 128)")
    verb.add_argument("--device", metavar="NAME", help="cuda, mps or cpu (default: the best that is there)")
    verb.add_argument(
        "--keep-embeddings", action="store_true", help="also store embeddings, which make strategy 'paper' exact"
    )
    verb.add_argument("--overwrite", action="store_true", help="measure again even if a label exists")
    verb.add_argument("--json", action="store_true", help="print one JSON line per model")
    verb.set_defaults(run=_label)


def _add_labels(verbs: Any) -> None:  # noqa: ANN401
    verb = verbs.add_parser("labels", help="list, show and check labels", description="Look at labels.")
    actions = verb.add_subparsers(title="commands", metavar="COMMAND", required=True)
    ls = actions.add_parser("ls", help="list the labels of a folder, best model first", description=_labels_ls.__doc__)
    show = actions.add_parser("show", help="what a label says: what the model recognises best and worst")
    check = actions.add_parser("check", help="validate labels; succeeds only if all are valid")
    for action in (ls, show):
        action.add_argument("--labels", type=Path, required=True, metavar="DIR", help="folder of labels")
    show.add_argument("model", metavar="MODEL", help="id of a labelled model, or the last part of it")
    check.add_argument("path", type=Path, metavar="PATH", help="a label file, or a folder of labels")
    for action, run in ((ls, _labels_ls), (show, _labels_show), (check, _labels_check)):
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(run=run)


def _add_select(verbs: Any) -> None:  # noqa: ANN401
    verb = verbs.add_parser(
        "select",
        help="which models suit a list of classes",
        description="Estimate from the labels how precise every model is on your classes, and choose. No model is run "
        "and nothing is downloaded.",
    )
    _add_selection_options(verb, required=True)
    verb.add_argument("--json", action="store_true", help="print one JSON object; predict --selection reads it")
    verb.set_defaults(run=_select)


def _add_predict(verbs: Any) -> None:  # noqa: ANN401
    from mll_hf.ensemble import Rule

    verb = verbs.add_parser(
        "predict",
        help="classify images with the models that suit",
        description="Classify images with the models that suit the classes, or with those of an earlier selection.",
    )
    verb.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder of images")
    _add_selection_options(verb, required=False)
    verb.add_argument("--selection", type=Path, metavar="FILE", help="use what 'select --json' wrote")
    verb.add_argument(
        "--rule",
        choices=[str(r) for r in Rule],
        default=str(Rule.LINEAR_POOL),
        help="how models are combined (default: %(default)s)",
    )
    verb.add_argument(
        "--template", action="append", metavar="TEXT", help="prompt with {} for the class; may be given again"
    )
    verb.add_argument("--device", metavar="NAME", help="cuda, mps or cpu (default: the best that is there)")
    output = verb.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON line per image")
    output.add_argument("--csv", action="store_true", help="print CSV: image, label, probability, one column per class")
    verb.set_defaults(run=_predict)


def _add_selection_options(verb: argparse.ArgumentParser, required: bool) -> None:
    task = verb.add_argument_group("the task")
    task.add_argument(
        "--classes", required=required, metavar="LIST", help="'a, b, c', or a file: one per line, JSON or CSV"
    )
    task.add_argument("--labels", type=Path, required=required, metavar="DIR", help="folder of labels")
    task.add_argument("--domain", metavar="TEXT", help="how the images look: photo, sketch, satellite image ...")
    task.add_argument("--task", metavar="TEXT", help="what they are for: traffic sign recognition ...")
    task.add_argument(
        "--descriptions", type=Path, metavar="FILE", help="JSON object: class -> description or list of them"
    )
    task.add_argument("--llm", metavar="MODEL", help="let a language model describe the classes")
    task.add_argument("--llm-url", metavar="URL", help="base URL of an OpenAI-compatible server for --llm")
    choice = verb.add_argument_group("the choice")
    choice.add_argument("-k", type=_positive, default=1, metavar="N", help="models per class (default: 1)")
    choice.add_argument(
        "--strategy",
        choices=[str(s) for s in Strategy],
        default=str(Strategy.MLL),
        help="how to choose (default: %(default)s)",
    )
    choice.add_argument("--max-gflops", type=float, metavar="X", help="most GFLOPs per image of a model")
    choice.add_argument("--max-parameters", type=_count, metavar="N", help="most parameters of a model, such as 200M")
    choice.add_argument("--max-models", type=_positive, metavar="N", help="most different models over all classes")


# --- helpers ----------------------------------------------------------------------------------------------------------


def _make_selection(args: argparse.Namespace) -> Selection:
    if not args.classes or not args.labels:
        raise InputError("give --classes and --labels, or --selection with what 'mll-hf select --json' wrote")
    classes = check_class_names(parse_class_names(args.classes))
    config = SelectionConfig(
        strategy=Strategy(args.strategy),
        k=args.k,
        max_parameters=args.max_parameters,
        max_gflops=args.max_gflops,
        max_models=args.max_models,
    )
    descriptions = _describe(args, classes)
    return Client(args.labels).select(classes, config, domain=args.domain, task=args.task, descriptions=descriptions)


def _describe(args: argparse.Namespace, classes: tuple[str, ...]) -> tuple[Description, ...] | None:
    if args.descriptions and (args.llm or args.llm_url):
        raise InputError("give either --descriptions or --llm, not both")
    if args.descriptions:
        return describe.from_file(args.descriptions, classes)
    if args.llm or args.llm_url:
        return describe.from_llm(classes, args.domain, args.task, LanguageModel(model=args.llm, base_url=args.llm_url))
    return None


def _read_selection(path: Path) -> Selection:
    try:
        return Selection.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); make it with: mll-hf select --json") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from None


def _image_files(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in _IMAGE_SUFFIXES)
        if not found or not found[0].exists():
            raise InputError(f"{path} is no image and no folder with images; check the path")
        files.extend(found)
    return files


def _label_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    paths = sorted(path.rglob(LABEL_FILE))
    if not paths:
        raise InputError(f"{path} holds no {LABEL_FILE}; give a label file or a folder of labels")
    return paths


def _find_label(store: LabelStore, model: str) -> ModelLabel:
    found = [
        label
        for label in store.labels
        if model in (label.model.repo_id, label.model.short_name, f"{label.model.repo_id}@{label.model.revision}")
    ]
    if not found:
        raise InputError(f"no label of '{model}' in {store.folder}; see: mll-hf labels ls --labels {store.folder}")
    if len(found) > 1:
        ids = ", ".join(f"{label.model.repo_id}@{label.model.revision}" for label in found)
        raise InputError(f"'{model}' may be any of {ids}; give one of these")
    return found[0]


def _summary(label: ModelLabel) -> dict[str, Any]:
    return {
        **asdict(label.model),
        **asdict(label.cost),
        "precision": label.mean_precision,
        "temperature": float(label.temperature[0]),
        "concepts": int((label.support > 0).sum()),
        "graph": {"name": label.graph_name, "digest": label.graph_digest},
        "probes": {"name": label.probes_name, "revision": label.probes_revision},
        "config": asdict(label.sampling),
        "domains": list(label.domain_names),
        "package_version": label.package_version,
    }


def _print_row(args: argparse.Namespace, record: dict[str, Any], text: str) -> None:
    print(json.dumps(record) if args.json else text, flush=True)


def _print_prediction(args: argparse.Namespace, images: Sequence[Path], prediction: Prediction) -> None:
    rows = [
        (str(image), label, probabilities)
        for image, label, probabilities in zip(images, prediction.labels, prediction.probabilities, strict=True)
        if label is not None
    ]
    if args.json:
        for image, label, probabilities in rows:
            record = {"image": image, "label": label, "probability": float(probabilities.max())}
            print(json.dumps({**record, "probabilities": probabilities.tolist()}))
    elif args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", "label", "probability", *prediction.classes])
        writer.writerows([image, label, float(p.max()), *p.tolist()] for image, label, p in rows)
    elif rows:
        print(table(["image", "label", "probability"], [[i, str(y), f"{np.max(p):.3f}"] for i, y, p in rows]))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _count(text: str) -> int:
    """A number of parameters: 151000000, 151M or 1.5B."""
    factor = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9}.get(text[-1:].upper())
    try:
        return int(float(text[:-1]) * factor) if factor else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no number such as 200M or 1.5B") from None


def _verdict(failed: int, total: int, what: str) -> int:
    if failed and total > 1:
        _note(f"{failed} of {total} {what} failed")
    return 1 if failed else 0


def _complain(message: str) -> int:
    print(f"mll-hf: error: {message}", file=sys.stderr)
    return 1


def _note(message: str) -> None:
    print(f"mll-hf: note: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
