"""Annotation formats, written by hand and read back; what is wrong in them is named."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbctool.errors import InputError, UsageError
from cbctool.records import CellClass, CellKind
from cbctool.run.truth import (
    FieldTruth,
    Meaning,
    TruthObject,
    clip_to_field,
    parse_name_map,
    read_differentials,
    read_fields_list,
    read_truth,
    scale_truth,
    select_pictures,
)
from cbctool.run.truth_formats import TruthFormat, detect_format, parse_format

VOC = """<annotation><filename>elsewhere.jpg</filename>
<object><name>WBC</name><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>40</xmax><ymax>60</ymax></bndbox></object>
<object><name>RBC</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>
<object><name>RBC</name><bndbox><xmin>30</xmin><ymin>5</ymin><xmax>10</xmax><ymax>25</ymax></bndbox></object>
<object><name>Platelets</name></object>
<object><name>parasite</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>
</annotation>"""


def picture(folder: Path, name: str = "a.png", height: int = 100, width: int = 200) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.full((height, width, 3), 230, np.uint8))[1].tobytes())
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def boxes(truth: FieldTruth) -> list[tuple[str, float, float, float, float]]:
    return [(o.kind or "", o.ymin_px, o.xmin_px, o.ymax_px, o.xmax_px) for o in truth.objects]


def test_voc_is_read_and_its_faults_are_named(tmp_path):
    image = picture(tmp_path / "images")
    write(tmp_path / "xml" / "a.xml", VOC)
    truth = read_truth(tmp_path / "xml", [image])
    assert truth.format is TruthFormat.VOC
    (field,) = truth.fields
    assert boxes(field) == [("nucleated", 20, 10, 60, 40), ("erythrocyte", 5, 10, 25, 30), ("", 2, 1, 9, 9)]
    said = " | ".join(f.what for f in truth.faults)
    assert "degenerate" in said
    assert "wrong order" in said
    assert "(Platelets) has no box" in said
    assert "'parasite' (1 objects)" in said
    assert truth.kinds == {CellKind.NUCLEATED, CellKind.ERYTHROCYTE}


def test_broken_xml_is_a_fault_of_its_file_alone(tmp_path):
    images = [picture(tmp_path, "a.png"), picture(tmp_path, "b.png")]
    write(tmp_path / "xml" / "a.xml", VOC)
    write(tmp_path / "xml" / "b.xml", "<annotation>")
    truth = read_truth(tmp_path / "xml", images)
    assert any(f.source == "b.xml" and "not XML" in f.what for f in truth.faults)


@pytest.mark.parametrize(
    ("names_file", "text"),
    [
        ("classes.txt", "RBC\nWBC\n"),
        ("data.yaml", "nc: 2\nnames: ['RBC', 'WBC']\n"),
        ("data.yaml", "names:\n  0: RBC\n  1: WBC\nnc: 2\n"),
        ("data.yaml", "names:\n- RBC\n- WBC\n"),
    ],
)
def test_yolo_is_in_shares_of_the_picture(tmp_path, names_file, text):
    image = picture(tmp_path)
    write(tmp_path / "labels" / "a.txt", "1 0.5 0.5 0.25 0.5\n7 0.5 0.5 0.1 0.1\n\n")
    write(tmp_path / "labels" / names_file, text)
    truth = read_truth(tmp_path / "labels", [image])
    assert truth.format is TruthFormat.YOLO
    assert boxes(truth.fields[0]) == [("nucleated", 25, 75, 75, 125)]
    assert any("line 2" in f.what for f in truth.faults)


def test_yolo_without_class_names_is_refused(tmp_path):
    write(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UsageError, match=r"classes\.txt"):
        read_truth(tmp_path / "labels", [picture(tmp_path)])


def test_empty_yolo_file_says_that_the_field_is_empty(tmp_path):
    write(tmp_path / "labels" / "a.txt", "")
    write(tmp_path / "labels" / "classes.txt", "WBC\n")
    (field,) = read_truth(tmp_path / "labels", [picture(tmp_path)]).fields
    assert field.objects == ()


def test_coco_boxes_are_x_y_width_height(tmp_path):
    image = picture(tmp_path)
    coco = {
        "images": [{"id": 3, "file_name": "sub/a.png"}],
        "categories": [{"id": 1, "name": "neutrophil"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 1, "bbox": [10, 20, 30, 40]},
            {"id": 2, "image_id": 3, "category_id": 9, "bbox": [10, 20, 30, 40]},
            {"id": 3, "image_id": 99, "category_id": 1, "bbox": [10, 20, 30, 40]},
        ],
    }
    truth = read_truth(write(tmp_path / "coco.json", json.dumps(coco)), [image])
    assert truth.format is TruthFormat.COCO
    assert boxes(truth.fields[0]) == [("nucleated", 20, 10, 60, 40)]
    assert truth.fields[0].objects[0].cell_class is CellClass.NEUTROPHIL
    assert len(truth.faults) == 2


def test_json_that_is_not_coco_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not COCO"):
        read_truth(write(tmp_path / "x.json", "{}"), [picture(tmp_path)])


@pytest.mark.parametrize("annotations", [[1], None, "many"])
def test_coco_whose_annotations_are_none_is_refused(tmp_path, annotations):
    coco = {"images": [], "categories": [], "annotations": annotations}
    with pytest.raises(UsageError, match="not COCO"):
        read_truth(write(tmp_path / "x.json", json.dumps(coco)), [picture(tmp_path)])


@pytest.mark.parametrize("wrong", [{"image_id": [3]}, {"category_id": {}}, {"bbox": [float("nan"), 20, 30, 40]}])
def test_a_coco_annotation_that_cannot_be_used_is_a_fault(tmp_path, wrong):
    right = {"id": 1, "image_id": 3, "category_id": 1, "bbox": [10, 20, 30, 40]}
    coco = {"images": [{"id": 3, "file_name": "a.png"}], "categories": [{"id": 1, "name": "wbc"}]}
    coco["annotations"] = [right, right | wrong]
    truth = read_truth(write(tmp_path / "x.json", json.dumps(coco)), [picture(tmp_path)])
    assert boxes(truth.fields[0]) == [("nucleated", 20, 10, 60, 40)]
    assert len(truth.faults) == 1


def test_boxes_csv_finds_pictures_by_path_and_counts_doubles_once(tmp_path):
    one, two = picture(tmp_path, "eo/a.png"), picture(tmp_path, "ly/a.png")
    text = "path,name,xmin,ymin,xmax,ymax\nly/a.png,RBC,1,2,11,12\nly/a.png,RBC,1,2,11,12\na.png,RBC,0,0,9,9\n"
    truth = read_truth(write(tmp_path / "boxes.csv", text), [one, two])
    assert truth.format is TruthFormat.BOXES
    assert [f.path for f in truth.fields] == [two]
    assert boxes(truth.fields[0]) == [("erythrocyte", 2, 1, 12, 11)]
    said = " | ".join(f.what for f in truth.faults)
    assert "1 objects annotated more than once" in said
    assert "1 annotated fields without a picture" in said  # a.png alone could be either


def test_points_csv_keeps_objects_of_unknown_kind_apart(tmp_path):
    text = "id,kind,x,y\na,blast,30,40\na,other,5,6\nb,,,\n"
    images = [picture(tmp_path, "a.png"), picture(tmp_path, "b.png")]
    truth = read_truth(write(tmp_path / "points.csv", text), images)
    assert truth.format is TruthFormat.POINTS
    blast, other = truth.fields[0].objects
    assert blast.is_point
    assert (blast.kind, blast.ymin_px, blast.xmin_px) == (CellKind.NUCLEATED, 40, 30)
    assert other.kind is None
    assert truth.fields[1].objects == ()


@pytest.mark.parametrize(
    "text", ["x,y,class\n30,40,RBC\n1,2\n", "30,40,RBC\n1,2\n", "30 40 RBC\n1 2\n", "30;40;RBC\n1;2"]
)
def test_point_files_per_field(tmp_path, text):
    write(tmp_path / "points" / "a.csv", text)
    truth = read_truth(tmp_path / "points", [picture(tmp_path)])
    assert boxes(truth.fields[0]) == [("erythrocyte", 40, 30, 40, 30), ("nucleated", 2, 1, 2, 1)]


def test_masks_and_field_classes(tmp_path):
    image = picture(tmp_path / "i")
    picture(tmp_path / "masks")
    truth = read_truth(tmp_path / "masks", [image])
    assert (truth.format, truth.fields[0].mask) == (TruthFormat.MASKS, tmp_path / "masks" / "a.png")
    named = write(tmp_path / "names.csv", 'id,wbc_classes\na,"Neutrophil, Eosinophil"\n')
    truth = read_truth(named, [image])
    assert truth.format is TruthFormat.FIELD_CLASSES
    assert truth.fields[0].classes == (CellClass.NEUTROPHIL, CellClass.EOSINOPHIL)


BOXES = "field,class,x_min,ymin,X_Max,ymax\na.png,RBC,10,20,30.5,40\n"


@pytest.mark.parametrize(
    "data",
    [
        BOXES.encode(),
        BOXES.encode("utf-8-sig"),
        BOXES.encode("utf-16"),
        BOXES.replace(",", "\t").encode(),
        BOXES.replace(",", ";").replace(".5", ",5").replace("\n", "\r\n").encode("cp1252"),
    ],
)
def test_tables_may_be_as_a_spreadsheet_saves_them(tmp_path, data):
    (tmp_path / "boxes.csv").write_bytes(data)
    truth = read_truth(tmp_path / "boxes.csv", [picture(tmp_path)])
    assert truth.format is TruthFormat.BOXES
    assert boxes(truth.fields[0]) == [("erythrocyte", 20, 10, 40, 30.5)]
    assert truth.faults == ()


def test_a_corner_and_a_size_are_not_taken_for_a_point(tmp_path):
    path = write(tmp_path / "boxes.csv", "field,label,x,y,width,height\na,RBC,10,20,5,5\n")
    with pytest.raises(UsageError, match="xmin, ymin, xmax, ymax"):
        detect_format(path)


def test_names_in_any_script_are_told_apart(tmp_path):
    path = write(tmp_path / "boxes.csv", "id,name,xmin,ymin,xmax,ymax\na,白细胞,1,1,9,9\na,红细胞,10,20,30,40\n")
    truth = read_truth(path, [picture(tmp_path)], name_map=parse_name_map(["白细胞=nucleated"]))
    assert [kind for kind, *_ in boxes(truth.fields[0])] == ["nucleated", ""]


def test_names_that_all_mean_nothing_are_refused(tmp_path):
    path = write(tmp_path / "boxes.csv", "id,name,xmin,ymin,xmax,ymax\na,0,1,1,9,9\na,1,10,20,30,40\n")
    with pytest.raises(UsageError, match=r"'0', '1'.*--map"):
        read_truth(path, [picture(tmp_path)])


@pytest.mark.parametrize(
    "line", ["0 0.05 0.2 0.15 0.2 0.15 0.4 0.05 0.4", "0 0.1 0.3 0.1 0.2 0.93"], ids=["polygon", "confidence"]
)
def test_yolo_lines_of_other_lengths(tmp_path, line):
    write(tmp_path / "data.yaml", "names: [WBC]\n")  # two folders above the labels, as Roboflow puts it
    write(tmp_path / "train" / "labels" / "a.txt", f"{line}\n0 0.5 0.5\n")
    truth = read_truth(tmp_path / "train" / "labels", [picture(tmp_path)])
    ((kind, *sides),) = boxes(truth.fields[0])
    assert kind == "nucleated"
    assert sides == pytest.approx([20, 10, 40, 30])
    assert ["line 2" in fault.what for fault in truth.faults] == [True]


def test_coco_polygons_and_several_files(tmp_path):
    for i, shape in enumerate([{"segmentation": [[10, 20, 30, 20, 30, 40]], "bbox": []}, {"bbox": [10, 20, 20, 20]}]):
        coco = {
            "images": [{"id": 1, "file_name": f"{i}.png", "width": 400, "height": 200}],
            "categories": [{"id": 1, "name": "WBC"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **shape}],
        }
        write(tmp_path / "coco" / f"{i}.json", json.dumps(coco))
    truth = read_truth(tmp_path / "coco", [picture(tmp_path, f"{i}.png") for i in (0, 1)])
    assert truth.format is TruthFormat.COCO
    assert [boxes(field) for field in truth.fields] == [[("nucleated", 20, 10, 40, 30)]] * 2
    assert [fault.what for fault in truth.faults] == ["annotated at 400 x 200 px, but the picture has 200 x 100"] * 2


def test_labelme(tmp_path):
    shapes = [
        {"label": "WBC", "points": [[30, 40], [10, 20]], "shape_type": "rectangle"},
        {"label": "RBC", "points": [[50, 50], [50, 60]], "shape_type": "circle"},
        {"label": "RBC", "points": []},
    ]
    write(tmp_path / "json" / "a.json", json.dumps({"shapes": shapes, "imageHeight": 100, "imageWidth": 200}))
    write(tmp_path / "json" / "b.json", '{"shapes')
    write(tmp_path / "json" / "c.json", '{"shapes": null}')
    truth = read_truth(tmp_path / "json", [picture(tmp_path)])
    assert truth.format is TruthFormat.LABELME
    assert boxes(truth.fields[0]) == [("nucleated", 20, 10, 40, 30), ("erythrocyte", 40, 40, 60, 60)]
    assert [fault.source for fault in truth.faults[:3]] == ["a.json", "b.json", "c.json"]


def test_xml_of_another_kind_says_what_to_export(tmp_path):
    write(tmp_path / "annotations.xml", "<annotations><image name='a.png'/></annotations>")
    with pytest.raises(InputError, match="export it as Pascal VOC"):
        read_truth(tmp_path / "annotations.xml", [picture(tmp_path)])


def test_a_row_per_cell_adds_up(tmp_path):
    path = write(tmp_path / "classes.csv", "id,class\na,neutrophil\na,lymphocyte\n")
    truth = read_truth(path, [picture(tmp_path)])
    assert truth.fields[0].classes == (CellClass.NEUTROPHIL, CellClass.LYMPHOCYTE)
    assert truth.faults == ()
    write(path, "id,class\na,neutrophil\na.png,lymphocyte\n")
    truth = read_truth(path, [picture(tmp_path)])
    assert truth.fields[0].classes == (CellClass.NEUTROPHIL, CellClass.LYMPHOCYTE)
    assert "more than once" in truth.faults[0].what


def test_manual_percentages_may_be_written_with_their_sign(tmp_path):
    path = write(tmp_path / "manual.csv", "slide;neutrophil;lymphocyte\ns;62,5 %;37,5%\n")
    ((manual,), faults) = read_differentials(path)
    assert manual.percent == {CellClass.NEUTROPHIL: 62.5, CellClass.LYMPHOCYTE: 37.5}
    assert manual.cells is None
    assert faults == ()


def test_truth_of_other_pictures_is_refused(tmp_path):
    write(tmp_path / "xml" / "z.xml", VOC)
    with pytest.raises(InputError, match="none of the pictures"):
        read_truth(tmp_path / "xml", [picture(tmp_path)])


def test_format_that_cannot_be_told_says_which_there_are(tmp_path):
    with pytest.raises(UsageError, match="voc, yolo"):
        detect_format(write(tmp_path / "x.csv", "a,b\n1,2\n"))
    with pytest.raises(InputError, match="does not exist"):
        detect_format(tmp_path / "nothing")
    with pytest.raises(UsageError, match="unknown"):
        parse_format("excel")


def test_names_can_be_given_a_meaning(tmp_path):
    names = parse_name_map(["other=ignore", "Lymphoblast = nucleated", "PLT=platelet", "Myelo=immature_granulocyte"])
    assert names["other"] == Meaning(None)
    assert names["lymphoblast"] == Meaning(CellKind.NUCLEATED)
    assert names["myelo"] == Meaning(CellKind.NUCLEATED, CellClass.IMMATURE_GRANULOCYTE)
    text = "id,name,x,y\na,lymphoblast,30,40\na,other,5,6\n"
    truth = read_truth(write(tmp_path / "p.csv", text), [picture(tmp_path)], name_map=names)
    assert [o.kind for o in truth.fields[0].objects] == [CellKind.NUCLEATED, None]
    assert truth.faults == ()


@pytest.mark.parametrize("pair", ["other", "=platelet", "other=unicorn"])
def test_name_maps_that_are_none_are_refused(pair):
    with pytest.raises(UsageError, match="--map"):
        parse_name_map([pair])


def an_object(ymin: float, xmin: float, ymax: float, xmax: float) -> TruthObject:
    return TruthObject("WBC", CellKind.NUCLEATED, None, ymin, xmin, ymax, xmax)


def test_boxes_are_cut_to_the_field_and_named_when_far_out():
    truth = FieldTruth(
        Path("a.png"), (an_object(-1, 0, 50, 101), an_object(0, 50, 60, 150), an_object(70, 120, 90, 140))
    )
    clipped, faults = clip_to_field(truth, 100, 100)
    assert boxes(clipped) == [("nucleated", 0, 0, 50, 100), ("nucleated", 0, 50, 60, 100)]
    assert [f.what.split(": ")[-1] for f in faults] == [
        "passes the edge of the field, cut to it",
        "outside the 100 x 100 px field, left out",
    ]


@given(st.floats(0.25, 4), st.floats(0.25, 4))
def test_scaled_truth_scales_back(row, col):
    truth = FieldTruth(Path("a.png"), (an_object(3, 5, 70, 90),))
    back = scale_truth(scale_truth(truth, row, col), 1 / row, 1 / col)
    assert boxes(back)[0][1:] == pytest.approx(boxes(truth)[0][1:])


def test_fields_list_by_split(tmp_path):
    images = [picture(tmp_path, "a.png"), picture(tmp_path, "b.png")]
    listed = write(tmp_path / "f.csv", "id,split\na,train\nb,val\nc,val\n")
    assert read_fields_list(listed) == ["a", "b", "c"]
    chosen, missing = select_pictures(images, read_fields_list(listed, ["val"]))
    assert (chosen, missing) == ([images[1]], ["c"])
    assert read_fields_list(write(tmp_path / "f.txt", "a\n\nb\n")) == ["a", "b"]
    with pytest.raises(UsageError, match="split"):
        read_fields_list(tmp_path / "f.txt", ["val"])


def test_manual_differentials_add_up_to_our_classes(tmp_path):
    text = "slide,segs,bands,lymphs,blasts,NRBC\nS1,50,10,30,10,4\nS2,x,1,1,1,1\nS3,0,0,0,0,2\n"
    manual, faults = read_differentials(write(tmp_path / "m.csv", text))
    (one,) = manual
    assert one.slide == "S1"
    assert one.cells == 100
    assert one.percent == {CellClass.NEUTROPHIL: 60.0, CellClass.LYMPHOCYTE: 30.0}
    said = " | ".join(f.what for f in faults)
    assert "'blasts' is no class" in said
    assert "slide 'S2'" in said
    assert "slide 'S3': no leukocytes" in said


def test_manual_percentages_state_no_count_unless_said(tmp_path):
    text = "slide,neutrophil %,lymphocyte %\nS1,60,40\n"
    assert read_differentials(write(tmp_path / "m.csv", text))[0][0].cells is None
    text = "slide,neutrophil_percent,lymphocyte_percent,n\nS1,60,40,200\n"
    (one,), _ = read_differentials(write(tmp_path / "n.csv", text))
    assert (one.cells, one.percent[CellClass.NEUTROPHIL]) == (200, 60.0)


@pytest.mark.real
def test_real_annotations_are_all_read(data):
    bccd = sorted((data / "bccd" / "images").iterdir())
    voc = read_truth(data / "bccd" / "annotations", bccd)
    counts = {k: sum(o.kind is k for f in voc.fields for o in f.objects) for k in voc.kinds}
    assert (len(voc.fields), counts[CellKind.NUCLEATED], counts[CellKind.PLATELET]) == (292, 301, 292)
    assert sorted(f.source for f in voc.faults) == ["BloodImage_00338", "BloodImage_00343"]
    txl = read_truth(data / "bccd" / "boxes_txl.csv", bccd)
    assert (len(txl.fields), sum(len(f.objects) for f in txl.fields)) == (132, 2904)
    pbc = read_truth(data / "pbc" / "boxes.csv", sorted((data / "pbc" / "images").rglob("*.jpg")))
    assert len(pbc.fields) == 500
    points = read_truth(data / "all_idb1" / "points.csv", sorted((data / "all_idb1" / "images").iterdir()))
    assert sum(o.name == "blast" for f in points.fields for o in f.objects) == 283
