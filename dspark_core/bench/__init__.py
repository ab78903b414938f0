"""`python -m dspark_core.bench report`: lanes measured over sets of prompts, as JSON, Markdown and a page with charts.

plan.py      what to measure and in which order
log.py       the measurements as JSON lines; a report that was interrupted goes on from them
runs.py   one decode of one prompt by one lane: a row
peers.py     engines outside this process
figures.py   rows in, figures out; pure arithmetic
words.py     the figures as Markdown
report_html.py the figures as one HTML file
report.py    the arguments, and the way through all of these
"""
