"""How fast a machine could score an archive, and how fast it does: `cxrbatch bench`.

An archive and a checkpoint go in; a `measuring.Measurement` comes out.

- machine: the rates that nothing can exceed: bare decoding, forward pass, disk, copies to a GPU
- measuring: a sample of the archive, its limit on this machine, and a timed run of it
"""
