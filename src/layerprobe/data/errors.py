"""Errors of data modules whose files cannot be used."""

from __future__ import annotations


class DataError(RuntimeError):
    """The data cannot be used as they are; the message ends with the next step."""


class DataNotFoundError(DataError):
    """Files are missing, or could not be downloaded."""


class CorruptDataError(DataError):
    """A file is there, but its content is not what its name promises."""
