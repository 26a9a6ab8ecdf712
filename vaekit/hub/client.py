"""The package huggingface_hub: where it is needed, and what its errors say, each in words of its own."""

from __future__ import annotations

from typing import Any

from vaekit.files import printable

_LOGIN = "`hf auth login`, the variable HF_TOKEN, or token="


def package(purpose: str) -> Any:
    """huggingface_hub.

    Raises:
        ImportError: it is not installed; the message has the purpose and the command that installs it.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(f'{purpose} needs the package huggingface_hub: pip install "vaekit[hub]"', name=error.name) from error
    return huggingface_hub


def agent() -> dict[str, str]:
    """What the hub is told of who asks."""
    from vaekit import __version__

    return {"library_name": "vaekit", "library_version": __version__}


def api(token: str | bool | None) -> Any:
    """The hub's interface, for whoever has the token; None for the one that `hf auth login` has left."""
    return package("the hub").HfApi(token=token, **agent())


def is_missing_file(error: Exception) -> bool:
    """Whether the hub said that there is the repository, and no such file in it."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    return isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)


def explained(error: Exception, repository: str, revision: str | None, what: str) -> Exception:
    """What to raise in place of an error of huggingface_hub or its client: `what` has failed, why, and what to do.

    Returns:
        FileNotFoundError for a missing repository or revision, PermissionError, ConnectionError, or ValueError for what the hub
        or its package does not accept.
    """
    from huggingface_hub import constants, errors

    reason = f"({type(error).__name__}: {printable(error, 300)})"
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if constants.HF_HUB_OFFLINE or isinstance(cause, errors.OfflineModeIsEnabled):
        return ConnectionError(
            f"{what}: HF_HUB_OFFLINE is set, and the cache in {constants.HF_HUB_CACHE} does not have it; unset it for "
            "once, or give a folder that holds the model"
        )
    if isinstance(cause, errors.GatedRepoError):
        return PermissionError(
            f"{what}: {repository} is gated. Accept its terms on the hub, then say who you are by {_LOGIN} {reason}"
        )
    if isinstance(cause, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f"{what}: the hub has no repository {repository}, or it is private and the token does not open it; see that the "
            f"name is right, or say who you are by {_LOGIN} {reason}"
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{what}: {repository} has no branch, tag or commit {revision!r} {reason}")
    if isinstance(cause, errors.LocalTokenNotFoundError):
        return PermissionError(f"{what}: nothing says who you are; give {_LOGIN} {reason}")
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status == 401:
        return PermissionError(f"{what}: the hub does not know the token, or got none (401); give {_LOGIN} {reason}")
    if status == 403:
        return PermissionError(
            f"{what}: the token does not allow it (403); one with the right to do this to {repository} is needed, by {_LOGIN} "
            f"{reason}"
        )
    if status is not None and status >= 500:
        return ConnectionError(f"{what}: the hub fails ({status}); try again later {reason}")
    if isinstance(error, (errors.HFValidationError, ValueError)) or (status is not None and status >= 400):
        return ValueError(f"{what}: {printable(error, 500)}")
    if isinstance(error, OSError) and error.errno is not None and status is None:  # of the disk
        return error
    deeper = "" if cause is None or cause is error else f" by {type(cause).__name__}: {printable(cause, 200)}"
    return ConnectionError(
        f"{what}: {constants.ENDPOINT} cannot be reached, and the cache does not have it; see that there is a network "
        f"{reason}{deeper}"
    )
