"""What finds, downloads, checks and measures models; no MLX and no gradio, so any thread may use it.

A model is named by a path or a hub name (`names.parse`). Its `Facts` (config and tensor headers, no weights) come
from a directory (`Facts.read`) or, before anything is downloaded, from the hub (`Hub.facts`). On facts stand
`facts.sort_of` (target, drafter or neither, and why), `facts.check_pair` (does this drafter fit this target?),
`facts.base_warning` (is it the right one?) and `memory.estimate` (does it fit this machine?). `local.find` lists what
is on this machine; `Hub.plan` says what a download would bring, `Downloads.start` runs it and repairs what is here,
`Hub.local` gives a directory only once every file is in it, and `checksums.verify` checks them before their first use.
Every request is a `Transfer`, which can be left at any moment. Everything that goes wrong is a ModelError (HubError for
the network): one sentence.
"""
