"""Export a selection to ONNX: image tower and head of each chosen model in one graph, which needs no torch to run."""

from __future__ import annotations

import inspect
import json
import logging
import tempfile
import warnings
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.ensemble.run import Ensemble
from mll_hf.errors import InputError, MissingExtraError, MLLError, ModelError
from mll_hf.selection.card import FITTED
from mll_hf.selection.probabilities import softmax
from mll_hf.utils.files import storage_errors, write_atomically
from mll_hf.utils.images import image_files, open_image, warn_of_unreadable
from mll_hf.utils.text import abridged, normalized_name, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from mll_hf.models import VisionLanguageModel
    from mll_hf.selection import Selection
    from mll_hf.selection.head import Head
    from mll_hf.utils.images import ImageLike

_TOLERANCE = 1e-3  # of probabilities
_GRAY_LEVEL = 1.01 / 255  # some libraries round otherwise than Pillow when they resize
_MOST_LOST = 0.01  # by int8
_RANDOM_SIZES = ((97, 61), (61, 97), (224, 224), (227, 300), (480, 640), (641, 479), (333, 1024), (40, 40))
_BATCH = 16
_log = logging.getLogger(__name__)


def preprocess(image: Image.Image, steps: dict[str, Any]) -> NDArray[np.float32]:
    """[3, H, W] of an RGB image. Its source is shown in the README of an export."""
    from PIL import Image

    size, crop = steps["size"], steps["crop"]
    if len(size) == 1:  # of the shorter side
        size = [int(size[0] * side / min(image.size)) for side in reversed(image.size)]
    offset = round if steps["crop_offset"] == "round" else int
    top, left = (offset((size[axis] - crop[axis]) / 2) for axis in (0, 1))
    image = image.resize(size[::-1], Image.Resampling[steps["interpolation"]])
    pixels = np.asarray(image.crop((left, top, left + crop[1], top + crop[0])), np.float32) / 255
    return ((pixels - steps["mean"]) / steps["std"]).transpose(2, 0, 1).astype(np.float32)


