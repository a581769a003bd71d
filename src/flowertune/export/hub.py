"""Push an exported folder to the Hugging Face Hub, or to HF_ENDPOINT."""

import shlex
from pathlib import Path

from flowertune.errors import ExportError, UsageError, one_line
from flowertune.models.pretrained import quiet


def check(repo: str) -> None:
    """Check before exporting that the repository id is valid and a token is present.

    Raises UsageError where it is no name of a repository, or nobody is logged in.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"--push-to-hub {repo}: {one_line(error)}") from error
    if get_token() is None:
        raise UsageError(
            f"--push-to-hub {repo}: needs you logged in: hf auth login, or HF_TOKEN=<your token>"
        )


def push(folder: Path, repo: str) -> str:
    """Upload the folder to the repository, created as private if new, and return its URL.

    Raises ExportError where that could not be done; the folder stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    try:
        disable_progress_bars()
        with quiet():
            api = HfApi()
            repo_url = api.create_repo(repo, private=True, exist_ok=True)
            api.upload_folder(
                folder_path=folder, repo_id=repo_url.repo_id, commit_message="Export of flowertune"
            )
        return str(repo_url)
    # whatever its HTTP library raises, which has changed with its versions
    except Exception as error:
        # private, should the repository still be new
        command = f"hf upload {repo} {shlex.quote(str(folder))} --private"
        raise ExportError(
            f"could not push to {repo}: {one_line(error)}; the export is whole, and this sends it:"
            f" {command}"
        ) from error
