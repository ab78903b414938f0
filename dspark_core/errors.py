"""The one error that loading a model raises."""


class ModelError(Exception):
    """A model that cannot be used here; the message is one sentence naming file and expectation."""
