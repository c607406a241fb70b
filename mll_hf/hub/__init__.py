"""Publish, find and fetch labels, indexes and graphs on the Hub. No other package does."""
