"""Compressed images: what a stream claims about itself, and the decoder for each kind of stream.

Bytes of a PNG, a JPEG or a compressed DICOM frame go in; samples or display images come out. All
claims are checked before a decoder sees the bytes, and the decoder's result after.

- `codestreams`: sizes, markers and scans of JPEG, JPEG-LS and JPEG 2000
- `decoders`: compressed DICOM frames to samples, by one named decoder per transfer syntax
- `jpeg_completeness`: whether the data of a JPEG lasted to the end of its image
- `png`: the chunks of a PNG
- `raster`: a PNG or JPEG file to a display image
- `significant_bits`: the range of PNG samples that is shown
"""
