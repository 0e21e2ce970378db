"""From a display image to scores and heat maps.

Readings, paths or arrays go in at `predictor.Predictor`; scores, heat maps and flags come out.

- predictor: the one way to scores: `load_model`, `Predictor` for one image, a batch or a run
- prediction: what the Predictor returns for one radiograph, and heat maps as pictures
- preprocessing: the recipe: a display image to the network's uint8 input
- checkpoint, card: a checkpoint file, and its card
- input_gate: whether an image is like those of training, by its features
- recording: figures of images from elsewhere in a checkpoint's card, and its hash without them
- summary: the card as lines for a terminal
- network: the architecture, torchvision's ResNet with a single-channel stem, for training, and its
  weights in files: writing checkpoints, importing state dicts of PyTorch
- fused, openvino: the same network in its forms for inference
- soundness: checks of weights and of a network's first scores
- inference: device, precision, threads and transfers
- batch_scores: the scores of a batch as arrays

preprocessing, prediction, card, recording and summary import no torch.
"""
