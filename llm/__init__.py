"""Models: architecture, training on Ray Train and DeepSpeed, alignment, inference, evaluation, planning.

`serving` and the front door may import it; it imports `data_pipeline` and `cluster`.
A loss goes to `training/losses/objectives.py`, a reward to `rl/rewards/`, a stage to `stages/`.
"""
