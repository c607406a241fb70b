"""The parser that all scripts share."""

import argparse


def script_parser(doc: str) -> argparse.ArgumentParser:
    """A parser with a script's docstring as help: examples (from ``python ...`` on) come after the options."""
    description, python, examples = doc.partition("    python")
    return argparse.ArgumentParser(
        description=description,
        epilog=f"{python}{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
