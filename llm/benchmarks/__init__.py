"""Public benchmarks of language models: their questions, the scores of answers, intervals, contamination.

`stages` imports it; the stage is `stages/evaluations/benchmarks.py`.
Add a benchmark as an entry of `TASKS` in `tasks.py`, with a function that turns a record into a question.
"""
