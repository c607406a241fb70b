"""Add a model with published figures to the known models, or replace its figures.

    python scripts/known_models/add.py $ORG/NAME --imagenet 0.701 --parameters 151M --image-gflops 8.8 \\
        --text-gflops 5.9 --download 605M --license mit --page https://huggingface.co/$ORG/NAME [--twin $ORG/OTHER]

Specialists and models of other languages may lack an ImageNet accuracy; --domain, --language and --prompt say what they
are for. Writes the model's line of pages.csv, and rebuilds mll_hf/models/data/known_models.csv. The weights must be in
safetensors, and open_clip or transformers must load them without custom code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import script_parser
from known_models import build

if TYPE_CHECKING:
    from collections.abc import Sequence

UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    parser = script_parser(str(__doc__))
    parser.add_argument("hub_id", metavar="$ORG/NAME", help="repo with weights in safetensors")
    parser.add_argument("--imagenet", type=_share, metavar="SHARE", help="zero-shot top-1 accuracy on ImageNet, 0 to 1")
    for option, kind, text in (
        ("parameters", _count, "number of parameters, such as 151M"),
        ("image-gflops", float, "GFLOPs per image; a multiply-add counts as two"),
        ("text-gflops", float, "GFLOPs per text"),
        ("download", _count, "bytes of the weights, such as 605M"),
        ("license", str, "the Hub's id of the license"),
        ("page", str, "URL of the page or paper with these figures"),
    ):
        parser.add_argument(f"--{option}", type=kind, required=True, metavar=option.upper(), help=text)
    parser.add_argument("--twin", default="", metavar="$ORG/NAME", help="repo with the same weights in another layout")
    parser.add_argument("--domain", action="append", default=[], help="what it is made for, such as dermatology")
    parser.add_argument("--language", action="append", default=[], help="code of a language of its texts (default: en)")
    parser.add_argument("--prompt", default="", help="template of texts as in its training")
    args = parser.parse_args(arguments)
    path = build.LOOKED_UP / "pages.csv"
    row = dict.fromkeys(build.PAGE_COLUMNS, "") | {
        **{"name": args.hub_id, "backend": "open_clip", "loadable": "yes", "weights": "safetensors"},
        **{key: getattr(args, key) for key in ("hub_id", "twin", "license", "prompt", "page")},
        **{key: f"{getattr(args, key):g}" for key in ("image_gflops", "text_gflops")},
        **{"imagenet": "" if args.imagenet is None else f"{args.imagenet:g}"},
        **{"domains": "|".join(args.domain), "languages": "|".join(args.language or ["en"])},
        **{"parameters": str(args.parameters), "download_bytes": str(args.download)},
    }
    others = [other for other in build.read(path) if other["hub_id"] != args.hub_id]
    path.write_bytes(build.to_csv(build.PAGE_COLUMNS, [*others, row]))
    return build.main([])


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _count(text: str) -> int:
    unit = UNITS.get(text[-1:].upper(), 1)
    return round(float(text.rstrip("KMGBkmgb")) * unit)


if __name__ == "__main__":
    sys.exit(main())
