"""Training: labelled radiographs in, a checkpoint with an honest card out.

Labels and files come in (`labelled_files`), each file is decoded once to a network input (`cache`,
`store`), pictures of one exposure are found (`duplicates`), and the files are divided into train,
val and test (`split`, `split_report`). A network learns from train, and val chooses the
best epoch (`dataset`, `sampling`, `augment`, `trainer`, `optimisation`, `loop`, `distributed`,
`initial`, `states`). It is calibrated on val and evaluated on test (`fitting`, `model_evaluation`,
`controls`, `twins`), and an input gate is fitted to its features (`gate`,
`foreign`). Out go the checkpoint, the split, curves and a results table (`outputs`,
`labelled_tables`). A cross-validation does this for each fold of the files (`folds`,
`fold_split`), and then ranks the labels (`doubts`).

    train          the public function `train`
    command        the command `cxrbatch train`, which calls it
    config         options read from a TOML file, and those of a run written to one
    pipeline       the steps of a training in their order, and the files beside the checkpoint
    folds          cross-validation: a training for each fold, figures over all images
    run_files      paths of the files that a training writes, and what may be replaced
    run_listener   shows and logs the progress of a training, and tells its caller
    console        messages, progress bars and figures at the terminal
    labelled_images  collects labels and decodes their images; refuses what does not match
    labelled_files labels of all sources, each joined with its files
    file_index     finds the files that labels name: by path, name or header, also in zips and tars
    mismatches     what does not fit, images without a label, the order of the classes
    cache          decodes every labelled file in worker processes, unless the store has its bytes
    store          the cache file of decoded inputs
    duplicates     pairs of files that show one exposure
    split          groups files of one patient or picture, divides groups 8 : 1 : 1, or checks a
                   split that came with the labels
    fold_split     divides groups into folds, and the rest of each fold into train and val
    split_report   leaks and counts of a split, and warnings
    dataset        map-style datasets over the inputs, and the DataLoader of training
    sampling       which images an epoch draws, and weights of the classes
    augment        torchvision transforms, and mixup
    trainer        options, and the step: loss, backward, update
    optimisation   optimiser, schedule, averaged weights, a trunk that is held
    loop           epochs, validation, early stopping, resuming
    distributed    several processes under `torchrun`
    initial        weights to start from, and teachers
    states         files from which a stopped training resumes
    fitting        one network: fit, calibrate, evaluate; the figures of its card
    model_evaluation  scores of a network, and their calibration
    controls       the network on images where it should know less
    metrics_log    the file that grows by a line of metrics with each epoch
    twins          pairs of files of one film, to which the network should say the same
    gate           the input gate: what features are like for films and for foreign images
    foreign        images that are no frontal films: of a folder, made of films, or drawn
    outputs        sheets of pictures, such as augmented ones, and curves
    labelled_tables  the results table of labelled files, scored by one checkpoint or several
    doubts         labels that are likely wrong, by confident learning
"""
