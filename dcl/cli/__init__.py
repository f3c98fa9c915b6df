"""The command line: `dcl COMMAND` and `python -m dcl COMMAND`."""
