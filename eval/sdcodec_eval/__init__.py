"""Evaluation harness: codecs at equal bytes, metrics, tables and a report."""
