"""The commands: words of a command line in, calls of the library and messages out.

`cxrbatch.cli` names the commands by strings and imports a module only when its command is called; a
command imports torch and the rest of the library inside its function, so `--help` of any command
stays quick.

- `score`: an archive into a table, and `cxrbatch merge`: the tables of parts into one
- `scoring_call`: the options of a scoring run, and the run, which score and evaluate share
- `evaluate`: an archive with labels into a table and figures, which a checkpoint's card may record
- `inspect`: one file, its display image and its scores; `cxrbatch outcomes`: the outcome codes
- `models`: the card of a checkpoint, and weights imported from PyTorch
- `bench`: the limit of a machine and the share of it that a run reaches, and `cxrbatch sample`: the
  example archive, which bench scores unless it is given another
- `progress`: the progress bar and the JSON log of a command
"""
