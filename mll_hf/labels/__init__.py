"""Labels: what a model did on a graph, its file, folders of labels, and which labels compare.

To select from a collection, all of its labels are read: 1,000 labels of 9,000 concepts are 470 MB on disk and take a
fifth of a second to compare. **100,000 labels** (47 GB) could be served without changing what a label is. Per graph and
probe images, the collection's owner would build a matrix of concepts by models with what a first pass needs (recall
among n candidates is linear in the counts by rank; six principal components, quantized to 4 bytes, reproduce it within
.02 for 99 % of concepts), in shards of 4,000 models, beside a table of what is filtered on. A task of 100 classes reads
50 MB of the 3.6 GB by ranges of bytes, then the best 100 labels whole, which is what is shown. With some thousand
labels that is slower than the folder; it was built once, measured, and taken out again.
"""
