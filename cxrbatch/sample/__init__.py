"""The sample archive: drawn chest radiographs and other files to try the program on.

A directory goes in; it comes out filled with DICOM, PNG and JPEG files and a labels.csv. Phantoms
are drawn from fixed seeds: with the same libraries every run writes the same bytes.

- `projection`: adds up the lengths of X-rays in drawn solids
- `anatomy`: the organs and bones of a drawn person
- `phantom`: whole radiographs, with the findings of each class
- `dicom_writer`: drawings as DICOM files
- `other_files`: broken files and files that are no radiographs
- `archive_writer`: which files there are; writes them
"""
