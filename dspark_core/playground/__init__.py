"""The page: the only room that imports gradio."""

from .environment import prepare

prepare()  # before gradio is imported
