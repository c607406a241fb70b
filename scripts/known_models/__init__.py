"""Build the table of known models, and fit the estimate of accuracies."""
