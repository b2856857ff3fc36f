"""The stages that train a model, with their settings: pretrain, sft, dpo, reward, rl; bases, replays, traces.

What they read is in `data/`, the stages that only measure in `evaluations/`. `planning` and the front door
import it.
Add a stage as a file with a `Stage` subclass, and list it in `headwater/pipeline.py`.
"""
