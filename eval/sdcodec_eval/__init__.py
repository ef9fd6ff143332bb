"""The evaluation harness: codecs at equal bytes, metrics, tables and pictures."""
