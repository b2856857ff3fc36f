"""Commands that fetch, clean, check and explain documents."""
