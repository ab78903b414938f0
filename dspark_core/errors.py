"""The errors that a visitor reads. Each message is one sentence that says what is wrong, where, and what to do.

    Refused              something cannot be done
      ModelError         a model that cannot be used here
        HubError         a hub that cannot be reached, or a download that cannot go on
      PresetError        a preset file that cannot be used
      LaneError          a lane that does not exist                                        (also a ValueError)
      DecodeError        a request that cannot be decoded, or a model whose logits fail    (also a ValueError)
        ContextError     a prompt that the model's context does not hold                   (also a ValueError)
        RankLost         a machine of a group that is gone, with its part of the target    (also a ValueError)
      ApiError           a request to the endpoint that is not answered
      TraceError         a document that is no race this version can read                  (also a ValueError)
    Cancelled            the visitor's wish: no fault, and nothing to read

The three that are ValueErrors refuse what somebody asked for or handed over, and whoever took it may catch it as one.
dspark_core.training has its TrainingError to itself: it imports nothing of the rest.
"""

import re


class Refused(Exception):
    """Something cannot be done; the message is one sentence for whoever asked for it."""


class ModelError(Refused):
    """A model that cannot be used here; the message names file and expectation."""


class HubError(ModelError):
    """A hub that cannot be reached, or a download that cannot go on."""


class PresetError(Refused):
    """A preset file that cannot be used; the message names file and field."""


class LaneError(Refused, ValueError):
    """A lane that does not exist."""


class DecodeError(Refused, ValueError):
    """A request that cannot be decoded, or a model that gave logits which are not finite."""


class ContextError(DecodeError):
    """A prompt that the model's context does not hold."""


class RankLost(DecodeError, ModelError):
    """A machine of a group that does not answer any more, and the target of which it had a part."""


class ApiError(Refused):
    """A request to the endpoint that is not answered: with an HTTP status, the field that is to blame, and a code."""

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


class TraceError(Refused, ValueError):
    """A document that is no race this version can read."""


class Cancelled(Exception):
    """What was running was cancelled."""


def reason(error: BaseException) -> str:
    """The type and message of an error that nobody expected, in one line of bounded length."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:300]}" if message else type(error).__name__


def in_one_line(error: BaseException, limit: int = 200) -> str:
    """What an error of a library says, to stand in brackets in a sentence: one line, no path of a program, no full stop
    at its end. An OSError's is the system's own word."""
    text = getattr(error, "strerror", None) or str(error)
    if "set_int_max_str_digits" in text:  # Python's advice to programmers
        return "a number of too many digits"
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    words = re.sub(r"<class .(?:\w+\.)*(\w+).>", r"\1", words)
    words = re.sub(r"\b(?:\w+\.)*\w*(?:Error|Exception)\b:? ?", "", re.sub(r"\S+\.(py|rs)\b\S*", "", words))
    return (words if len(words) <= limit else words[:limit] + "…").rstrip(". ") or "without a word"
