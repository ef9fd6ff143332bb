"""Codecs of the harness and their protocol."""
