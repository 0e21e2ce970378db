"""The web app: browse results tables, look at their images, score one upload.

A folder of results tables and reports goes in; pages and JSON come out. The guard of `security`
refuses each request without the token, but for static files. Clients name tables, reports and
images by opaque ids and numbers alone, never by a path. Images and uploads are read in child
processes.

    command       the command `cxrbatch serve`
    app           creates the Flask app; answers errors; JSON for programs (openapi.json)
    server        waitress with limited connections; ends in order
    connections   one connection and one request, with deadlines
    security      allowed hosts, token, cookie, origin, security headers
    library       the tables and reports below the served folder
    served_table  the rows of one open table, selected by DuckDB
    row_filter    which rows are selected: query parameters to SQL
    children      child processes, and the functions that they run
    runs          pages of all runs, one run, its rows and reports
    images        page of one image, with radiograph and heat maps
    export        selected rows as CSV or Parquet
    upload_frames  the frames of an upload as JSON values
    uploads       the form that scores one file, and its answer
"""
