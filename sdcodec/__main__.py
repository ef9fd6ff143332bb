"""`python -m sdcodec`: the command line."""

from sdcodec_cli.__main__ import run

if __name__ == "__main__":
    run()
