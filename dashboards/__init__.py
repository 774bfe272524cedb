"""Grafana dashboards as code.

promql.py    the few shapes of query that the boards are made of
panels.py    small builders: a panel, a row, a board
overview.py  the overview board, its rows as data
pipeline.py  its last row
__main__.py  `python -m dashboards` writes json/, `--check` tells whether it is current

Metric names come from telemetry's tables; the tests hold every query to them.
"""
