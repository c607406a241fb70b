"""The command ``serve``."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from mll_hf.cli.options import DEVICE_HELP, SELECTION_HELP, listed

if TYPE_CHECKING:
    import argparse

    from mll_hf.cli.parser import Parser


def add_serve(command: Parser) -> None:
    """Add the command ``serve``."""
    command.description = (
        "Classify images in HTTP requests with the models of a selection. POST / takes the bytes of an "
        "image, or JSON {inputs: base64 or a list of them, parameters: {candidate_labels, hypothesis_template, top_k, "
        "reject}} like Inference Endpoints; GET /health and GET /ready are health checks. SIGTERM or Ctrl+C stops the "
        "server after the requests in progress."
    )
    command.epilog = "Example: mll-hf serve $ORG/NAME, then: curl --data-binary @photo.jpg http://127.0.0.1:8000/"
    command.add_argument("selection", metavar="SELECTION", help=SELECTION_HELP)
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    command.add_argument("--port", type=int, default=8000, metavar="N", help="(default: %(default)s; 0 for a free one)")
    command.add_argument("--device", metavar="NAME", help=DEVICE_HELP)
    command.more.add_argument(
        "--license", type=listed, default=(), metavar="LIST", help="refuse models under other licenses"
    )
    command.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    from mll_hf.pipelines import pipeline
    from mll_hf.serving import serve

    classifier = pipeline(args.selection, licenses=args.license, device=args.device)
    with suppress(KeyboardInterrupt):  # the usual way to stop it
        serve(classifier, args.host, args.port)
    return 0
