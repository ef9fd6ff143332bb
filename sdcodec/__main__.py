"""`python -m sdcodec`: the command line."""

from sdcodec_cli.main import main

main()
