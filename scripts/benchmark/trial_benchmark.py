"""Measure the budgeted trial and the use of examples on tasks with known classes, with the library's code.

    python scripts/benchmark/trial_benchmark.py --labels DIR --tasks DIR ... [--cache DIR] [--draws N]

For each task and draw: a trial on 256 images, like ``mll-hf fit``, in which no model is downloaded yet;
then all models on the same images; then the same with 25 and 50 random examples. Accuracies are those of the chosen
model alone on all other images, fitted in the trial.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark.cache import EmbeddingCache
from benchmark.scores import leep
from benchmark.suites import read_task
from benchmark.world import read_embeddings, read_hub
from mll_hf.ensemble.run import Ensemble
from mll_hf.ensemble.trial import try_models
from mll_hf.hub.sources import open_labels
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.matching.describe import from_templates
from mll_hf.matching.prompts import DEFAULT_TEMPLATE, fill
from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder
from mll_hf.selection import Candidates, SelectionConfig, Task, choose_with_images, select, shortlist_config
from mll_hf.selection.probabilities import softmax
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from benchmark.world import Embedded, Hub
    from mll_hf.selection import Selection

N_IMAGES = 256
N_EXAMPLES = (25, 50)
BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class CachedAnswers(Ensemble):
    """An ensemble with cached embeddings of its models. Images are given as positions."""

    embedded: tuple[Embedded, ...] = ()  # of all models of the selection

    def model_runner(self, images: Sequence[Any], _cache: object) -> Callable[[int], Embedded]:
        """See :meth:`Ensemble.model_runner`."""
        rows = np.array([int(image) for image in images])
        return lambda m: (self.embedded[m][0][rows], self.embedded[m][1])


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", required=True, metavar="SOURCE", help="labels of all models")
    parser.add_argument("--tasks", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument(
        "--cache", type=Path, default=Path("bench-cache"), metavar="DIR", help="folder of cached embeddings"
    )
    parser.add_argument("--draws", type=int, default=3, metavar="N", help="draws per task (default: %(default)s)")
    args = parser.parse_args()
    hub = read_hub(open_labels(args.labels))
    index = ConceptIndex.build(hub.joined.union.graph, CachedEncoder(DefaultEncoder(), exact=True))
    cache, rows = EmbeddingCache(args.cache), []
    for folder in args.tasks:
        task = read_task(folder)
        prompts = [fill([DEFAULT_TEMPLATE], name) for name in task.classes]
        cache.fill(hub.refs, [task], [[text for of_class in prompts for text in of_class]])
        found = read_embeddings(cache, hub.refs, task, prompts)
        match = index.match(from_templates(task.classes, index.graph, task.domain, task.task))
        shortlist = select(Candidates(hub.joined, match, task.domain), shortlist_config(SelectionConfig()))
        figures = [
            measure(shortlist, hub, found.embedded, task.labels[found.readable], np.random.default_rng(seed))
            for seed in range(args.draws)
        ]
        rows.append((task.name, {key: float(np.mean([of[key] for of in figures])) for key in figures[0]}))
        print(f"{task.name}: done", file=sys.stderr)
    keys = list(rows[0][1])
    means = {key: np.mean([of[key] for _, of in rows]) for key in keys}
    print(table(["task", *keys], [[name, *(f"{of[k]:.3f}" for k in keys)] for name, of in [*rows, ("mean", means)]]))
    return 0


def measure(
    shortlist: Selection,
    hub: Hub,
    embedded: Sequence[Embedded],
    labels: NDArray[np.int64],
    rng: np.random.Generator,
) -> dict[str, float]:
    """Figures of one draw.

    Args:
        shortlist: The models, by labels alone.
        hub: The same models in the order of ``embedded``.
        embedded: Of all models.
        labels: [N] true classes.
        rng: Draws images and examples.
    """
    position = {ref: m for m, ref in enumerate(hub.refs)}
    embedded = tuple(embedded[position[model.ref]] for model in shortlist.models)
    logits = np.stack([head.logits(images) for images, head in embedded])
    order = rng.permutation(len(labels))
    n_pool = max(N_EXAMPLES)
    seen, pool = order[n_pool : n_pool + N_IMAGES], order[:n_pool]
    scored = np.setdiff1d(order, pool)
    sizes = [BYTES_PER_PARAMETER * shortlist.models[m].cost.parameters for m in shortlist.chosen_models]
    ensemble = CachedAnswers(shortlist, templates=("{}",), embedded=embedded)
    config = SelectionConfig(k=1, max_download=sum(sizes))
    figures: dict[str, float] = defaultdict(float)

    def put(name: str, selection: Selection) -> None:
        row = [model.ref for model in shortlist.models].index(selection.models[0].ref)
        answers = selection.heads[0].logits(embedded[row][0][scored]).argmax(axis=1)
        figures[name] = float((answers == labels[scored]).mean())
        if selection.estimate is not None:
            figures[f"{name}: error"] = abs(float(selection.estimate.accuracy[0]) - figures[name])
            low, high = (ends[0] for ends in selection.estimate.interval)
            inside = low <= figures[name] <= high
            figures[f"{name}: inside"] = float(inside)

    def chosen(images: NDArray[np.int64], examples: NDArray[np.int64]) -> Selection:
        every = np.concatenate([examples, images])
        pairs = [(rows[every], head) for rows, head in embedded]
        return choose_with_images(shortlist, range(len(sizes)), pairs, config, ("{}",), labels[examples])

    figures["best"] = float((logits[:, scored].argmax(axis=2) == labels[scored]).mean(axis=1).max())
    tried = try_models(ensemble, config, Task(shortlist.classes, images=tuple(seen.tolist())), sizes)
    fetched = sum(BYTES_PER_PARAMETER * model.cost.parameters for model in tried.models)
    figures["bytes"] = fetched / sum(sizes)
    put("trial", tried)
    put("all", chosen(seen, pool[:0]))
    for n in N_EXAMPLES:
        examples = pool[:n]
        put(f"{n} ex.", chosen(examples[:0], examples))
        put(f"all + {n} ex.", chosen(seen, examples))
        picked = int(np.argmax([leep(of_model, labels[examples]) for of_model in softmax(logits[:, examples])]))
        figures[f"leep {n}"] = float((logits[picked, scored].argmax(axis=1) == labels[scored]).mean())
    return dict(figures)


if __name__ == "__main__":
    sys.exit(main())
