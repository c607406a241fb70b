"""Count parameters and GFLOPs of an open_clip architecture without weights, as a line of counted.csv.

python scripts/known_models/count.py ViT-SO400M-14-SigLIP --image-size 448 --context-length 64
"""

from __future__ import annotations

import argparse
import sys

import open_clip
import torch

from mll_hf.models.torch_model import count_flops


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architecture", choices=open_clip.list_models(), metavar="ARCHITECTURE")
    parser.add_argument("--image-size", type=int, help="in pixels (default: the architecture's)")
    parser.add_argument("--context-length", type=int, help="in tokens (default: the architecture's)")
    args = parser.parse_args(arguments)
    sizes = {"force_image_size": args.image_size, "force_context_length": args.context_length}
    with torch.device("meta"):  # computes shapes only
        network = open_clip.create_model(
            args.architecture, device="meta", **{name: size for name, size in sizes.items() if size}
        )
        network = network.eval().requires_grad_(False)
        height, width = open_clip.transform.to_2tuple(network.visual.image_size)
        pixels = torch.empty(1, 3, height, width)
        tokens = torch.empty(1, network.context_length, dtype=torch.int64)
    image, text = (
        count_flops(run) / 1e9 for run in (lambda: network.encode_image(pixels), lambda: network.encode_text(tokens))
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"{args.architecture},{parameters},{image:.2f},{text:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
