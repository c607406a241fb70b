"""Publish, find and fetch labels and graphs on the Hub. No other package does."""
