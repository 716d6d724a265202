"""The report of a study: one page that needs nothing else, and its figures as files.

`contents` reads, `figures` draws, `page` writes HTML; each knows nothing of the one after it.
"""
