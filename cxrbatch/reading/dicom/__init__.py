"""Reads DICOM files: a stream goes in, and one Reading for each frame comes out.

- `reader`: the way in; from header to grey levels, frame by frame.
- `header`: finds the data set and collects the elements that are asked for.
- `element_reader`: walks over the elements of a file, however they are encoded.
- `values`: reads the values of elements as plain types.
- `description`: header facts and flags, exclusions, size and layout of frames.
- `vocabulary`: words and codes for modalities, body parts and views.
- `pixel_data`: uncompressed and compressed frames, one at a time.
- `transforms`: the display transforms, LUTs and palettes that a header asks for.
"""
