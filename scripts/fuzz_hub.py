"""Put thousands of hostile labels and graphs on an in-process Hub, and ask for models after each dozen.

Prints files, the worst memory and requests beyond the same question without them. A traceback is a fault of ours.

    python scripts/fuzz_hub.py --files 10000 --seed 1
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import tiny_hub
from command_line import script_parser


def main() -> int:
    """Run the script; returns the exit status."""
    parser = script_parser(str(__doc__))
    parser.add_argument("--files", type=int, default=10_000, metavar="N", help="hostile files (default: 10,000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    args = parser.parse_args()
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "HF_ENDPOINT": tiny_hub.endpoint(tiny_hub.serve()),
            "HF_HOME": folder,
            "HF_TOKEN": "hf_test_token",
        }
        os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        from fuzzing import Attack  # imports huggingface_hub, which reads these

        attack, start = Attack(tiny_hub.HUB, args.seed), time.monotonic()
        before = peak_megabytes()
        while attack.files < args.files:
            attack.round()
            attack.forget()
    print(
        f"{attack.files} hostile files, {attack.valid} of them valid labels: no traceback, no number out of range; "
        f"beyond the questions without them {peak_megabytes() - before:.0f} MB and {attack.most_requests} requests, "
        f"{time.monotonic() - start:.0f} s"
    )
    return 0


def peak_megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    sys.exit(main())
