"""The web app: browse results tables, look at their images, score one upload.

Everything is denied that `access` does not admit; a client names tables, reports and images by
opaque ids and numbers alone.
"""
