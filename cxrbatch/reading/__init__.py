"""Turns files into display images: a path goes in, and Readings come out; no file raises.

`radiograph.read_radiographs` is the way in. It knows nothing of models.

- `radiograph`: reads a file, a member of an archive, or bytes; the public functions.
- `readings`: the values that go in and out: options, limits, header facts, Readings.
- `outcomes`: the closed set of outcome codes and flags.
- `sniffing`: tells formats apart by their first bytes.
- `dicom/`: reads DICOM files, from header to grey levels.
- `codecs/`: decodes compressed frames, PNG and JPEG files.
- `containers/`: lists and opens the members of zips, tars and compressed files.
- `display`: turns stored values into grey levels by the standard's rules; the display image.
- `colour`: turns colour images into grey ones.
- `polarity`: measures whether the pixels look like a negative.
"""
