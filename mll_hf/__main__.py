"""Run the command line with ``python -m mll_hf``."""

import sys

from mll_hf.cli import main

sys.exit(main())
