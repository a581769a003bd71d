"""List the files of folders without what operating systems, shares and flowertune put there."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from flowertune.data.cache_dir import LOCK, META

# Windows thumbnails, settings and system folders; macOS metadata in zip files and on shares;
# indexes, snapshots and recycle bins of NAS; what fsck and chkdsk recover. Listed in full, as
# "#earth" may be a class.
SYSTEM_NAMES = re.compile(
    r"\..*|thumbs\.db|ehthumbs\w*\.db|desktop\.ini|picasa\.ini|icon\r|recycle[rd]|msocache"
    r"|\$(recycle\.bin|extend|winreagent|sysreset|getcurrent|windows\.~\w+)|config\.msi"
    r"|system volume information|__macosx|network trash folder|temporary items"
    r"|[@#](eadir|recycle|recently-snapshot|snapshot|sharesnap|tmp|__thumb)|~snapshot"
    r"|lost\+found|lost\.dir|found\.\d{3}",
    re.IGNORECASE,
)
# Files that lie beside images: videos and edits of phones, notes, tables, annotations, archives.
OTHER_FILES = re.compile(
    r"\.(mov|mp4|m4v|avi|3gp|aae|xmp|thm|txt|md|rst|html?|pdf|docx?|csv|tsv|xlsx?|json|jsonl|xml"
    r"|ya?ml|toml|ini|log|db|py|ipynb|npy|npz|mat|pkl|pt|pth|zip|tar|gz|tgz|7z|rar|sha\d+|md5|lock)",
    re.IGNORECASE,
)
IMAGE_FILES = re.compile(
    r"\.(jpe?g|png|webp|gif|bmp|tiff?|p[gpn]m|jp2|avif|hei[cf])", re.IGNORECASE
)


def is_system_file(name: str) -> bool:
    """Whether an entry of a folder is hidden or created by the operating system."""
    return SYSTEM_NAMES.fullmatch(name) is not None


def may_be_image(path: str | Path) -> bool:
    """Whether the ending of a file's name is not that of another kind of file."""
    return OTHER_FILES.fullmatch(Path(path).suffix) is None


def is_image_name(name: str) -> bool:
    """Whether a file is called an image; images of other names are found by content."""
    return IMAGE_FILES.fullmatch(Path(name).suffix) is not None


def other_files_note(endings: Mapping[str, int]) -> str:
    """Say how many files of each ending were left out."""
    counts = ", ".join(f"{ending} {n:,}" for ending, n in sorted(endings.items()))
    return f"left out files that are not images: {counts}"


def is_own_folder(folder: Path) -> bool:
    """Whether flowertune made the folder: a run, an entry in the cache, or no images but these."""
    if _is_run_or_entry(folder):
        return True
    try:
        names = os.listdir(folder)
    except OSError:  # reported by whoever lists it
        return False
    files = (name for name in names if may_be_image(name) and not is_system_file(name))
    if any((folder / name).is_file() for name in files):  # most class folders: no need to walk
        return False
    own: list[Path] = []
    paths = walk_files(folder, lambda folder, reason: None, own=own)
    return not any(map(may_be_image, paths)) and bool(own)


def _is_run_or_entry(folder: Path) -> bool:
    run = (folder / "status.json").is_file() and (folder / "config.yaml").is_file()
    return run or ((folder / META).is_file() and folder.with_suffix(LOCK).is_file())


def walk_files(
    folder: Path,
    on_error: Callable[[Path, str], None],
    never: Iterable[Path] = (),
    own: list[Path] | None = None,
) -> Iterator[Path]:
    """Yield every file below `folder` by name, a folder's own files before its subfolders'.

    Follows links, but enters no folder twice and none of `never`. Skips the operating system's
    files (`is_system_file`); whether a file is an image shows only when it is decoded. Skips runs
    and cache entries too, and appends them to `own`. Calls `on_error(folder, reason)` for a folder
    that cannot be listed.
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
        made = [name for name in folders if _is_run_or_entry(Path(parent, name))]
        folders[:] = (name for name in folders if name not in made)
        if own is not None:
            own.extend(Path(parent, name) for name in made)
        yield from (Path(parent, name) for name in _sort(names) if not is_system_file(name))


def _sort(names: Iterable[str]) -> list[str]:
    """Sort names, independently of their Unicode form: macOS and others store accents apart."""
    return sorted(names, key=lambda name: (unicodedata.normalize("NFC", name), name))
