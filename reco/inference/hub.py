"""To and from the Hugging Face Hub; needs the extra ``hub``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reco.inference.predictor import Predictor, load
from reco.inference.pretrained import FILES, Pretrained
from reco.optional_packages import import_extra


def from_pretrained(name: str | Path, *, revision: str | None = None, **options: Any) -> Predictor:
    """A network from a folder, which needs no network, or from a repository of the Hub.

    Args:
        name: a folder that ``reco export --format hub`` wrote, or ``owner/name`` of a repository.
        revision: branch, tag or commit of the repository.
        **options: those of :func:`reco.load` other than ``network``.

    Raises:
        CheckpointError: files that are missing or do not fit each other.
        ImportError: the extra ``hub`` is missing.
    """
    if Path(name).is_dir():
        return load(name, **options)
    hub = import_extra("huggingface_hub", "the Hugging Face Hub")
    folder = hub.snapshot_download(str(name), revision=revision, allow_patterns=list(FILES))
    return load(folder, **options)


def push_to_hub(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Upload a folder that ``reco export --format hub`` wrote; the folder is read first.

    Args:
        folder: what to upload.
        repository: ``owner/name``; made where it is not there.
        private: who may see a repository that is made.

    Returns:
        The address of the upload.

    Raises:
        CheckpointError: another folder.
        ImportError: the extra ``hub`` is missing.
    """
    Pretrained.read(Path(folder))
    api = import_extra("huggingface_hub", "the Hugging Face Hub").HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    uploaded = api.upload_folder(
        repo_id=repository, folder_path=str(folder), allow_patterns=list(FILES)
    )
    return str(uploaded.commit_url)
