"""`python -m dspark_core.bench`: speed, exactness and reports without the page.

__main__.py        the arguments of every subcommand
plan.py            what to measure and in which order
run.py             one decode of one prompt by one lane: a row
speed.py           rows as they come
peers.py           engines outside this process, and this one's weights as files that they load
log.py             a report's measurements as JSON lines; one that was interrupted goes on from them
figures.py         rows in, figures out; pure arithmetic
report.py          the way from the plan through the log to the report
report_markdown.py the figures in words and tables
report_html.py     the figures as one HTML file
exactness.py       outputs against plain decoding's
"""
