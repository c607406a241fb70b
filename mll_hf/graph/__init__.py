"""Concepts, their hypernyms and their probe images."""
