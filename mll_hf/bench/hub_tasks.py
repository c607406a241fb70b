"""Target tasks from image data sets on the Hub.

Reads data sets with images and classes in Parquet files, as the ``datasets`` library writes them, at a pinned commit.
Column of the images and class names come from the schema of the files or from the data set's card. Other formats (zip,
WebDataset, loading scripts) are not supported.
"""

from __future__ import annotations

import fnmatch
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml  # type: ignore[import-untyped]
from huggingface_hub.repocard import metadata_load

from mll_hf.bench.suites import TASK_FILE, TargetTask, make_task, read_image_folder, read_task, sampled
from mll_hf.errors import InputError, MissingExtraError, MLLError
from mll_hf.hub.connection import Head, connect, download, read_head
from mll_hf.hub.locations import DatasetLocation, is_on_hub, parse_dataset
from mll_hf.matching.prompts import check_class_names
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from huggingface_hub import HfApi
    from numpy.typing import NDArray

_CARD = "README.md"
_MOST_CARD_BYTES = 4 * 2**20
_MOST_FILE_BYTES = 8 * 2**30
_USUAL_IMAGE_COLUMNS = ("image", "img")


@dataclass(frozen=True, slots=True)
class HubSplit:
    """The part of a data set on the Hub that is the task."""

    split: str = "test"
    config: str | None = None  # None for the default or only one
    label: str | None = None  # column of the classes; None for the only one


def load_tasks(
    location: str | Path, most_images: int | None = None, part: HubSplit | None = None
) -> tuple[TargetTask, ...]:
    """Load the tasks at any location.

    Args:
        location: ``hf://datasets/ORG/NAME[@REVISION]``, a suite, a task of a suite, or an image folder.
        most_images: Most images of each task, drawn at random; None for all.
        part: Part of a data set on the Hub; its split ``test`` by default.

    Raises:
        InputError: There is no task, or it cannot be read.
        HubError: The data set cannot be downloaded.
        MissingExtraError: pyarrow is not installed.
    """
    if is_on_hub(location):
        return (fetch_task(str(location), most_images, part),)
    folder = Path(location)
    if (folder / TASK_FILE).is_file():
        return (read_task(folder, most_images),)
    suite = sorted(path.parent for path in folder.glob(f"*/{TASK_FILE}"))
    return tuple(read_task(path, most_images) for path in suite) or (read_image_folder(folder, most_images),)


def fetch_task(location: str, most_images: int | None = None, part: HubSplit | None = None) -> TargetTask:
    """Download a split of an image data set on the Hub; arguments and errors as for :func:`load_tasks`."""
    part = part or HubSplit()
    api, head, card = _open_dataset(location)
    with _parquet_errors(head.repo_id):
        paths = _files_of(head, card, part)
        files = [download(api, head.repo_id, "dataset", path, head.sha, _MOST_FILE_BYTES) for path in paths]
        image_column, label_column, classes = _columns_of(files[0], card, head.repo_id, part)
        labels = _read_labels(files, label_column)
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(classes):
            raise InputError(
                f"{head.repo_id}: the split '{part.split}' has images without a class, or no images; "
                "choose a split with labels"
            )
        some = sampled(len(labels), most_images)
        images = tuple(_read_images(files, image_column, some))
    if not all(isinstance(image, (bytes, type(None))) for image in images):
        raise InputError(
            f"{head.repo_id}: the column '{image_column}' holds no encoded images; choose another data set"
        )
    source = str(DatasetLocation(head.repo_id, head.sha))
    return make_task(head.repo_id.split("/")[1], classes, labels[some], images, source=source)


def fetch_class_names(location: str, part: HubSplit | None = None, token: str | bool | None = None) -> tuple[str, ...]:
    """Class names of an image data set on the Hub, read from its card in two requests without images.

    Args:
        location: ``hf://datasets/ORG/NAME[@REVISION]``.
        part: Subset and column; the only column of classes by default.
        token: Hub token; None for the stored one, False for none.

    Raises:
        InputError: The location is malformed, or the card has no class names, or those of several columns.
        HubError: The card cannot be downloaded.
    """
    part = part or HubSplit()
    _, head, card = _open_dataset(location, token)
    return _classes_of(_features_on_card(card, part)[1], head.repo_id, part)[1]


def _open_dataset(location: str, token: str | bool | None = None) -> tuple[HfApi, Head, dict[str, Any]]:
    """A data set at a commit, and the YAML metadata of its card; empty if it cannot be read."""
    dataset = parse_dataset(location)
    api = connect(token)
    head = read_head(api, dataset.repo_id, "dataset", dataset.revision)
    if _CARD not in head.files:
        return api, head, {}
    file = download(api, head.repo_id, "dataset", _CARD, head.sha, _MOST_CARD_BYTES)
    try:
        return api, head, metadata_load(file) or {}
    except (yaml.YAMLError, ValueError, RecursionError):
        return api, head, {}  # the files may say enough


@contextmanager
def _parquet_errors(repo_id: str) -> Iterator[None]:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError("pyarrow", "bench") from error
    try:
        yield
    except MLLError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{repo_id}: a Parquet file cannot be read ({one_line(error)}); report it to the owner"
        ) from None


# --- which files ------------------------------------------------------------------------------------------------------


