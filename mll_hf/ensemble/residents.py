"""Keep models loaded while memory allows, and preprocess images for several models at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mll_hf.errors import ModelError
from mll_hf.models import load_model, pick_device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from mll_hf.labels.label import ModelRef
    from mll_hf.models import VisionLanguageModel
    from mll_hf.selection.result import SelectedModel

Result = TypeVar("Result")
_BYTES_TO_LOAD = 8  # per parameter: 4 for the weights and 4 for loading and activations
_CGROUP = Path("/sys/fs/cgroup")
_PROBES = ((97, 61), (41, 160), (640, 480))  # sizes of the images for comparing the models' preprocessing


@dataclass(eq=False)
class Residents:
    """The models of a selection, loaded when first used and evicted least recently used first.

    ``device``, ``dtype`` and ``token`` are as for :func:`~mll_hf.models.load_model`.
    """

    models: Sequence[SelectedModel]
    prompts: Sequence[Sequence[str]]  # prompts of each class, equally many per class
    max_loaded: int | None  # models to keep loaded; None for as many as fit in memory
    device: str | None
    dtype: str | None
    token: str | None = field(repr=False)
    has_evicted: bool = False  # whether a model was evicted to load another one
    _loaded: dict[ModelRef, VisionLanguageModel] = field(default_factory=dict)  # least recently used first
    _texts: dict[int, NDArray[np.float32]] = field(default_factory=dict)  # class embeddings; small, so never evicted

    def __contains__(self, m: int) -> bool:
        """Whether a model is loaded."""
        return self.models[m].ref in self._loaded

    def for_prompts(self, models: Sequence[SelectedModel], prompts: Sequence[Sequence[str]]) -> Residents:
        """Residents for other classes; they share the loaded models."""
        return replace(self, models=models, prompts=prompts, _texts={})

    def use(self, m: int, work: Callable[[VisionLanguageModel, NDArray[np.float32]], Result]) -> Result:
        """Call ``work`` with a model and its class embeddings [C, D].

        If it fails while other models are loaded, memory may be short: all models are evicted, ``work`` is called
        again, and fewer models are kept loaded from then on.

        Raises:
            ModelError: The model cannot be loaded or run.
            InputError: The device is not available, or the dtype is unknown.
            MissingExtraError: A package that the model needs is not installed.
        """
        try:
            return work(*self._get(m))
        except ModelError:
            ref = self.models[m].ref
            others = len(self._loaded.keys() - {ref})
            if not others:
                self._evict(ref)
                raise
        self.max_loaded = others  # after the except block, in which the exception keeps tensors alive
        self.close()
        return self.use(m, work)

    def preparation_for(self, models: Sequence[int]) -> Preparation:
        """Load models and return their common preprocessing. Raises like :meth:`use`."""
        return Preparation([self.use(m, lambda model, _: model) for m in models])

    def close(self) -> None:
        """Evict all models."""
        for ref in list(self._loaded):
            self._evict(ref)

    def _get(self, m: int) -> tuple[VisionLanguageModel, NDArray[np.float32]]:
        ref = self.models[m].ref
        model = self._loaded.pop(ref, None) or self._load(m)
        self._loaded[ref] = model
        if m not in self._texts:
            self._texts[m] = _class_embeddings(model, self.prompts)
        return model, self._texts[m]

    def _load(self, m: int) -> VisionLanguageModel:
        needed = _BYTES_TO_LOAD * self.models[m].cost.parameters
        while self._loaded and (len(self._loaded) >= (self.max_loaded or np.inf) or free_memory(self.device) < needed):
            self.has_evicted = True
            self._evict(next(iter(self._loaded)))
        model = load_model(self.models[m].ref, self.device, token=self.token, dtype=self.dtype)
        if not np.isfinite([model.logit_scale, model.logit_bias]).all():
            model.close()
            reason = "logit scale or bias is not finite; its files may be damaged: use another model"
            raise ModelError(model.ref.repo_id, reason)
        return model

    def _evict(self, ref: ModelRef) -> None:
        model = self._loaded.pop(ref, None)
        if model:
            model.close()


def _class_embeddings(model: VisionLanguageModel, prompts: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """[C, D] unit-norm mean embedding of each class's prompts."""
    embeddings = model.encode_texts([text for texts in prompts for text in texts])
    means = embeddings.reshape(len(prompts), len(prompts[0]), -1).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def free_memory(device: str | None) -> float:
    """Free memory on a device in bytes; infinite if unknown."""
    device = pick_device(device)
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(torch.device(device))[0])
    try:
        available = {line.split(":")[0]: line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines()}
        free = 1024.0 * int(available["MemAvailable"])
    except (OSError, LookupError):
        return np.inf
    return min(free, _free_in_container())


def _free_in_container() -> float:
    """Free memory in this process's container in bytes; file caches count as free."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        caches = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return np.inf if limit == "max" else float(int(limit) - used + int(caches["inactive_file"]))
    except (OSError, LookupError, ValueError):
        return np.inf


class Preparation:
    """Preprocesses an image for several models at once; models with the same preprocessing share the result.

    Whether two models have the same preprocessing is tested on three noise images, since their configurations have too
    many formats to compare. The networks are not run.

    Attributes:
        batch_size: Batch size that keeps each model busy.
    """

    def __init__(self, models: Sequence[VisionLanguageModel]) -> None:
        import torch
        from PIL import Image

        noise = np.random.default_rng(0)
        sizes = _PROBES if len(models) > 1 else ()  # nothing to compare for a single model
        pictures = [Image.fromarray(noise.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]
        self.batch_size = max(model.batch_size for model in models)
        self._distinct: list[VisionLanguageModel] = []
        self._of_model: list[int] = []
        seen: list[list[torch.Tensor]] = []
        for model in models:
            outputs = [model.compact(picture) for picture in pictures]
            equal = [n for n, other in enumerate(seen) if all(map(torch.equal, outputs, other))]
            self._of_model += equal or [len(seen)]
            if not equal:
                seen.append(outputs)
                self._distinct.append(model)
        self._kinds = [(outputs[0].shape, outputs[0].dtype) for outputs in seen if outputs]

    def __call__(self, picture: Image.Image | None) -> torch.Tensor | None:
        """The models' input [3, H, W], as bytes if they are normalized later; several inputs as one flat vector [S].

        None without an image, or if memory is exhausted.
        """
        import torch

        if picture is None:
            return None
        try:
            parts = [model.compact(picture) for model in self._distinct]
            return parts[0] if len(parts) == 1 else torch.cat([part.flatten() for part in parts])
        except MemoryError:
            return None

    def inputs(self, prepared: torch.Tensor, model: int) -> torch.Tensor:
        """The inputs [N, 3, H, W] of the model at this position, from the preprocessed N images."""
        if len(self._distinct) == 1:
            return prepared
        own = self._of_model[model]
        first, (shape, dtype) = sum(shape.numel() for shape, _ in self._kinds[:own]), self._kinds[own]
        # The dtype undoes the type promotion of concatenation.
        return prepared[:, first : first + shape.numel()].reshape(-1, *shape).to(dtype)
