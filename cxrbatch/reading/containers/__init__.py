"""Files within files: zip, tar, compressed tar, and a file that is compressed alone."""
