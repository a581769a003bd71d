"""Upload an exported folder to the Hugging Face Hub, or to HF_ENDPOINT."""

import shlex
from pathlib import Path

from flowertune.errors import ExportError, UsageError, one_line
from flowertune.models.pretrained import quiet


def check(repo: str) -> None:
    """Raise UsageError if the repository id is invalid or there is no token."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"--push-to-hub {repo}: {one_line(error)}") from error
    if get_token() is None:
        raise UsageError(
            f"--push-to-hub {repo}: not logged in; run hf auth login, or set HF_TOKEN=<your token>"
        )


def push(folder: Path, repo: str) -> str:
    """Upload the folder to the repository (private if new) and return its URL.

    Raises ExportError if that fails, and keeps the folder.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    try:
        disable_progress_bars()
        with quiet():
            api = HfApi()
            repo_url = api.create_repo(repo, private=True, exist_ok=True)
            api.upload_folder(
                folder_path=folder, repo_id=repo_url.repo_id, commit_message="flowertune export"
            )
        return str(repo_url)
    # its HTTP library, and so its exceptions, changed between versions
    except Exception as error:
        # --private: the repository may not exist yet
        command = f"hf upload {repo} {shlex.quote(str(folder))} --private"
        raise ExportError(
            f"could not push to {repo}: {one_line(error)}; the export is complete; upload it with:"
            f" {command}"
        ) from error
