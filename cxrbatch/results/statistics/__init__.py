"""Statistics of scores against the truth: pure functions of arrays, without files and tables.

True class indices, probabilities and patient numbers flow in; figures with 95 % intervals flow out.

    intervals        plain metrics, Wilson's interval, and the bootstrap over patients
    curves           ROC and precision-recall curves, operating points, areas with DeLong's variance
    decisions        shares of images as figures; rates of the most probable class
    reliability      calibration: confidence against accuracy
    ranked           figures of one score against one question, areas among them
    predicted        shares of the predicted classes by true class
    calculation      all figures of n images; the comparison of two models
"""
