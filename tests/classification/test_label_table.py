"""Tables of labels: their forms, and what is said of faulty ones."""

from pathlib import Path

import pytest

from label_tables import CLASSES, labels_of, write_labelled
from scalablevit.classification.label_table import TableColumns, TableError, read_table
from scalablevit.classification.table_check import check_table, recognizes
from scalablevit.classification.table_scan import TableScan, scan_table


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def labels(folder: Path, text: str, encoding: str = "utf-8", **columns: object) -> list[tuple[str, ...]]:
    return [row.labels for row in read_table(table(folder, text, encoding), TableColumns(**columns)).rows]  # type: ignore[arg-type]


def errors(scan: TableScan) -> str:
    return " / ".join(problem.message for problem in scan.problems if problem.severity == "error")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("file,labels\n1.png,cat|dog\n2.png,\n", "utf-8"),
        ("file;labels\r\n1.png;cat, dog\r\n2.png;\r\n", "utf-8-sig"),
        ("sep=;\nfile;labels;\n1.png;cat,dog;\n2.png;;\n", "utf-8-sig"),
        ("file\tlabels\n1.png\tcat;dog\n2.png\t\n", "utf-16"),
        ('file,labels\n1.png,"cat,dog"\n2.png,""\n', "utf-8"),
        ("file,cat,dog\n1.png,1,1\n2.png,0,0\n", "utf-8"),
        ("file;cat;dog\n1.png;1,0;TRUE\n2.png;0,0;false\n", "utf-8-sig"),
        ("Image_Name,Tags\n1.png,cat|dog|cat\n2.png,\n", "utf-8"),
        ("photo of,labels\n1.png,cat|dog\n2.png,\n", "utf-8"),
    ],
)
def test_forms_that_mean_the_same(tmp_path: Path, text: str, encoding: str) -> None:
    assert labels(tmp_path, text, encoding) == [("cat", "dog"), ()]


def test_spaces_separate_labels_only_where_words_come_back_in_other_company(tmp_path: Path) -> None:
    spaced = "image,tags\n1.png,clear road\n2.png,clear\n3.png,road river\n4.png,clear river\n"
    assert labels(tmp_path, spaced)[2] == ("road", "river")
    named = "image,tags\n1.png,hot dog\n2.png,ice cream\n3.png,hot dog\n"
    assert labels(tmp_path, named) == [("hot dog",), ("ice cream",), ("hot dog",)]


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        ("", {}, "is empty"),
        ("file,labels\n", {}, "a header and no rows"),
        ("1.png,cat\n2.png,dog\n", {}, "first line must name the columns"),
        ("a,b\n1,2\n", {}, "name it by data.file_column"),
        ("file,labels,labels\n1.png,cat,dog\n", {}, "'labels' is there twice"),
        ("file\n1.png\n", {}, "no column of labels"),
        ("path,x1,y1,x2,y2,class\n1.png,1,2,3,4,cat\n", {}, "seems to list boxes"),
        ("file,labels\n1.png,cat\n", {"label_column": "tags"}, "data.label_column 'tags' is no column"),
        ("file,labels\n1.png,cat;dog\n", {"label_delimiter": "|"}, "set it to ';', or to auto"),
        ("file,labels\n1.png,\"['cat', 'dog']\"\n", {}, "lists of a program"),
        (
            "file,labels\n1.png,cat|dog\n2.png,cat;dog\n",
            {},
            "'|' (in 1 cells) and ';' (in 1 cells); set data.label_delimiter",
        ),
        ('file,labels\n1.png,"cat\n2.png,dog\n', {}, "close its quotes"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, text: str, columns: dict[str, str], said: str) -> None:
    with pytest.raises(TableError, match=r"labels\.csv") as caught:
        read_table(table(tmp_path, text), TableColumns(**columns))  # type: ignore[arg-type]
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        (
            "file,labels",
            ["0.png,cat", "1.png,dog", "99.png,cat"],
            "1 of 3 images are not there, such as 99.png (line 4)",
        ),
        ("file,labels", ["0.png,cat", "1.png,dog", "0.png,dog"], "0.png in the lines 2 and 4; write all labels"),
        ("file,labels", ["0.png,cat", "1.png,cat"], "one class only, 'cat'"),
        ("file,labels", ["0.png,cat,dog", "1.png,cat"], "line 2 has 3, the header 2; put quotes"),
        ("file,labels", [",cat", "1.png,dog"], "1 rows name no image, such as line 2"),
        ("file,cat,age", ["0.png,1,35", "1.png,0,0"], "'age' holds '35' in line 2 (1 of 2 rows"),
        ("file,cat,dog", ["0.png,1,", "1.png,0,0"], "'dog' holds nothing in line 2"),
        ("file,labels,split", ["0.png,cat,train", "1.png,dog,mine"], "'mine' in line 3"),
        ("file,labels,split", ["0.png,cat,train", "1.png,dog,train", "2.png,fox,val"], "not in training: 'fox'"),
        ("file,labels,split", ["0.png,cat,train", "1.png,dog,train", "2.png,,val"], "no validation image has a label"),
    ],
)
def test_what_is_wrong_with_rows_names_the_line(tmp_path: Path, header: str, rows: list[str], said: str) -> None:
    root = write_labelled(tmp_path / "data", header=header, rows=rows)
    assert said in errors(scan_table(root))


