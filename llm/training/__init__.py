"""The training loop on Ray Train and DeepSpeed ZeRO: settings, engine, objectives, records.

`rl`, `stages` and `planning` may import it.
Add a loss in `losses/objectives.py`, a learning-rate schedule in `schedule.py`, a setting in `config.py`.
"""
