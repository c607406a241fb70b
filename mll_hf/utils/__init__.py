"""Utilities for text, files and images, used by all packages."""
