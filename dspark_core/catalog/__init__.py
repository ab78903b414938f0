"""What finds, downloads, checks and measures models; no MLX and no gradio, so any thread may use it.

A model is named by a path or a hub name (`names.parse`). Its `Facts` (config and tensor headers, no weights) come
from a directory (`facts.read`) or, before anything is downloaded, from the hub (`Hub.facts`). On facts stand
`facts.sort_of` (target, drafter or neither, and why), `pair.check` and `pair.base_warning` (does this drafter fit
this target?) and `memory.estimate` (does it fit this machine?). `local.find` lists what is on this machine;
`Hub.plan` says what a download would bring, `Hub.start` runs it, `Hub.whole` gives a directory only once every file
in it has been checked. Everything that goes wrong is a ModelError (HubError for the network): one sentence.
"""
