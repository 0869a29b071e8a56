"""Errors of object stores and web servers: what they come from, and whether a call that is repeated may succeed.

The classes are of packages that may not be installed, so they are known by name.
"""

PASSING = {"HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError", "IncompleteReadError"}
PASSING_STATUS = (408, 429)
ABSENT = (404, 410)
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


def underlying(error: Exception) -> Exception:
    """Return what an error comes from where it says that a file is absent and the server did not: fsspec says so of
    everything that goes wrong when it asks a web server about a file.
    """
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        status = status_of(cause)
        if _breaks_off(cause) or (status is not None and status not in ABSENT):
            return cause
    return error


def _breaks_off(error: Exception) -> bool:
    return bool(PASSING & {kind.__name__ for kind in type(error).__mro__})


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error speaks of, whichever package raised it."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else None
        for name in ("status", "code"):
            if isinstance(status := getattr(each, name, None), int):
                return status
    return None


def passes(error: Exception) -> bool:
    """Return whether the call that raised an error may succeed when it is repeated."""
    if isinstance(error, LASTING):
        return False
    if _breaks_off(error):
        return True
    if status := status_of(error):
        return status >= 500 or status in PASSING_STATUS
    return isinstance(error, OSError)
