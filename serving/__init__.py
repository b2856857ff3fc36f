"""The endpoint: OpenAI-compatible chat with retrieval and citations, on Ray Serve."""
