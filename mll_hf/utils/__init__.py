"""Text, files and images: what every room may use."""
