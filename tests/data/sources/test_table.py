from pathlib import Path
from typing import Any

import pytest

from flowertune.data.dataset import ImageDataset
from flowertune.data.sources import folder, table
from flowertune.errors import UsageError

IMAGES = [f"img{number:02d}.jpg" for number in range(30)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of 30 empty files in images/; sources read no image."""
    (tmp_path / "images").mkdir()
    for name in IMAGES:
        (tmp_path / "images" / name).touch()
    return tmp_path


def write(path: Path, *rows: str, encoding: str = "utf-8") -> Path:
    path.write_text("\n".join(rows) + "\n", encoding=encoding)
    return path


def read(path: Path, root: Path | None = None, skip: bool = False, **columns: str) -> ImageDataset:
    return table.list_images(path, root=root, columns=table.Columns(**columns), skip=skip, seed=0)


def labels(images: ImageDataset) -> dict[str, str]:
    return {
        path.name: images.class_names[label]
        for split in images.splits.values()
        for path, label in zip(split.paths, split.labels, strict=True)
    }


def refused(*arguments: Any, **more: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read(*arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(form: str = "images/{name},{label}") -> list[str]:
    return [form.format(name=n, stem=n[:-4], label=["elm", "ash", "oak"][i % 3])
            for i, n in enumerate(IMAGES)]  # fmt: skip


WRITTEN = {
    "csv": ("labels.csv", ["file,label", *rows()], "utf-8"),
    "tsv": ("labels.tsv", ["File Name\tSpecies", *rows("images/{name}\t{label}")], "utf-8"),
    "semicolons of Excel": ("l.csv", ["Bild;image;label", *rows("x;{name};{label}")], "utf-8-sig"),
    "Unicode text of Excel": ("l.txt", ["path\tclass", *rows("{name}\t{label}")], "utf-16"),
    "without folder and ending": (
        "train.csv",
        ["image_id,label", *rows("{stem},{label}")],
        "utf-8",
    ),
    "Windows paths": ("l.csv", ["path,category", *rows("images\\{name},{label}")], "utf-8"),
    "quoted": ("l.csv", ["path,label,note", *rows('"images/{name}","{label}","a, b"')], "utf-8"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_tables_as_people_write_them(root: Path, case: str) -> None:
    name, lines, encoding = WRITTEN[case]
    images = read(write(root / name, *lines, encoding=encoding))
    assert images.class_names == ("ash", "elm", "oak")
    assert labels(images) == {n: ["elm", "ash", "oak"][i % 3] for i, n in enumerate(IMAGES)}
    assert images.protocol == f"table {name} split 60/20/20 by data.seed=0: train 18, val 6, test 6"
    assert images.root == root


def test_the_split_is_that_of_class_folders(root: Path) -> None:
    images = read(write(root / "l.csv", "image,label", *rows()))
    for name, label in labels(images).items():
        (root / "sorted" / label).mkdir(parents=True, exist_ok=True)
        (root / "sorted" / label / name).touch()
    sorted_images = folder.list_images(root / "sorted", seed=0)
    for split, part in images.splits.items():
        assert [path.name for path in sorted_images.splits[split].paths] == [
            path.name for path in part.paths
        ]


def test_columns_can_be_named_and_paths_start_from_data_root(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "observations.csv"
    path.parent.mkdir()
    lines = ["id,image_url,scientific_name,common_name", *rows("{stem},http://x,{label},A tree")]
    write(path, *lines)
    images = read(path, root / "images", image="id", label="scientific_name")
    assert len(labels(images)) == 30
    assert images.root == root / "images"
    assert "columns of observations.csv: id (image), scientific_name (label)" in images.notes
    message = refused(path, root / "images", image="name")
    assert "data.image_column=name" in message
    assert "id, image_url, scientific_name, common_name" in message


def test_a_split_column(root: Path) -> None:
    words = ["Training", "Validation", "evaluation", "train", "train"]
    lines = [f"{line},{words[i // 3 % 5]}" for i, line in enumerate(rows())]
    images = read(write(root / "l.csv", "image,label,split", *lines))
    assert images.protocol == "table l.csv train/val/test: train 18, val 6, test 6"
    for split, word in (("val", "Validation"), ("test", "evaluation")):
        assert {path.name for path in images.splits[split].paths} == {
            line.split(",")[0].split("/")[1] for line in lines if line.endswith(word)
        }


def test_every_unusable_row_is_named_by_its_number(root: Path) -> None:
    lines = rows()
    lines[2] = "images/none.jpg,elm"  # row 4 of the file
    lines[3], lines[4] = "images/no1.jpg,elm", "images/no2.jpg,ash"
    lines[7] = "images/img07.jpg,"
    lines[9] = "images/img08.jpg,ash"
    lines[11] = "images/img11.jpg,\"['elm', 'ash']\""
    lines[12] = "images/img12.jpg"
    path = write(root / "l.csv", "image,label", *lines)
    message = refused(path)
    for expected in (
        "7 of 30 rows cannot be used",
        "no such file below",
        ": rows 4-6",
        "no label: row 9",
        "the label differs from that of the same image in row 10: row 11",
        "several labels (one class per image is supported): row 13",
        "too few columns: row 14",
        "data.bad_files=skip",
    ):
        assert expected in message
    images = read(path, skip=True)
    assert len(labels(images)) == 23
    assert images.notes[0].startswith("left out 7 rows: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "has no rows"),
        (b"image,label\n", "has no rows"),
        (b"PK\x03\x04\0\0\xff\xfe\xfa", "not a text file; export it as CSV"),
        (b"a,b\n1,2\n", "no column of images found among a, b; name it with data.image_column"),
        (b"image,b\n1,2\n", "no column of labels found"),
    ],
)
def test_what_is_no_table_is_refused(root: Path, content: bytes, expected: str) -> None:
    (root / "l.csv").write_bytes(content)
    assert expected in refused(root / "l.csv")


def test_a_table_without_a_file_is_refused(root: Path) -> None:
    assert "nothing.csv does not exist" in refused(root / "nothing.csv")


def test_other_encodings_are_read_with_a_note(root: Path) -> None:
    lines = [line.replace("elm", "Flügelnuß") for line in rows()]
    images = read(write(root / "l.csv", "image,label", *lines, encoding="cp1252"))
    assert "Flügelnuß" in images.class_names
    assert images.notes[0] == "l.csv is not UTF-8; read as Windows-1252"


def test_images_of_a_group_never_stand_in_two_splits(root: Path) -> None:
    # three images of each plant; every plant belongs to one class
    lines = [f"images/{name},{['elm', 'ash'][i // 3 % 2]},plant{i // 3}"
             for i, name in enumerate(IMAGES)]  # fmt: skip
    images = read(write(root / "l.csv", "image,label,plant", *lines), group="plant")
    assert images.protocol.startswith("table l.csv split 60/20/20 by data.seed=0, whole groups:")
    groups = {line.split(",")[0].split("/")[1]: line.split(",")[2] for line in lines}
    seen = [{groups[path.name] for path in split.paths} for split in images.splits.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 10
    for split in images.splits.values():
        assert sorted(split.labels) == [0] * (len(split) // 2) + [1] * (len(split) // 2)
    assert [len(split) for split in images.splits.values()] == [18, 6, 6]


def test_images_without_a_group_split_alike_wherever_the_data_lies(tmp_path: Path) -> None:
    lines = [f"{name},{['elm', 'ash'][i % 2]},{'tree' if i < 6 else ''}"
             for i, name in enumerate(IMAGES)]  # fmt: skip
    tables, folders = [], []
    for place in (tmp_path / "here", tmp_path / "moved" / "there"):
        place.mkdir(parents=True)
        for line in lines:
            (place / "sorted" / line.split(",")[1]).mkdir(parents=True, exist_ok=True)
            (place / "sorted" / line.split(",")[1] / line.split(",")[0]).touch()
        path = write(place / "l.csv", "image,label,group", *lines)
        tables.append(read(path))
        folders.append(folder.list_images(place / "sorted", seed=0, group=r"img0\d"))
    for first, second in (tables, folders):
        for split, part in first.splits.items():
            names = [path.name for path in second.splits[split].paths]
            assert [path.name for path in part.paths] == names


def test_an_image_in_two_groups_is_refused(root: Path) -> None:
    lines = [*(f"{line},g{i // 3}" for i, line in enumerate(rows())), "images/img00.jpg,elm,g5"]
    message = refused(write(root / "l.csv", "image,label,group", *lines))
    assert "the image is in another group in row 2: row 32" in message


def test_a_column_of_folds_is_not_a_split(root: Path) -> None:
    for name in ("fold", "set"):
        lines = [f"{line},{i % 5}" for i, line in enumerate(rows())]
        path = write(root / "l.csv", f"image,label,{name}", *lines)
        assert " split 60/20/20 by data.seed=0: train 18" in read(path).protocol
    assert "column set of l.csv does not name splits; not read" in read(path).notes
    assert "unknown split '0'" in refused(path, split="set")


def test_annotations_beside_the_images_do_not_fit_a_name_without_ending(root: Path) -> None:
    for name in IMAGES:
        (root / "images" / name).with_suffix(".txt").touch()
    images = read(write(root / "l.csv", "image_id,label", *rows("{stem},{label}")))
    assert set(labels(images)) == set(IMAGES)


def test_rows_are_counted_as_a_spreadsheet_counts_them(root: Path) -> None:
    lines = [f'{line},"two\nlines \u2028"' for line in rows()]
    path = write(root / "l.csv", "image,label,description", *lines, "none.jpg,elm,")
    assert "1 of 31 rows cannot be used: no such file" in refused(path)
    assert ": row 32." in refused(path)


def test_many_unusable_rows_are_counted_and_the_first_listed(root: Path) -> None:
    lines = [row for number in range(40) for row in (rows()[number % 30], f"no{number}.jpg,elm")]
    message = refused(write(root / "l.csv", "image,label", *lines))
    assert "40 of 80 rows" in message
    assert ": rows 3, 5, 7, 9, 11, 13, 15, 17, 19, 21 and 30 more." in message


def test_a_name_too_long_for_a_file_is_an_unusable_row(root: Path) -> None:
    message = refused(write(root / "l.csv", "image,label", *rows(), "q" * 300 + ".jpg,elm"))
    assert "no such file below" in message


def test_groups_of_folders(tmp_path: Path) -> None:
    for name in ("ash", "elm"):
        for plant in range(6):
            (tmp_path / name / f"plant{plant}").mkdir(parents=True)
            for number in range(4):
                (tmp_path / name / f"plant{plant}" / f"{plant}_{number}.jpg").touch()
    found = [
        folder.list_images(tmp_path, seed=0, group=group)
        for group in ("folder", r"(plant\d)/", r"^plant\d")
    ]
    for images in found:
        plants = [{path.parent.name for path in part.paths} for part in images.splits.values()]
        for name in ("ash", "elm"):
            ours = [{p.parent.name for p in part.paths if p.parts[-3] == name}
                    for part in images.splits.values()]  # fmt: skip
            if images is found[0]:
                assert sum(map(len, ours)) == 6
        assert sum(map(len, plants)) == len(set.union(*plants))  # plant1 of both: one group
    with pytest.raises(UsageError, match=r"data.group=\(: is not a regular expression"):
        folder.list_images(tmp_path, seed=0, group="(")
    with pytest.raises(UsageError, match=r"data.group=tree: found in no image, such as plant5/5_3"):
        folder.list_images(tmp_path, seed=0, group="tree")


def test_groups_torn_by_given_splits_are_said(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("ash", "elm"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(3):
                (tmp_path / split / name / f"p{number + (split == 'val') * 2}.jpg").touch()
    images = folder.list_images(tmp_path, seed=0, group=r"p\d")
    assert images.notes[-1].startswith("groups with images in two splits: p2; ")
