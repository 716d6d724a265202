"""The figures of a report: each module draws one, or says why it does not apply."""
