"""The training loop on Ray Train and DeepSpeed ZeRO: settings, engine, export, and six rooms beside them.

`losses/`, `telemetry/` (records, goodput, traces), `state/` (checkpoints), `parallel/`, `health/` and
`undocumented/` (what we rely on in DeepSpeed). `rl`, `stages` and `planning` may import it.
Add a loss in `losses/objectives.py`, a learning-rate schedule in `schedule.py`, a setting in `config.py`.
"""
