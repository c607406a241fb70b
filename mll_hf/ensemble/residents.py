"""Keep models loaded while memory allows, without their text towers, and make zero-shot heads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mll_hf.errors import ModelError
from mll_hf.models import load_model, pick_device
from mll_hf.selection.head import Head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mll_hf.labels.label import ModelRef
    from mll_hf.models import VisionLanguageModel
    from mll_hf.selection.result import SelectedModel

Result = TypeVar("Result")
_BYTES_TO_LOAD = 8  # per parameter: 4 for the weights and 4 for loading and activations
_CGROUP = Path("/sys/fs/cgroup")


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
    _known: dict[ModelRef, VisionLanguageModel] = field(default_factory=dict)  # every model, loaded or closed
    _zero_shot: dict[int, Head] = field(default_factory=dict)  # small, so never evicted

    def __contains__(self, m: int) -> bool:
        """Whether a model is loaded."""
        return self.models[m].ref in self._loaded

    def for_prompts(self, models: Sequence[SelectedModel], prompts: Sequence[Sequence[str]]) -> Residents:
        """Residents for other classes; they share the loaded models."""
        return replace(self, models=models, prompts=prompts, _zero_shot={})

    def zero_shot(self, m: int) -> Head:
        """The zero-shot head of a model, made with its text tower. Raises like :meth:`use`."""
        if m not in self._zero_shot:
            self._zero_shot[m] = self.use(m, lambda model: zero_shot_head(model, self.prompts), texts=True)
        return self._zero_shot[m]

    def use(self, m: int, work: Callable[[VisionLanguageModel], Result], *, texts: bool = False) -> Result:
        """Call ``work`` with a model, whose text tower is loaded if ``texts``.

        If it fails while other models are loaded, memory may be short: all models are evicted, ``work`` is called
        again, and fewer models are kept loaded from then on.

        Raises:
            ModelError: The model cannot be loaded or run.
            InputError: The device is not available, or the dtype is unknown.
            MissingExtraError: A package that the model needs is not installed.
        """
        try:
            return work(self._get(m, texts))
        except ModelError:
            ref = self.models[m].ref
            others = len(self._loaded.keys() - {ref})
            if not others:
                self._evict(ref)
                raise
        self.max_loaded = others  # after the except block, in which the exception keeps tensors alive
        self.close()
        return self.use(m, work, texts=texts)

    def loaded_once(self, m: int) -> VisionLanguageModel:
        """A model that may be closed by now; it still preprocesses images. Raises like :meth:`use`."""
        ref = self.models[m].ref
        return self._known.get(ref) or self.use(m, lambda model: model)

    def close(self) -> None:
        """Evict all models."""
        for ref in list(self._loaded):
            self._evict(ref)

    def _get(self, m: int, texts: bool) -> VisionLanguageModel:
        ref = self.models[m].ref
        if ref in self._loaded and texts and not self._loaded[ref].has_texts:
            self._evict(ref)
        model = self._loaded.pop(ref, None) or self._load(m, texts)
        self._loaded[ref] = self._known[ref] = model
        return model

    def _load(self, m: int, texts: bool) -> VisionLanguageModel:
        needed = _BYTES_TO_LOAD * self.models[m].cost.parameters
        while self._loaded and (len(self._loaded) >= (self.max_loaded or np.inf) or free_memory(self.device) < needed):
            self.has_evicted = True
            self._evict(next(iter(self._loaded)))
        model = load_model(self.models[m].ref, self.device, token=self.token, dtype=self.dtype, texts=texts)
        if not np.isfinite([model.logit_scale, model.logit_bias]).all():
            model.close()
            reason = "logit scale or bias is not finite; its files may be damaged: use another model"
            raise ModelError(model.ref.repo_id, reason)
        return model

    def _evict(self, ref: ModelRef) -> None:
        model = self._loaded.pop(ref, None)
        if model:
            model.close()


def zero_shot_head(model: VisionLanguageModel, prompts: Sequence[Sequence[str]]) -> Head:
    """The head whose class vectors are the mean embeddings of each class's prompts, at unit norm.

    Args:
        model: The model, whose logit scale and bias become part of the head.
        prompts: Prompts of each class, equally many per class.
    """
    embeddings = model.encode_texts([text for texts in prompts for text in texts])
    means = embeddings.reshape(len(prompts), len(prompts[0]), -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return Head.zero_shot(means, model.logit_scale, model.logit_bias)


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
