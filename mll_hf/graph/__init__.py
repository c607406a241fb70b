"""Concepts, their hypernyms and the probe images that test them."""
