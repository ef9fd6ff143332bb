"""Run the `sdcodec` command as `python -m sdcodec_cli`."""

from sdcodec_cli.main import main

main()
