"""Offline answers to any number of prompts, in the format of OpenAI's batch files."""
