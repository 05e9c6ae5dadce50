"""Reports: figures of a run, the page that compares runs, pictures of small networks, tables for the terminal.

Throughout, `results` are those of one run in the columns of `ProbeRecord`, `metrics` what was measured besides in those
of `MetricRecord`, and `path` the swept heads in those of `PathRecord`; `tidy_results` makes a `frame` of results.
Widths, heights and steps are in pixels.
"""
