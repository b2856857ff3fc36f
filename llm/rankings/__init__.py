"""People's rankings as data: who agrees and who does not, other tools' exports, the gate of a new model.

The commands import it; it imports `examples`, `grounding` and `inference`.
Add a format of another tool in `imports.py`.
"""
