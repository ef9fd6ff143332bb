"""`python -m sdcodec_cli` is the `sdcodec` command."""

from sdcodec_cli.main import main

main()
