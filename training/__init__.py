"""Training: labelled radiographs to a checkpoint with an honest card."""
