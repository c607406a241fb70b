"""Run the command line with ``python -m mll_hf.cli``."""

import sys

from mll_hf.cli import main

sys.exit(main())
