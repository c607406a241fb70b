"""Run models through the wrapper of ZeroGPU, as the Space does, in a process of its own; prints what came of it.

    SPACES_ZERO_GPU=true SPACES_ZERO_DEVICE_API_URL=http://127.0.0.1:9 python zero_gpu.py MODEL_FOLDER WORK_FOLDER

The wrapper is the real one, which forks a worker and sends it model and images. Only the scheduler of the Hub is
replaced, and what it does to torch: the worker runs on the CPU.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import multiprocessing
import os
import sys
import types
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

import gradio as gr
import numpy as np

gpu = types.ModuleType("spaces.zero.torch")  # the real one needs a build of torch with CUDA
gpu.is_in_bad_fork, gpu.size, gpu.pack = lambda: False, lambda: 0, lambda: 0
gpu.patch = gpu.unpatch = gpu.init = gpu.move = gpu.enter_mode = lambda *_, **__: None
sys.modules[gpu.__name__] = gpu

from spaces.zero import client

from mll_hf.errors import ModelError
from mll_hf.models import resolve_model
from mll_hf.models.torch_model import VisionLanguageModel
from space_worlds import FOLDER, load_app, make_library, make_store
from worlds import make_graph, make_label

seconds = []


def schedule(*, duration, **_):
    """A GPU at once, in a new process each time after the first two."""
    seconds.append(duration.seconds)
    return types.SimpleNamespace(allowToken="", nvidiaIndex=0, nvidiaUUID="", idle=len(seconds) <= 2)


def refuse(**_):
    raise gr.Error("You have exceeded your GPU quota")


def in_worker(act):
    """The way to embed a batch, replaced in workers only."""
    here, whole = os.getpid(), VisionLanguageModel._encode_batch
    return lambda model, pixels: whole(model, pixels) if os.getpid() == here else act()


def no_kernel():
    raise RuntimeError("no kernel")


def main():
    client.schedule, client.allow, client.release = schedule, lambda _: None, lambda *_, **__: None
    client.get_duration_seconds, client.duration_warning = lambda *_: 60, lambda: None
    app, model = load_app(), resolve_model(f"local-dir:{sys.argv[1]}")
    labels = make_library(make_store(Path(sys.argv[2]), [make_label(make_graph(), model=model)], make_graph())).labels
    question = app.answers.make_question(["cat", "dog"])
    pictures = sorted(map(str, (FOLDER / "pictures").glob("*.png")))

    def run(embed):
        return app.trials.classify(labels, question, pictures, embed, lambda *_: None).probabilities

    def reason():
        try:
            run(app.EMBED)
        except ModelError as error:
            return str(error)

    found = {"same": all(np.allclose(run(app.EMBED), run(None), atol=1e-5) for _ in range(2))}
    whole = VisionLanguageModel._encode_batch
    for name, act in (("failed", no_kernel), ("aborted", lambda: os._exit(1))):
        VisionLanguageModel._encode_batch = in_worker(act)
        found[name] = reason()
        VisionLanguageModel._encode_batch = whole
    client.schedule = refuse
    found["refused"] = reason()
    print(json.dumps({**found, "seconds": seconds}), flush=True)
    for worker in multiprocessing.active_children():
        worker.kill()


if __name__ == "__main__":
    main()
