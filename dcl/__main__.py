"""`python -m dcl COMMAND`: the command line of `dcl.cli`."""

import sys

from dcl.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]

if __name__ == "__main__":
    sys.exit(main())
