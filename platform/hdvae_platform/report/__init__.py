"""The report of a study: one page that needs nothing else, and its figures as files.

`contents` reads, `settings` says what was run, `figures` draws, `page` makes the HTML, `writing` writes all of it; each
knows nothing of those after it.
"""
