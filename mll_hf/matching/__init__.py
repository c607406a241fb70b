"""Match class names to concepts."""
