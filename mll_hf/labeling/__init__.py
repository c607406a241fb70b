"""Run models over probe images and count."""
