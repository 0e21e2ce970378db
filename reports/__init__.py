"""Pages that can be filed and shared: the report of a results table, the comparison of two.

A results table and labels flow in; one HTML page without scripts, and JSON, flow out.

    command    the commands `report` and `compare`
    report     `write_report`: everything that a report says
    model_checks  what the model was checked for, from its card
    comparison `write_comparison`: everything that a comparison says
    matching   copies within a table, and the images that two tables share
    choosing   which images to show
    gallery    these images, read from the archive in child processes
    charts     curves and histograms as SVG
    page       templates, every foreign text made visible, and files written whole
"""