def test_missing_folder_table_and_keys(tmp_path: Path) -> None:
    assert "does not exist" in errors(scan_table(tmp_path / "none"))
    assert "there is no table of labels" in errors(scan_table(tmp_path))
    root = write_labelled(tmp_path / "data")
    assert "data.labels names no file" in errors(scan_table(root, labels="tags.csv"))
    assert "data.images names no folder" in errors(scan_table(root, images="photos"))
    (root / "labels.csv").rename(root / "one.csv")
    (root / "two.csv").write_text("file,labels\n")
    assert "several tables may be meant: one.csv, two.csv" in errors(scan_table(root))
    with pytest.raises(ValueError, match="val_fraction"):
        scan_table(root, val_fraction=1.5)


def test_validation_is_set_aside_by_name_and_no_class_loses_its_only_image(tmp_path: Path) -> None:
    rows = [f"{i}.png,cat|dog" for i in range(11)] + ["11.png,fox"]
    scan = scan_table(write_labelled(tmp_path / "data", rows=rows), val_fraction=0.5)
    assert scan.class_names == ["cat", "dog", "fox"]
    assert len(scan.val) in (5, 6)
    assert any("fox" in image.labels for image in scan.train)
    assert {image.file for image in scan.train}.isdisjoint(image.file for image in scan.val)


def test_validation_by_a_column_and_by_a_table(tmp_path: Path) -> None:
    rows = [f"{i}.png,{'|'.join(labels_of(i))},{('train', 'val', 'test')[i // 8]}" for i in range(12)]
    rows = [row.replace("test", "val") if row.startswith("8") else row for row in rows]
    by_column = scan_table(write_labelled(tmp_path / "one", header="file,labels,split", rows=rows))
    assert (len(by_column.train), by_column.val[0].file) == (8, "images/8.png")
    root = write_labelled(tmp_path / "two")
    lines = (root / "labels.csv").read_text().splitlines()
    (root / "train.csv").write_text("\n".join(lines[:9]))
    (root / "val.csv").write_text("\n".join([lines[0], *lines[9:]]))
    (root / "labels.csv").unlink()
    by_table = scan_table(root)
    assert (len(by_table.train), len(by_table.val), by_table.origin) == (8, 4, "val.csv")
    (root / "val.csv").write_text("\n".join([lines[0], *lines[8:]]))
    assert "1 images stand in train.csv too" in errors(scan_table(root))


def test_names_without_ending_with_backslashes_and_below_any_folder(tmp_path: Path) -> None:
    rows = ["0,cat", "images\\1.png,dog", "./images/2,cat|dog", "3.png,dog"]
    scan = scan_table(write_labelled(tmp_path / "data", rows=rows))
    assert not errors(scan)
    assert {image.file for image in (*scan.train, *scan.val)} == {f"images/{i}.png" for i in range(4)}
    other = tmp_path / "data" / "copies"
    other.mkdir()
    (tmp_path / "data" / "images" / "3.png").rename(other / "0.png")
    assert "0 (line 2): copies/0.png, images/0.png" in errors(scan_table(tmp_path / "data"))
    assert "images" in errors(scan_table(tmp_path / "data", images="images"))


def test_evaluation_takes_the_classes_of_the_network(tmp_path: Path) -> None:
    root = write_labelled(tmp_path / "data")
    scan = scan_table(root, trained_class_names=["dog", "cat", "bird", "fox"], val_fraction=1)
    assert (len(scan.val), scan.train, scan.class_names) == (12, [], ["dog", "cat", "bird", "fox"])
    assert any("'fox'" in problem.message for problem in scan.problems)
    assert "not among the 2 of the network" in errors(
        scan_table(root, trained_class_names=["cat", "dog"], val_fraction=1)
    )


def test_the_check_reports_tables_and_images(tmp_path: Path) -> None:
    root = write_labelled(tmp_path / "data")
    (root / "images" / "5.png").write_bytes(b"no image")
    assert recognizes(root, {})
    report = check_table(root)
    assert [problem.path for problem in report.errors] == [str(root / "images" / "5.png")]
    assert list(report.classes) == list(CLASSES)
    assert sum(report.num_unlabelled) == 2
    assert "without labels" in report.to_text()
    (root / "images" / "6.png").rename(root / "images" / "60.png")
    kinds = {problem.kind for problem in check_table(root).problems}
    assert {"missing-image"} <= kinds


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "file,labels,age,sex\n1.png,cat,3,f\n"), TableColumns())
    assert found.labels_are == "in the column 'labels', one an image; not read: age, sex"


def test_look_alike_and_unlisted(tmp_path: Path) -> None:
    rows = ["0.png,cat", "1.png,Cat", "2.png,dog", "3.png,dog|cat|Cat"]
    scan = scan_table(write_labelled(tmp_path / "data", rows=rows))
    said = " ".join(problem.message for problem in scan.problems)
    assert "'Cat' and 'cat'" in said
    assert "8 images below" in said


