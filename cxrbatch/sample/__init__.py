"""An example archive for trying the program and for its tests, drawn and packed by the project."""
