"""The function of the Space for programs: over HTTP, or as a tool of an MCP server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr
import pages
from answers import Question

from mll_hf.errors import MLLError

if TYPE_CHECKING:
    from collections.abc import Callable

    from answers import Library


def make_api(library: Library) -> Callable[..., dict[str, Any]]:
    """The function for programs, over HTTP or as a tool of an MCP server; its docstring is the documentation."""

    def select_models(
        classes: list[str],
        k: int | None = None,
        domain: str = "",
        max_gflops: float | None = None,
        max_parameters: str = "",
        licenses: list[str] | None = None,
    ) -> dict[str, Any]:
        """Rank open vision-language models (CLIP-like zero-shot image classifiers) for a list of class names.

        No model is run: every model was tested once on images of visual concepts, and the classes are matched to these.

        Args:
            classes: Two or more class names, for example ["corroded pipe", "intact pipe", "weld"].
            k: Number of models to choose; the probabilities of several are combined. By default the best value.
            domain: How the images look, for example "photo", "sketch" or "satellite image"; empty if unknown.
            max_gflops: Maximum GFLOPs per image of a model.
            max_parameters: Maximum parameters of a model, for example "200M"; empty for any.
            licenses: Allowed licenses of chosen models, for example ["apache-2.0", "mit"]; none for any.

        Returns:
            "answer": the best value, the best at any cost, and whether the choice matters, as sentences. "models": the
            ten best and the chosen ones, best first, with the estimated accuracy and its 90 % interval. "code": a
            Python program that makes the same choice.
        """
        limits = {"k": k, "max_gflops": max_gflops, "max_parameters": max_parameters, "licenses": licenses}
        try:
            question, labels = Question.of(classes, domain, **limits), library.labels
            found = labels.select(question)
        except MLLError as error:
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from None
        models = [
            {
                "id": found.models[m].name,
                "revision": found.models[m].ref.revision,
                "chosen": m in found.chosen_models,
                "accuracy": found.estimate.text(m) if found.estimate else "not known",
                "license": found.models[m].license,
                "parameters": found.models[m].cost.parameters,
                "gflops": found.models[m].cost.gflops,
            }
            for m in pages.shown_models(found)
        ]
        return {"answer": list(found.answer_lines), "models": models, "code": question.code(labels.source)}

    return select_models
