"""From class names to concepts."""
