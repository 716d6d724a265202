"""Finding a study that a user names."""

from __future__ import annotations

from hdvae.errors import InputError, nearest
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records, StudyRecord, connect


def find_study(places: Places, name: str) -> StudyRecord:
    """The record of a study.

    Raises:
        InputError: the study database has no study of this name.
    """
    records = Records(connect(places.database))
    record = records.study(name)
    if record is None:
        names = [known.name for known in records.studies()]
        hint = nearest(name, names) or "; there are no studies yet"
        raise InputError(f"no study {name} in {places.home}{hint}")
    return record
