"""Data of the demo: real pictures from PyPI packages, a small WordNet graph, held-out tasks and tiny models."""

from pathlib import Path

from demo_world.graph import build_graph
from demo_world.targets import Task, tasks, write_task

MODELS = Path(__file__).with_name("models")

__all__ = ["MODELS", "Task", "build_graph", "tasks", "write_task"]
