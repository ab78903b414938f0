"""The page: the only room that imports gradio."""

from .environment import set_up_environment

set_up_environment()  # before gradio is imported
