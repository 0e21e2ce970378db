"""Pages that can be filed and shared: of a results table, of two, of the audit of a model.

A results table and labels flow in; one HTML page without scripts, and JSON, flow out.

    command    the commands `report` and `compare`
    report     `write_report`: everything that a report says
    model_checks  what the model was checked for, from its card
    comparison `write_comparison`: everything that a comparison says
    audit_command   the command `audit`
    audit_page `write_audit`: the page of a shortcut audit, and the call from Python
    audit_progress  the bars of the command `audit`
    matching   copies within a table, and the images that two tables share
    choosing   which images to show
    gallery    these images, read from the archive in child processes
    charts     curves and histograms as SVG
    page       templates, every foreign text made visible, and files written whole
"""
