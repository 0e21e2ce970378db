"""From a display image to scores: the recipe, the network, its heat maps and its checkpoint."""
