"""Weights in the cache that a run downloaded, and need not stay."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mll_hf.labels.label import ModelRef


@contextlib.contextmanager
def weights_freed(model: ModelRef) -> Iterator[None]:
    """Delete a model's revision from the cache afterwards, if its weights were not there before."""
    keep = _has_cached_weights(model)
    try:
        yield
    except KeyboardInterrupt:
        keep = True  # the run that goes on needs them
        raise
    finally:
        if not keep and _has_cached_weights(model):
            # files that other revisions share stay
            scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(model.revision).execute()


def _has_cached_weights(model: ModelRef) -> bool:
    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return False
    return any(
        file.file_name.endswith(".safetensors") and file.file_path.parent == copy.snapshot_path
        for repo in cache.repos
        if (repo.repo_type, repo.repo_id) == ("model", model.repo_id)
        for copy in repo.revisions
        if copy.commit_hash == model.revision
        for file in copy.files
    )
