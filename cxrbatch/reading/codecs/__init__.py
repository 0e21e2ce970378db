"""Compressed pixels: what a stream says of itself, and the decoder for each of them."""
