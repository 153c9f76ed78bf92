"""`python -m labeler.cli` is the command `difflens`."""

from labeler.cli.main import main

main()
