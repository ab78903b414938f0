"""The target writes its own data; drafters are trained on it, evaluated, calibrated and exported.

The only room that imports torch. `python -m dspark_core.training --help` lists the commands.
"""


class TrainingError(Exception):
    """A run that cannot start or go on; the message is one sentence that says why."""
