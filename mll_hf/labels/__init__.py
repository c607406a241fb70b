"""What a label says, how it is stored and validated, and many labels as one index."""