def split_table(root: Path, name: str, rows: list[str], header: str = "file,labels,split") -> None:
    (root / "labels.csv").unlink(missing_ok=True)
    (root / name).write_text("\n".join([header, *rows]) + "\n")


def warnings(scan: TableScan) -> str:
    return " / ".join(problem.message for problem in scan.problems if problem.severity == "warning")


def test_of_two_tables_rows_of_other_parts_are_left_out(tmp_path: Path) -> None:
    root = write_labelled(tmp_path / "data", count=9)
    rows = ["0.png,cat,train", "1.png,dog,train", "2.png,cat|dog,train", "3.png,fox,test", "4.png,cat,val"]
    split_table(root, "train.csv", rows)
    split_table(root, "val.csv", ["5.png,cat,val", "6.png,dog,test", "7.png,cat,train", "8.png,dog,val"])
    scan = scan_table(root)
    assert not errors(scan)
    assert [image.file for image in scan.train] == [f"images/{i}.png" for i in (0, 1, 2)]
    assert [image.file for image in scan.val] == [f"images/{i}.png" for i in (5, 6, 8)]
    assert scan.class_names == ["cat", "dog"]
    assert "train.csv: 2 rows of other parts (test, val) are not used in training" in warnings(scan)
    assert "val.csv: 1 rows of other parts (train) are not used in validation" in warnings(scan)
    assert "have no row" not in warnings(scan)
    again = scan_table(root, trained_class_names=scan.class_names)
    assert again.val == scan.val
    assert not errors(again)


def test_an_evaluation_takes_all_of_the_table_of_validation(tmp_path: Path) -> None:
    root = write_labelled(tmp_path / "data")
    split_table(root, "train.csv", [f"{i}.png,cat|dog" for i in range(6)], "file,labels")
    split_table(root, "val.csv", [f"{i}.png,cat" for i in range(6, 12)], "file,labels")
    scan = scan_table(root)
    assert len(scan.val) == 6
    assert scan_table(root, trained_class_names=["cat", "dog"]).val == scan.val


def test_an_evaluation_asks_for_the_classes_of_its_own_images_alone(tmp_path: Path) -> None:
    rows = ["0.png,cat,train", "1.png,dog,train", "2.png,cat,val", "3.png,fox,test"]
    root = write_labelled(tmp_path / "data", header="file,labels,split", rows=rows)
    scan = scan_table(root)
    assert not errors(scan)
    assert scan_table(root, trained_class_names=scan.class_names).val == scan.val
    assert "'cat'" in errors(scan_table(root, trained_class_names=["dog", "bird"]))


def test_labels_of_both_tables_stand_between_the_same_marks(tmp_path: Path) -> None:
    root = write_labelled(tmp_path / "data")
    spaced = ["clear road", "clear", "road river", "clear river"]
    split_table(root, "train.csv", [f"{i}.png,{labels}" for i, labels in enumerate(spaced)], "file,labels")
    split_table(root, "val.csv", ["5.png,clear road"], "file,labels")
    scan = scan_table(root)
    assert scan.val[0].labels == ("clear", "road")
    assert scan_table(root, trained_class_names=scan.class_names).val == scan.val
    split_table(root, "val.csv", ["5.png,clear|road"], "file,labels")
    assert "'|' in 1 cells, and in the table of training labels stand between ' '" in errors(scan_table(root))


def test_a_test_table_in_the_place_of_validation_is_warned_of(tmp_path: Path) -> None:
    root = write_labelled(tmp_path / "data")
    split_table(root, "train.csv", ["0.png,cat", "1.png,dog"], "file,labels")
    split_table(root, "test.csv", ["2.png,cat", "3.png,dog"], "file,labels")
    scan = scan_table(root)
    assert scan.origin == "test.csv"
    assert "it is taken for validation, as there is no val.csv" in warnings(scan)


def test_a_flag_named_label_beside_others_is_one_of_the_classes(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "file,label,cat,dog\n1.png,1,0,1\n2.png,0,1,0\n"), TableColumns())
    assert (found.class_names, found.form) == (["label", "cat", "dog"], "columns")
    for alone in ("file,label\n1.png,1\n2.png,0\n", "file,label,age\n1.png,1,30\n2.png,0,41\n"):
        assert read_table(table(tmp_path, alone), TableColumns()).class_names == ["0", "1"]
    named = read_table(table(tmp_path, "file,label,cat\n1.png,1,0\n2.png,0,1\n"), TableColumns(label_column="label"))
    assert named.class_names == ["0", "1"]


def test_columns_that_may_be_no_classes_are_warned_of(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "file,cat,dog,fold\n1.png,1,0,1\n2.png,0,1,0\n"), TableColumns())
    assert [problem.kind for problem in found.problems] == ["no-class"]
    assert "fold; name them in data.ignore_columns" in found.problems[0].message


def test_too_few_images_to_set_any_aside_have_a_remedy(tmp_path: Path) -> None:
    root = write_labelled(tmp_path / "data", rows=["0.png,cat", "1.png,dog"])
    assert "each class keeps an image for training; add images" in errors(scan_table(root))
