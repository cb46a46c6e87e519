"""Small JSON files beside a model or on the Hugging Face hub: calibrations and recipes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def find(file: str, folder_or_repository: str | os.PathLike[str], **hub_arguments: Any) -> Path:
    """The file in a folder that exists, else the one of a repository. Raises ValueError where it cannot be had."""
    if Path(folder_or_repository).is_dir():
        return Path(folder_or_repository) / file
    from huggingface_hub import hf_hub_download

    repository = os.fspath(folder_or_repository)
    try:
        return Path(hf_hub_download(repository, file, **hub_arguments))
    except (OSError, ValueError) as error:  # what the hub raises derives from these
        first = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{repository!r} is no folder, and no {file} could be had from a repository of that name: {first}."
        ) from None


def push(
    text: str,
    file: str,
    repository: str,
    message: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    **hub_arguments: Any,
) -> str:
    """Uploads the text as `file`, making the repository where there is none; returns the address of the commit."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repository, private=private, exist_ok=True)
    arguments = {"commit_message": message} | hub_arguments
    return str(api.upload_file(path_or_fileobj=text.encode(), path_in_repo=file, repo_id=repository, **arguments))
