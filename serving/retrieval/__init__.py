"""Finding the passages that an answer may draw on: split, embed, index, search."""
