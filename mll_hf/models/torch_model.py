"""A loaded vision-language model: a torch network in evaluation mode, whatever the backend."""

from __future__ import annotations

import contextlib
import errno
import gc
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mll_hf.errors import MLLError, ModelError
from mll_hf.labels.label import Cost
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.label import ModelRef

_CPU_BATCH, _CPU_BATCH_OF_LARGE, _LARGE_GFLOPS = 128, 32, 1.0  # ViT-B/32 is 20 % faster with 32, tiny models with 128
_TEXT_BATCH = 256
_GPU_BATCH = 512  # embedded in smaller ones where memory is full
NEEDS_CODE = "needs code from a repository, which is never run; use another model"
_DAMAGED = "its files may be damaged: download it again, or use another model"
# torch has an exception for a full GPU, but none for full main memory
_OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|can(?:'|no)t allocate memory|ALLOC_FAILED", re.IGNORECASE)


class VisionLanguageModel(ABC):
    """A loaded model in evaluation mode; backends implement the four abstract methods.

    Unless asked otherwise, images run in float16 on a GPU, in float32 elsewhere. A model that overflows in half
    precision runs in float32 from then on. bfloat16 does not overflow, but rounds eight times more coarsely: on a CPU
    it changed 1.2 % of the predictions of four small models, float16 .1 %. Texts always run in float32: they are few,
    and each is compared with every image. The network is not compiled: compiling takes minutes per model, longer than
    most measurements, and no benefit has been measured.

    Attributes:
        ref: The model and its revision.
        embedding_size: D, the size of an embedding.
        logit_scale: Factor between cosines and logits (already exponentiated).
        logit_bias: Constant added to every logit; 0.0 for models that were trained with a softmax, not a sigmoid.
        cost: Parameters and FLOPs, measured on the loaded model.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        dtype: Precision of the image tower: ``float32``, ``float16`` or ``bfloat16``.
        batch_size: Default number of images per batch, which keeps the device busy.
        has_texts: Whether the text tower is loaded; without it ``cost`` is that of the image tower.
    """

    ref: ModelRef
    embedding_size: int
    logit_scale: float
    logit_bias: float
    cost: Cost
    device: str
    dtype: str
    batch_size: int
    has_texts: bool
    _max_images: int  # per batch; halved when memory runs out
    _network: Any  # libraries name the towers differently

    def __init__(
        self, ref: ModelRef, network: torch.nn.Module, device: str, dtype: str | None, has_texts: bool
    ) -> None:
        self.ref, self.has_texts = ref, has_texts
        self.device, self._device = device, torch.device(device)
        self.dtype = dtype or ("float16" if self._device.type == "cuda" else "float32")
        self._network = network.eval().requires_grad_(False)  # else FLOPs of attention pools are not counted
        # channels_last makes convolutional towers 20 % faster on a CPU
        self._network = self._network.to(self._device, memory_format=torch.channels_last)
        # ALIGN and TIPSv2 have a temperature instead
        has_scale = hasattr(network, "logit_scale")
        scale = self._network.logit_scale.exp() if has_scale else 1 / self._network.temperature
        self.logit_scale = float(scale.detach())
        bias = getattr(self._network, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None else float(bias.detach())
        self._measure()

    @abstractmethod
    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Turn an image of any PIL mode into the model's input, [3, H, W] float32 on the CPU.

        Safe to call from threads. SigLIP 2 NaFlex has two dimensions instead of three, also of a fixed size.
        """

    def preprocessing(self) -> dict[str, Any] | None:
        """`preprocess` as data for :func:`mll_hf.export.preprocess`; None if it does more than resize and crop."""
        return None

    def classifier(self, weights: NDArray[np.float32], bias: NDArray[np.float32]) -> torch.nn.Module:
        """Image tower, unit norm and head (weights [C, D], bias [C]): from [N, 3, H, W] to probabilities [N, C]."""
        return _Classifier(self._network, self._image_features, torch.tensor(weights), torch.tensor(bias)).eval()

    @abstractmethod
    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the image tower on [N, 3, H, W]; returns [N, D], not normalized."""

    @abstractmethod
    def _tokenize(self, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """Turn texts into the text tower's inputs, [T, context length] each."""

    @abstractmethod
    def _text_features(self, tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Run the text tower; returns [T, D], not normalized."""

    def encode_pixels(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Embed images [N, 3, H, W] from :meth:`preprocess`; returns unit-norm float32 [N, D].

        A batch that does not fit into memory is embedded in smaller batches. A ModelError if an embedding is zero or
        not finite, or not even one image fits into memory.
        """
        parts: list[NDArray[np.float32]] = []
        done = 0
        with torch.inference_mode(), self._running():
            while done < len(pixels):
                part = pixels[done : done + self._max_images]
                try:
                    parts.append(self._encode_batch(part))
                    done += len(part)
                    continue
                except RuntimeError as error:
                    if len(part) == 1 or not _is_out_of_memory(error):
                        raise
                # after the except block, in which the exception keeps tensors alive
                self._max_images = (len(part) + 1) // 2  # also for later batches, which are as large
                gc.collect()  # takes .2 s
                torch.cuda.empty_cache()
        return np.concatenate(parts)

    def _encode_batch(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        pixels = pixels.to(self._device)
        is_half = self.dtype != "float32"
        with torch.autocast(self._device.type, dtype=getattr(torch, self.dtype), enabled=is_half):
            features = self._image_features(pixels)
        if is_half and not torch.isfinite(features).all():
            self.dtype = "float32"  # from now on
            features = self._image_features(pixels)
        return self._unit_norm(features, "images")

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts; returns unit-norm float32 [T, D]. Texts longer than the context are truncated.

        A ModelError if an embedding is zero or not finite, a ValueError if the text tower is not loaded.
        """
        if not self.has_texts:
            raise ValueError("the text tower is not loaded")
        parts = [np.empty((0, self.embedding_size), np.float32)]
        with torch.inference_mode(), self._running():
            for start in range(0, len(texts), _TEXT_BATCH):
                tokens = self._tokenize(list(texts[start : start + _TEXT_BATCH]))
                features = self._text_features({name: part.to(self._device) for name, part in tokens.items()})
                parts.append(self._unit_norm(features, "texts"))
        return np.concatenate(parts)

    def close(self) -> None:
        """Free the model's memory. It can still preprocess images, but not embed them."""
        self._network = self._network.to("meta")
        torch.cuda.empty_cache()

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Turn a torch error, most often out of memory, into a `ModelError`."""
        try:
            yield
        except RuntimeError as error:
            reason = f"cannot be run on {self._device} ({one_line(error)}); use smaller batches, or another device"
            raise ModelError(self.ref.repo_id, reason) from error

    def _unit_norm(self, features: torch.Tensor, what: str) -> NDArray[np.float32]:
        features = features.float()
        norms = features.norm(dim=-1, keepdim=True)
        broken = int((~(torch.isfinite(norms) & (norms > 0))).sum())
        if broken:
            reason = f"gives non-finite or zero embeddings for {broken} of {len(features)} {what}; {_DAMAGED}"
            raise ModelError(self.ref.repo_id, reason)
        return (features / norms).cpu().numpy()

    def _measure(self) -> None:
        """Run the towers once to get cost and embedding size, and to fail early."""
        # noise, because half precision may overflow where a gray picture does not
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        pixels = self.preprocess(Image.fromarray(noise))
        batch = pixels[None].to(self._device)
        self.cost = Cost(
            parameters=sum(parameter.numel() for parameter in self._network.parameters()),
            gflops=count_flops(lambda: self._image_features(batch)) / 1e9,
        )
        self._max_images = 2**31
        self.embedding_size = self.encode_pixels(pixels[None]).shape[1]
        on_cpu = _CPU_BATCH if self.cost.gflops < _LARGE_GFLOPS else _CPU_BATCH_OF_LARGE
        self.batch_size = _GPU_BATCH if self._device.type == "cuda" else on_cpu
        text_size = self.encode_texts(["a photo"]).shape[1] if self.has_texts else self.embedding_size
        if text_size != self.embedding_size:
            reason = f"embeds images in {self.embedding_size} and texts in {text_size} dimensions; use another model"
            raise ModelError(self.ref.repo_id, reason)


class _Classifier(torch.nn.Module):
    def __init__(
        self,
        network: torch.nn.Module,  # whose parameters `features` uses
        features: Callable[[torch.Tensor], torch.Tensor],
        weights: torch.Tensor,
        bias: torch.Tensor,
    ) -> None:
        super().__init__()
        self.network, self.features = network, features
        self.weights, self.bias = torch.nn.Buffer(weights), torch.nn.Buffer(bias)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = self.features(pixel_values)
        embeddings = features / features.norm(dim=-1, keepdim=True)
        return (embeddings @ self.weights.T + self.bias).softmax(dim=-1)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, (RuntimeError, OSError)) and bool(_OUT_OF_MEMORY.search(str(error)))


def count_flops(run: Callable[[], object]) -> int:
    """Count the floating-point operations of matrix products and convolutions; a multiply-add counts as two.

    Fused attention kernels are disabled: on some devices torch's counter misses them.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops()


@contextlib.contextmanager
def one_line_errors(ref: ModelRef) -> Iterator[None]:
    """Turn any error of another library during loading into one `ModelError`.

    Catches `Exception` on purpose, and only here: damaged or unknown files raise anything from an AssertionError to
    the bare Exception of tokenizers.
    """
    try:
        yield
    except MLLError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelError(ref.repo_id, NEEDS_CODE) from error
        cause = f"{type(error).__name__}: {one_line(error)}"
        if _is_out_of_memory(error):
            advice = "memory is full: use a larger device or a smaller model"
        else:
            advice = "install what is missing" if isinstance(error, ImportError) else _DAMAGED
        raise ModelError(ref.repo_id, f"cannot be loaded ({cause}); {advice}") from error
