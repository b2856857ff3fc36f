"""Raw web data to clean documents to packed token rows, on Ray Data."""
