"""Files to display images: every file gives Readings, and no file raises.

`radiograph.read_radiographs` is the way in. Below it, `sniffing` tells formats apart by their
bytes, `dicom` and `raster` read the formats, `decoding` undoes compression with one named decoder
per transfer syntax, and `display` turns stored values into grey levels by the standard's rules.
`containers` lists and opens the members of zips, tars and compressed files.
Nothing here knows of models.
"""
