"""Keep models loaded while memory allows, without their text towers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mll_hf.errors import ModelError
from mll_hf.models import load_model
from mll_hf.selection.answer import most_parameters
from mll_hf.selection.head import Head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mll_hf.labels.label import ModelRef
    from mll_hf.models import VisionLanguageModel
    from mll_hf.selection.candidates import SelectedModel

Result = TypeVar("Result")


@dataclass(eq=False)
class Residents:
    """Models that stay loaded while their weights fit in half of the memory, evicted least recently used first.

    ``device``, ``dtype`` and ``token`` are as for :func:`~mll_hf.models.load_model`.
    """

    device: str | None
    dtype: str | None
    token: str | None = field(repr=False)
    has_evicted: bool = False  # whether a model was evicted to load another one
    _most: float = np.inf  # models to keep loaded
    _sizes: dict[ModelRef, int] = field(default_factory=dict)  # numbers of parameters
    _loaded: dict[ModelRef, VisionLanguageModel] = field(default_factory=dict)  # least recently used first
    _known: dict[ModelRef, VisionLanguageModel] = field(default_factory=dict)  # every model, loaded or closed

    def __contains__(self, model: SelectedModel) -> bool:
        """Whether a model is loaded."""
        return model.ref in self._loaded

    def use(
        self, model: SelectedModel, work: Callable[[VisionLanguageModel], Result], *, texts: bool = False
    ) -> Result:
        """Call ``work`` with a model, whose text tower is loaded if ``texts``.

        If it fails while other models are loaded, memory may be short: all models are evicted, ``work`` is called
        again, and fewer models are kept loaded from then on.

        Raises:
            ModelError: The model cannot be loaded or run.
            InputError: The device is not available, or the dtype is unknown.
            MissingExtraError: A package that the model needs is not installed.
        """
        try:
            return work(self._get(model, texts))
        except ModelError:
            others = len(self._loaded.keys() - {model.ref})
            if not others:
                self.close()
                raise
        self._most = others  # after the except block, in which the exception keeps tensors alive
        self.close()
        return self.use(model, work, texts=texts)

    def loaded_once(self, model: SelectedModel) -> VisionLanguageModel:
        """A model that may be closed by now; it still preprocesses images. Raises like :meth:`use`."""
        return self._known.get(model.ref) or self.use(model, lambda loaded: loaded)

    def close(self) -> None:
        """Evict all models."""
        for ref in list(self._loaded):
            self._loaded.pop(ref).close()

    def _get(self, model: SelectedModel, texts: bool) -> VisionLanguageModel:
        ref = model.ref
        if ref in self._loaded and texts and not self._loaded[ref].has_texts:
            self._loaded.pop(ref).close()
        loaded = self._loaded.pop(ref, None) or self._load(model, texts)
        self._loaded[ref] = self._known[ref] = loaded
        return loaded

    def _load(self, model: SelectedModel, texts: bool) -> VisionLanguageModel:
        self._sizes[model.ref] = model.cost.parameters
        while self._loaded and (len(self._loaded) >= self._most or self._size_with(model) > most_parameters()):
            self.has_evicted = True
            self._loaded.pop(next(iter(self._loaded))).close()
        loaded = load_model(model.ref, self.device, token=self.token, dtype=self.dtype, texts=texts)
        if not np.isfinite([loaded.logit_scale, loaded.logit_bias]).all():
            loaded.close()
            reason = "logit scale or bias is not finite; its files may be damaged: use another model"
            raise ModelError(model.ref.repo_id, reason)
        return loaded

    def _size_with(self, model: SelectedModel) -> int:
        return sum(self._sizes[ref] for ref in {*self._loaded, model.ref})


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