def _files_of(head: Head, card: Mapping[str, Any], part: HubSplit) -> list[str]:
    """Parquet files of a split: those that the card's ``configs`` name, else those with the split in their path."""
    everything = sorted(path for path in head.files if path.endswith(".parquet"))
    configs = {str(entry.get("config_name")): entry for entry in _mappings(card.get("configs"))}
    if configs:
        patterns = _patterns(configs[_config_of(head.repo_id, configs, part)], part.split)
        found = [path for path in everything if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)]
    else:
        folder = f"{part.config}/" if part.config else ""
        # As on the Hub: the name anywhere in the path, delimited by anything but letters and digits
        named = re.compile(rf"(?<![A-Za-z0-9]){re.escape(part.split)}(?![A-Za-z0-9])")
        found = [path for path in everything if path.startswith(folder) and named.search(path)]
    if not found:
        raise InputError(
            f"{head.repo_id} has no parquet files of a split '{part.split}'; its parquet files are: "
            f"{abridged(everything, 5) or 'none'}; name another split, config or data set"
        )
    return found


def _config_of(repo_id: str, configs: Mapping[str, Mapping[str, Any]], part: HubSplit) -> str:
    if part.config in configs:
        return str(part.config)
    default = [name for name, entry in configs.items() if entry.get("default") is True or name == "default"]
    if part.config is None and (default or len(configs) == 1):
        return (default or list(configs))[0]
    raise InputError(f"{repo_id} has the configs {abridged(list(configs), 8)}; choose one of them")


def _patterns(config: Mapping[str, Any], split: str) -> list[str]:
    """Patterns of a split's files; files without a split belong to ``train``."""
    files = config.get("data_files")
    of_split = [entry.get("path") for entry in _mappings(files) if entry.get("split") == split]
    if not _mappings(files) and split == "train":
        of_split = [files]
    return [str(pattern) for path in of_split for pattern in (path if isinstance(path, list) else [path])]


def _mappings(value: object) -> list[Mapping[str, Any]]:
    """The mappings in a value that should be a mapping or a list of mappings."""
    return [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, dict)]


# --- which columns ----------------------------------------------------------------------------------------------------


def _columns_of(file: Path, card: Mapping[str, Any], repo_id: str, part: HubSplit) -> tuple[str, str, tuple[str, ...]]:
    """Column of the images, column of the classes, and the class names."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(file)
    images, labels = _features_in_schema(schema.metadata or {})
    if not (images and labels):
        on_card = _features_on_card(card, part)
        images, labels = images or on_card[0], labels or on_card[1]
    images = [name for name in (images or _USUAL_IMAGE_COLUMNS) if name in schema.names]
    labels = {name: names for name, names in labels.items() if name in schema.names}
    if not images:
        raise InputError(f"{repo_id} has no column of images; its columns are {abridged(schema.names, 8)}")
    return images[0], *_classes_of(labels, repo_id, part)


def _classes_of(labels: Mapping[str, list[str]], repo_id: str, part: HubSplit) -> tuple[str, tuple[str, ...]]:
    """The column of the classes, and their names."""
    label = part.label or (next(iter(labels)) if len(labels) == 1 else None)
    if label is None or label not in labels:
        raise InputError(
            f"{repo_id} has these columns of named classes: {abridged(list(labels), 8) or 'none'}; "
            "choose one of them, or another data set"
        )
    return label, check_class_names(labels[label])


def _features_in_schema(metadata: Mapping[bytes, bytes]) -> tuple[Sequence[str], dict[str, list[str]]]:
    """Columns of images, and class names by column, as ``datasets`` writes them into parquet files."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
        labels = {name: list(features[name]["names"]) for name, kind in kinds.items() if kind == "ClassLabel"}
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return [], {}  # not written by datasets
    return [name for name, kind in kinds.items() if kind == "Image"], labels


def _features_on_card(card: Mapping[str, Any], part: HubSplit) -> tuple[Sequence[str], dict[str, list[str]]]:
    """The same from the ``dataset_info`` of the card."""
    infos = _mappings(card.get("dataset_info"))
    info = next((info for info in infos if part.config in (None, info.get("config_name"))), {})
    images: list[str] = []
    labels: dict[str, list[str]] = {}
    for feature in _mappings(info.get("features")):
        match feature:
            case {"name": str(name), "dtype": "image"}:
                images.append(name)
            case {"name": str(name), "dtype": {"class_label": {"names": names}}}:
                labels[name] = _names_in_order(names)
    return images, labels


def _names_in_order(names: object) -> list[str]:
    """Class names from a mapping by number or from a list; empty for anything else."""
    if isinstance(names, dict) and all(str(number).isdecimal() for number in names):
        return [str(names[number]) for number in sorted(names, key=lambda number: int(str(number)))]
    return [str(name) for name in names] if isinstance(names, list) else []


# --- contents --------------------------------------------------------------------------------------------------------


def _read_labels(files: Sequence[Path], column: str) -> NDArray[np.int64]:
    """[N] class indices over all files; -1 if missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = [pq.read_table(file, columns=[column])[column].cast(pa.int64()).fill_null(-1) for file in files]
    return np.concatenate([of_file.to_numpy() for of_file in labels])


def _read_images(files: Sequence[Path], column: str, rows: NDArray[np.int64]) -> Iterator[bytes | None]:
    """The encoded images of some rows (ascending, counted through all files), read in small batches."""
    import pyarrow.parquet as pq

    first = 0
    for file in files:
        # A small buffer, since reading whole column chunks needs much memory for files with one huge row group
        parquet = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        for batch in parquet.iter_batches(batch_size=64, columns=[column], use_threads=False):
            here = rows[(rows >= first) & (rows < first + len(batch))] - first
            for value in batch.column(0).take(here).to_pylist():
                yield value.get("bytes") if isinstance(value, dict) else value
            first += len(batch)
