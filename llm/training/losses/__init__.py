"""What a batch is trained on: objectives, losses of pairs of answers, answers that share a prompt.

The loop, `rl`, `rankings`, `stages` and `planning` import it; it imports `model` and `examples`.
Add an objective in `objectives.py`, a loss of pairs in `preference_losses.py`; RL's are in `rl/losses.py`.
"""
