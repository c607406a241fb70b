"""Make graphs: WordNet, probe images from datasets, small graphs from packages."""