def export_onnx(
    selection: Selection,
    folder: str | Path,
    *,
    check_images: str | Path | None = None,
    int8: bool = False,
    token: str | None = None,
) -> tuple[list[dict[str, Any]], list[ModelError]]:
    """Write an ONNX graph per chosen model, ``config.json``, and a README that shows how to run them.

    Args:
        selection: What to export.
        folder: New or empty.
        check_images: Folder of images on which graphs are compared with torch, besides random ones. int8 is judged on
            them: by accuracy if they are in subfolders with the names of their classes, else by agreement.
        int8: Also write dynamically quantized graphs, and keep those that lose less than a point.
        token: Hub token; None for the token of the logged-in user.

    Returns:
        The models as in ``config.json``, and why others could not be exported. Without any model no folder is written.

    Raises:
        InputError: The folder is not empty, there are no images to check with, or none are given for ``int8``.
        MissingExtraError: A package is not installed.
        StorageError: The folder cannot be written.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            raise MissingExtraError(package, "export") from error
    if int8 and check_images is None:
        raise InputError("what int8 loses is measured on images of the task; give --check-images FOLDER")
    folder = Path(folder).absolute()
    with storage_errors(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not an empty folder; choose another one")
        files = [] if check_images is None else image_files([Path(check_images)])
        given = [path for path in files if open_image(path) is not None]
        warn_of_unreadable([path for path in files if path not in given])
        if check_images is not None and not given:
            raise InputError(f"{check_images} has no image that can be read; check the path")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as place:
            unfinished = Path(place) / "graphs"
            unfinished.mkdir()
            models, failed = _export_all(selection, unfinished, given, int8, token)
            if models:
                _describe(selection, unfinished, models)
                unfinished.replace(folder)
    return models, failed


def _export_all(
    selection: Selection, folder: Path, given: Sequence[Path], int8: bool, token: str | None
) -> tuple[list[dict[str, Any]], list[ModelError]]:
    ensemble = Ensemble(selection, "cpu", dtype="float32", token=token)
    models: list[dict[str, Any]] = []
    failed: list[ModelError] = []
    for m in selection.chosen_models:
        try:
            work = partial(_export, selection, m, ensemble.head(m), folder, given, int8)
            models.append(ensemble.residents.use(selection.models[m], work))
        except ModelError as error:
            failed.append(error)
            for file in folder.glob(f"{m}-*"):
                file.unlink()
        ensemble.close()
    total = sum(model["weight"] for model in models)
    return [model | {"weight": model["weight"] / total if total else 1 / len(models)} for model in models], failed


def _export(
    selection: Selection,
    m: int,
    head: Head,
    folder: Path,
    given: Sequence[Path],
    int8: bool,
    model: VisionLanguageModel,
) -> dict[str, Any]:
    chosen = selection.models[m]
    path = folder / f"{m}-{chosen.name.replace('/', '--')}.onnx"
    with _one_line_errors(chosen.name):
        steps = model.preprocessing()
        if steps is None:
            raise ModelError(chosen.name, "cannot be exported: its preprocessing is not resize, crop and normalize")
        _write_graph(model, head, path, {"classes": list(selection.classes), "preprocess": steps})
        pixel, graph, difference = _differences(model, head, path, steps, [*_random_images(), *given])
        if pixel > _GRAY_LEVEL:
            reason = f"cannot be exported: Pillow prepares images otherwise, by up to {255 * pixel:.0f} gray levels"
            raise ModelError(chosen.name, reason)
        if graph >= _TOLERANCE:
            raise ModelError(chosen.name, f"cannot be exported: its graph changes probabilities by up to {graph:.2g}")
        quantized = _quantize(path, steps, given, selection.classes) if int8 else None
    if difference >= _TOLERANCE:
        reason = "Pillow resizes images otherwise than its library, by one gray level"
        _log.warning("%s: %s, which changes probabilities by up to %.2g", chosen.name, reason, difference)
    return {
        "file": path.name,
        "model": f"{chosen.name}@{chosen.ref.revision}",
        "license": chosen.license,
        "weight": float(selection.weights[m]),
        "preprocess": steps,
        "images": len(_RANDOM_SIZES) + len(given),
        "max_difference": difference,
        "int8": quantized,
    }


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Turn any error of the exporter into a ModelError; suppress its progress reports."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (MLLError, OSError):
        raise
    except Exception as error:
        reason = f"cannot be exported ({type(error).__name__}: {one_line(error)}); use another model"
        raise ModelError(name, reason) from error
    finally:
        logging.disable(logging.NOTSET)


def _write_graph(model: VisionLanguageModel, head: Head, path: Path, metadata: dict[str, Any]) -> None:
    import torch

    program = torch.onnx.export(
        model.classifier(head.weights, head.bias),
        (torch.stack([model.preprocess(image) for image in _random_images()[:2]]),),
        input_names=["pixel_values"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        verbose=False,
    )
    program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})  # type: ignore[union-attr]
    program.save(path)  # type: ignore[union-attr]


def _random_images() -> list[Image.Image]:
    from PIL import Image

    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)) for size in _RANDOM_SIZES]


def _batches(images: Sequence[ImageLike]) -> Iterator[list[Image.Image]]:
    for first in range(0, len(images), _BATCH):
        yield [image for image in map(open_image, images[first : first + _BATCH]) if image is not None]


def _session(path: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run(None, {"pixel_values": pixels})[0])


def _differences(
    model: VisionLanguageModel, head: Head, path: Path, steps: dict[str, Any], images: Sequence[ImageLike]
) -> tuple[float, float, float]:
    """The largest differences from torch: of pixels, of probabilities for the same pixels, of probabilities."""
    import torch

    run, largest = _session(path), np.zeros(3)
    for batch in _batches(images):
        ours = np.stack([preprocess(image, steps) for image in batch])
        theirs = torch.stack([model.preprocess(image) for image in batch])
        expected, pixels = softmax(head.logits(model.encode_pixels(theirs))), theirs.numpy()
        found = (ours - pixels) * np.reshape(steps["std"], (3, 1, 1)), run(pixels) - expected, run(ours) - expected
        largest = np.fmax(largest, [np.nan_to_num(np.abs(difference), nan=np.inf).max() for difference in found])
    pixel, graph, total = largest.tolist()
    return pixel, graph, total


def _quantize(path: Path, steps: dict[str, Any], given: Sequence[Path], classes: Sequence[str]) -> dict[str, Any]:
    """Write the graph in int8, except the head, and delete it if it loses a point or more on the images."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    small, kinds = path.with_suffix(".int8.onnx"), ["MatMul", "Gemm"]
    products = [node.name for node in onnx.load(path, load_external_data=False).graph.node if node.op_type in kinds]
    is_large = len(_files_of(path)) > 1
    quantize_dynamic(path, small, kinds, True, nodes_to_exclude=products[-1:], use_external_data_format=is_large)
    runs = _session(path), _session(small)
    inputs = (np.stack([preprocess(image, steps) for image in batch]) for batch in _batches(given))
    predicted = np.hstack([[run(pixels).argmax(axis=1) for run in runs] for pixels in inputs])
    truth = [classes.index(name) if (name := normalized_name(file.parent.name)) in classes else -1 for file in given]
    accuracy = None if -1 in truth else (predicted == truth).mean(axis=1).tolist()
    agreement = float((predicted[0] == predicted[1]).mean())
    megabytes = [sum(part.stat().st_size for part in _files_of(graph)) / 1e6 for graph in (path, small)]
    is_kept = (accuracy[0] - accuracy[1] if accuracy else 1 - agreement) < _MOST_LOST
    for part in [] if is_kept else _files_of(small):
        part.unlink()
    measured = {"images": len(given), "agreement": agreement, "accuracy": accuracy, "megabytes": megabytes}
    return {"file": small.name if is_kept else None, **measured}


def _files_of(graph: Path) -> list[Path]:
    """The graph, and the file of its weights if they have more than 1.5 GB."""
    return [file for file in (graph, graph.with_name(f"{graph.name}.data")) if file.exists()]


def _describe(selection: Selection, folder: Path, models: Sequence[dict[str, Any]]) -> None:
    """Write ``config.json`` and the README."""
    config = json.dumps({"classes": selection.classes, "models": models}, indent=2, ensure_ascii=False)
    rows = "| {file} | {model} | {license} | {weight:.3f} | {max_difference:.1g} |"
    template = Path(__file__).with_name("export_readme.md").read_text(encoding="utf-8")
    readme = template.format(
        title=f"Classifier for {abridged(selection.classes, 5)}",
        classes=len(selection.classes),
        warning=f"\n{FITTED}\n" if any(head.is_fitted for head in selection.heads) else "",
        rows="\n".join(rows.format_map(model | {"license": model["license"] or "unknown"}) for model in models),
        preprocess=inspect.getsource(preprocess).partition("import Image\n\n")[2],
    )
    write_atomically(folder / "config.json", config.encode())
    write_atomically(folder / "README.md", readme.encode())
