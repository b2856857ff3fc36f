"""Finding documents that are there already: exact copies, and near copies by MinHash."""
