"""Labels: what a model did on a graph, its file, folders of labels, and which labels compare.

A collection is a folder of files; to select from it, all labels are read. That is enough for thousands: 1,000 labels of
9,000 concepts are 470 MB on disk and take a fifth of a second to compare once they are in memory. **How one would serve
100,000** (47 GB), without changing what a label is:

- Selection needs few numbers of each label. Recall among n candidates is linear in the counts of images by rank, and
  the mean estimate of a task is linear in the recalls of its concepts and their hypernyms. So a first pass is a gather
  of rows and a product with a matrix; only the best 100 labels are then read whole, to compute what is shown.
- Per label key (graph and probe images), one matrix of V concepts by M models, concept by concept, so that a task of
  100 classes reads some hundred rows of M entries. Four bytes per entry are enough: expected recall is smooth in log n,
  so six principal components of the shares of images in the 14 ranks determine it for all n; quantized to 8, 6, 6, 5, 4
  and 3 bits, they reproduce it within .02 for 99 % of concepts. With 100,000 models a row takes 400 kB, a task some
  50 MB, and the whole matrix 3.6 GB.
- Beside it a table of what is filtered on (identity, cost, license, publisher, mean recall): the columns of
  ``summary.csv``, as Parquet, so that limits are applied before a row is read.
- Both are files of the collection's owner, built by a job from the labels, never by those who publish labels: a push
  stays one small commit, and whoever does not trust the owner builds the same files from the same labels. What is shown
  always comes from whole labels, and a label that disagrees with the matrix is left out.
- Matrices are written in shards of 4,000 models, which are immutable: a new label goes into a small shard, which a
  later job merges. Readers fetch rows of the shards by ranges of bytes (HTTP ``Range``; the Hub's storage answers them
  from its chunks), or download them once.

With fewer than some thousand labels all of that is slower than reading the folder; it was built once, measured (three
requests and 40 MB for 1,000 labels instead of 1,000 requests), and taken out again.
"""
