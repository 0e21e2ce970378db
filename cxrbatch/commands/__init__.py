"""The commands: words of a command line in, calls of the library and messages out.

Each module has a Click command of the name `command`. `cxrbatch.cli` names the modules by strings
and imports one only when its command is called; a command imports torch and the rest of the library
inside its function, so `--help` of any command stays quick.

- `score`, `merge`: an archive into a table, and the tables of parts into one
- `inspect`: one file, its display image and its scores
- `models`: the card of a checkpoint, and weights imported from PyTorch
- `bench`: the limit of a machine, and the share of it that a run reaches
- `outcomes`: the list of outcome codes
- `sample`: the example archive
- `progress`: the progress bar and the JSON log of a command
"""
