"""From a display image to scores and heat maps.

Readings, paths or arrays go in at `predictor.Predictor`; scores, heat maps and flags come out.

- predictor: the one way to scores: `load_model`, `Predictor` for one image, a batch or a run
- prediction: what the Predictor returns for one radiograph
- preprocessing: the recipe: a display image to the network's uint8 input
- overlays: heat maps and radiographs as pictures
- checkpoint, card, features: a checkpoint file, its card, and the statistics of its features
- weight_files: writing checkpoints, and importing state dicts of PyTorch
- network: the architecture, torchvision's ResNet with a single-channel stem, for training
- fused, openvino: the same network in its forms for inference
- soundness: checks of weights and of a network's first scores
- inference: device, precision, threads and transfers

preprocessing, overlays, prediction, card and features import no torch.
"""
