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

    from mll_hf.models import VisionLanguageModel
    from mll_hf.selection.candidates import SelectedModel

Result = TypeVar("Result")


@dataclass(eq=False)
class Residents:
    """Models that stay loaded if the weights of all fit in half of the memory; otherwise one model at a time is loaded.

    ``device``, ``dtype`` and ``token`` are as for :func:`~mll_hf.models.load_model`.
    """

    device: str | None
    dtype: str | None
    token: str | None = field(repr=False)
    keeps_one: bool = False  # set when memory is short
    _loaded: dict[SelectedModel, VisionLanguageModel] = field(default_factory=dict)
    _known: dict[SelectedModel, VisionLanguageModel] = field(default_factory=dict)  # every model, loaded or closed

    def __contains__(self, model: SelectedModel) -> bool:
        """Whether a model is loaded."""
        return model in self._loaded

    def use(
        self, model: SelectedModel, work: Callable[[VisionLanguageModel], Result], *, texts: bool = False
    ) -> Result:
        """Call ``work`` with a model, whose text tower is loaded if ``texts``.

        If it fails while other models are loaded, memory may be short: all models are evicted, ``work`` is called
        again, and one model at a time is loaded from then on.

        Raises:
            ModelError: The model cannot be loaded or run.
            InputError: The device is not available, or the dtype is unknown.
            MissingExtraError: A package that the model needs is not installed.
        """
        try:
            return work(self._get(model, texts))
        except ModelError:
            if not self._loaded.keys() - {model}:
                self.close()
                raise
        self.keeps_one = True  # after the except block, in which the exception keeps tensors alive
        self.close()
        return self.use(model, work, texts=texts)

    def loaded_once(self, model: SelectedModel) -> VisionLanguageModel:
        """A model that may be closed by now; it still preprocesses images. Raises like :meth:`use`."""
        return self._known.get(model) or self.use(model, lambda loaded: loaded)

    def close(self) -> None:
        """Evict all models."""
        for model in list(self._loaded):
            self._loaded.pop(model).close()

    def _get(self, model: SelectedModel, texts: bool) -> VisionLanguageModel:
        found = self._loaded.get(model)
        if found and (found.has_texts or not texts):
            return found
        if sum(each.cost.parameters for each in {*self._loaded, model}) > most_parameters():
            self.keeps_one = True
        if self.keeps_one:
            self.close()
        elif found:
            self._loaded.pop(model).close()
        loaded = load_model(model.ref, self.device, token=self.token, dtype=self.dtype, texts=texts)
        if not np.isfinite([loaded.logit_scale, loaded.logit_bias]).all():
            loaded.close()
            reason = "logit scale or bias is not finite; its files may be damaged: use another model"
            raise ModelError(model.ref.repo_id, reason)
        self._loaded[model] = self._known[model] = loaded
        return loaded


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
