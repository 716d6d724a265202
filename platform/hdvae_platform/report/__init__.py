"""The report of a study: one page that needs nothing else, and its figures as files.

`contents` reads, `settings` says what was run, `figures` draws, `page` writes HTML; each knows nothing of those
after it.
"""
