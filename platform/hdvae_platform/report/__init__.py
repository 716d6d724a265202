"""The report of a study: one HTML page that needs no other file, and its figures as files.

`reading` reads the `contents` from MLflow, the study database and the storage. `figures` draws, `tables` and `page`
make the HTML, and `writing` writes everything.
"""
