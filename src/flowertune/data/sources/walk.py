"""List the files of folders without what operating systems, shares and flowertune put there."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

# Windows thumbnails, settings and recycle bins; macOS metadata in zip files; indexes, snapshots and
# recycle bins of NAS; what fsck and chkdsk recover.
SYSTEM_NAMES = re.compile(
    r"\..*|thumbs\.db|ehthumbs\w*\.db|desktop\.ini|picasa\.ini|icon\r|\$recycle\.bin|recycle[rd]"
    r"|system volume information|msocache|__macosx|[@#](ea|recycle|recently|snapshot|tmp)\S*"
    r"|lost\+found|lost\.dir|found\.\d{3}",
    re.IGNORECASE,
)
# Files that lie beside images: videos and edits of phones, notes, tables, annotations, archives.
OTHER_FILES = re.compile(
    r"\.(mov|mp4|m4v|avi|3gp|aae|xmp|thm|txt|md|rst|html?|pdf|docx?|csv|tsv|xlsx?|json|jsonl|xml"
    r"|ya?ml|toml|ini|log|db|py|ipynb|npy|npz|mat|pkl|pt|pth|zip|tar|gz|tgz|7z|rar|sha\d+|md5)",
    re.IGNORECASE,
)
OWN_FILES = ("status.json", "meta.json")  # of a run directory, and of an entry in the cache


def is_system_file(name: str) -> bool:
    """Whether an entry of a folder is hidden or created by the operating system."""
    return SYSTEM_NAMES.fullmatch(name) is not None


def may_be_image(path: str | Path) -> bool:
    """Whether the ending of a file's name is not that of another kind of file."""
    return OTHER_FILES.fullmatch(Path(path).suffix) is None


def other_files_note(endings: Mapping[str, int]) -> str:
    """Say how many files of each ending were left out."""
    counts = ", ".join(f"{ending} {n:,}" for ending, n in sorted(endings.items()))
    return f"left out files that are not images: {counts}"


def is_own_folder(folder: Path) -> bool:
    """Whether flowertune made the folder: a run or cache entry, or a folder of them."""
    folders = [folder]
    for _ in range(3):  # runs/NAME, runs/reproduce/NAME and cache/KIND/KEY
        if any((each / name).is_file() for each in folders for name in OWN_FILES):
            return True
        with_subfolders = folders[:3]  # one is enough to tell
        folders = [Path(each) for parent in with_subfolders for each in _subfolders(parent)][:10]
    return False


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir()]
    except OSError:  # reported by whoever lists it
        return []


def walk_files(
    folder: Path, on_error: Callable[[Path, str], None], never: Iterable[Path] = ()
) -> Iterator[Path]:
    """Yield every file below `folder` by name, a folder's own files before its subfolders'.

    Follows links, but enters no folder twice and none of `never`. Skips the operating system's
    files (`is_system_file`); whether a file is an image shows only when it is decoded. Calls
    `on_error(folder, reason)` for a folder that cannot be listed.
    """

    def tell(error: OSError) -> None:
        on_error(Path(error.filename or folder), f"cannot be listed: {error.strerror or error}")

    seen = {(status.st_dev, status.st_ino) for status in map(os.stat, never)}
    for parent, folders, names in os.walk(folder, onerror=tell, followlinks=True):
        try:
            status = os.stat(parent)
        except OSError as error:
            tell(error)
            continue
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = (name for name in _sort(folders) if not is_system_file(name))
        yield from (Path(parent, name) for name in _sort(names) if not is_system_file(name))


def _sort(names: Iterable[str]) -> list[str]:
    """Sort names, independently of their Unicode form: macOS and others store accents apart."""
    return sorted(names, key=lambda name: (unicodedata.normalize("NFC", name), name))
