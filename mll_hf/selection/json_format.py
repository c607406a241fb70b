"""The JSON format of a selection."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.labels.label import Cost, ModelRef
from mll_hf.matching.prompts import check_class_names, fill
from mll_hf.selection.candidates import Figures, SelectedModel
from mll_hf.selection.estimate import Basis, Estimate
from mll_hf.selection.result import QUANTILES, MatchedConcept, Selection, Trial
from mll_hf.selection.strategies import Strategy

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX = 1e100  # of numbers, so that sums and products do not overflow


def selection_to_json(selection: Selection) -> dict[str, Any]:
    """See :meth:`Selection.to_json`."""
    ids, answer, trial = _distinct_ids(selection.models), selection.answer, selection.trial
    names = {} if answer is None else {"best": ids[answer.best], "cheapest": ids[answer.cheapest]}
    return {
        "classes": list(selection.classes),
        "strategy": str(selection.strategy),
        "k": selection.k,
        "domain": selection.domain,
        "task": selection.task,
        "templates": list(selection.templates),
        "notes": list(selection.notes),
        "unmeasured": list(selection.unmeasured),
        "answer": answer and asdict(answer) | names,
        "models": [_model_to_json(selection, m) for m in range(len(selection.models))],
        "chosen": {
            name: [ids[m] for m in np.argsort(-selection.scores[:, y], kind="stable") if selection.chosen[m, y]]
            for y, name in enumerate(selection.classes)
        },
        "matches": {
            name: [asdict(concept) for concept in matched]
            for name, matched in zip(selection.classes, selection.matches, strict=True)
        },
        "coverage": dict(zip(selection.classes, selection.coverage.tolist(), strict=True)),
        "estimate": selection.estimate
        and {
            "basis": str(selection.estimate.basis),
            "mean": selection.estimate.mean.tolist(),
            "variance": np.diag(selection.estimate.covariance).tolist(),
        },
        "trial": trial and {name: np.asarray(value).tolist() for name, value in vars(trial).items()},
    }


def _model_to_json(selection: Selection, m: int) -> dict[str, Any]:
    model, accuracy = selection.models[m], None
    if selection.estimate and selection.estimate.known[m]:
        low, high = selection.estimate.interval
        accuracy = {"estimate": float(selection.estimate.accuracy[m]), "low": float(low[m]), "high": float(high[m])}
    return {
        "id": model.ref.repo_id,
        "revision": model.ref.revision,
        "backend": model.ref.backend,
        "digest": model.ref.digest,
        **asdict(model.cost),
        "temperature": model.temperature,
        "figures": str(model.figures),
        "license": model.license,
        "overall": float(selection.overall[m]),
        "accuracy": accuracy,
        "scores": selection.scores[m].tolist(),
    }


def selection_from_json(document: dict[str, Any]) -> Selection:
    """See :meth:`Selection.from_json`; any error means that the document is no selection."""
    classes = check_class_names(document["classes"])
    models = tuple(map(_model_from_json, document["models"]))
    shape, estimate, trial = (len(models), len(classes)), document["estimate"], document["trial"]
    matches = tuple(
        tuple(MatchedConcept(_text(c["id"]), _text(c["name"]), _number(c["weight"])) for c in document["matches"][name])
        for name in classes
    )
    if not all(matches) and any(model.figures is Figures.LABEL for model in models):
        raise ValueError("a class has no concepts")
    if estimate is not None:
        mean, variance = _numbers(estimate["mean"], shape[:1]), _numbers(estimate["variance"], shape[:1], 0)
        estimate = Estimate(mean, np.diag(variance), Basis(estimate["basis"]))
    selection = Selection(
        classes=classes,
        strategy=Strategy(document["strategy"]),
        k=int(_number(document["k"], 1)),
        models=models,
        scores=_numbers([model["scores"] for model in document["models"]], shape),
        chosen=_chosen_from_json([document["chosen"][name] for name in classes], _distinct_ids(models)),
        matches=matches,
        coverage=_numbers([document["coverage"][name] for name in classes], shape[1:], 0, 1),
        domain=_optional_text(document["domain"]),
        task=_optional_text(document["task"]),
        trial=None if trial is None else _trial_from_json(trial, *shape),
        estimate=estimate,
        templates=_texts(document["templates"]),
        notes=_texts(document["notes"]),
        unmeasured=_texts(document["unmeasured"]),
    )
    fill(selection.prompt_templates, classes[0])  # checks them
    return selection


def _model_from_json(model: dict[str, Any]) -> SelectedModel:
    repo_id, revision, backend = (_text(model[name]) for name in ("id", "revision", "backend"))
    return SelectedModel(
        ref=ModelRef(repo_id, revision, backend, _optional_text(model["digest"])),
        cost=Cost(int(_number(model["parameters"], 0)), _number(model["gflops"], 0)),
        temperature=_number(model["temperature"], 1 / _MAX),
        figures=Figures(model["figures"]),
        license=_optional_text(model["license"]),
    )


def _trial_from_json(document: dict[str, Any], n_models: int, n_classes: int) -> Trial:
    shares = {name: _numbers(document[name], (n_models,), 0, 1) for name in ("zero_shot", "fitted", "weights")}
    return Trial(
        n_images=int(_number(document["n_images"], 1)),
        n_examples=int(_number(document["n_examples"], 0)),
        strengths=_numbers(document["strengths"], (n_models,), 0),
        shares=_numbers(document["shares"], (n_classes,), 0, 1),
        resemblance=_numbers(document["resemblance"], QUANTILES.shape),
        **shares,
    )


def _chosen_from_json(chosen: list[list[str]], ids: list[str]) -> NDArray[np.bool_]:
    """[M, C] mask from the chosen ids of each class."""
    row = {id: m for m, id in enumerate(ids)}
    mask = np.zeros((len(ids), len(chosen)), np.bool_)
    for y, names in enumerate(chosen):
        if not isinstance(names, list) or not names:
            raise ValueError("a class has no chosen models")
        mask[[row[name] for name in names], y] = True
    return mask


def _distinct_ids(models: tuple[SelectedModel, ...]) -> list[str]:
    """Ids in the JSON format; ``org/name@revision`` for models with several revisions."""
    count = Counter(model.ref.repo_id for model in models)
    return [
        model.ref.repo_id if count[model.ref.repo_id] == 1 else f"{model.ref.repo_id}@{model.ref.revision}"
        for model in models
    ]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a string")
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r:.40} is not a list")
    return tuple(map(_text, values))


def _number(value: object, minimum: float = -_MAX, maximum: float = _MAX) -> float:
    return float(_numbers(value, (), minimum, maximum))


def _numbers(
    values: object, shape: tuple[int, ...], minimum: float = -_MAX, maximum: float = _MAX
) -> NDArray[np.float64]:
    numbers = np.array(values, np.float64)
    if numbers.shape != shape:
        raise ValueError("there is not one number per model and class")
    if not ((minimum <= numbers) & (numbers <= maximum)).all():  # also refuses NaN
        raise ValueError("a number is out of range")
    return numbers
