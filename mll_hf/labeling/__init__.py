"""Run models on probe images and count which they recognize."""
