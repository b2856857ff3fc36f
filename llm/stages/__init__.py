"""The stages that train or evaluate a model, with their settings: pretrain, sft, dpo, reward, rl, evaluate.

`planning` and the front door import it.
Add a stage as a file with a `Stage` subclass, and list it in `headwater/pipeline.py`.
"""
