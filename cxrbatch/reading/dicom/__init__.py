"""DICOM files to Readings: header, kind of object, pixel data, display transforms."""
