"""The shortcut audit of a checkpoint: does it see disease, or something that goes with it?

In: a checkpoint, an archive or a results table, labels. Out: an `Audit` with figures of the films
under each treatment, of models that see no pixel, and a verdict by stated rules.

    audit             `Audit`: all figures and the verdict
    audit_run         the run, from labelled films to an `Audit`
    audit_plan        what is asked for, and the plan on disk by which a run goes on
    audit_table       the table of an audit, a row for each film under each treatment
    labelled_scoring  the labelled files of an archive, scored into a results table
    films             films read from their archive once more, with what their files are like
    passes            the masks of the lungs, and a pass of the network per treatment
    treated           the films of an audit, masked, treated and scored
    treatments        what is taken away from films, or left alone of them
    parts             parts of an unfinished audit on disk
    areas             areas under ROC curves and accuracies with intervals
    baselines         what header and file alone tell of the true class
    attributes        source, view, sex, age, device, format: told by the scores, telling the truth
    heat              the share of heat maps outside the lungs
    bundled_lungs     what finds the lungs for an audit
    verdict           the rules by which shortcuts are named, and one paragraph of words
"""
