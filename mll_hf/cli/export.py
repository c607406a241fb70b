"""The command ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.cli.options import SELECTION_HELP
from mll_hf.cli.output import exit_status, print_error

if TYPE_CHECKING:
    import argparse

    from mll_hf.cli.parser import Parser


def add_export(command: Parser) -> None:
    """Add the command ``export``."""
    command.description = (
        "Write one ONNX graph per chosen model, from preprocessed images to class probabilities, with "
        "config.json and a README that shows how to run them with onnxruntime, NumPy and Pillow. Each graph is "
        "compared with the model in torch."
    )
    command.add_argument("selection", metavar="SELECTION", help=SELECTION_HELP)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="where to write; new or empty")
    command.add_argument(
        "--check-images", type=Path, metavar="DIR", help="also compare on these images (default: random ones only)"
    )
    command.add_argument(
        "--int8",
        action="store_true",
        help="also write int8 graphs, and keep those that lose less than a point on --check-images: of accuracy if "
        "their subfolders are named like classes, else of agreement with float32",
    )
    command.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    from mll_hf.export import export_onnx
    from mll_hf.selection import Selection

    selection = Selection.from_pretrained(args.selection)
    models, failed = export_onnx(selection, args.folder, check_images=args.check_images, int8=args.int8)
    for model in models:
        print("{file}: probabilities within {max_difference:.1g} of torch on {images} images".format_map(model))
        if small := model["int8"]:
            kept = f"kept as {small['file']}" if small["file"] else "deleted, it loses a point or more"
            shown = "accuracy {:.3f}, in float32 {:.3f}".format(*small["accuracy"][::-1]) if small["accuracy"] else ""
            print(
                f"  int8: {kept}; agreement {small['agreement']:.3f}{', ' * bool(shown)}{shown} on {small['images']} "
                "images; {1:.3g} MB instead of {0:.3g}".format(*small["megabytes"])
            )
    for error in failed:
        print_error(str(error))
    return exit_status(len(failed), len(models) + len(failed), "models")
