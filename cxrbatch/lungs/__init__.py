"""From a display image to a mask of the lungs, with doubts about the mask.

- finder: `find_lungs` and `LungFinder`: the mask of a radiograph, or of inputs of a network
- shape: measures of a mask, and which of them are unusual
- unet: the U-Net, and its weights in a file: reading, checks, writing
- lung_card: the card of that file: input, limits of the measures, data, cautions

shape and lung_card import no torch.
"""
