"""One module per command, each with a Click command of the name `command`.

`cxrbatch.cli` names them by strings and imports one only when it is called, and a command imports
torch and the rest of the library inside its function: `--help` of any command stays quick.
"""
