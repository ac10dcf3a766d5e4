"""Measurements: each module runs as `python -m bench.NAME` and writes NAME.json and NAME.md beside itself."""
