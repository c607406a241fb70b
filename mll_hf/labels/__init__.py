"""Labels: their content, file format and validation, folders of labels, and indexes."""
