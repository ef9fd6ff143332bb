"""The `sdcodec` command: parses, calls the library, prints."""
