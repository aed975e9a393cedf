"""Pictures of one's own: what is read, what stays as the folder grows, and every mistake as a sentence."""

import json

import numpy as np
import pytest
from PIL import Image

from maxbench.data.folder import FolderImages, folder_images, image_id
from maxbench.data.pairing import Complementary, CrossImage, ObjectOnScene, Styled
from maxbench.errors import UserError


def write(root, names, captions=None, form="csv"):
    root.mkdir(parents=True, exist_ok=True)
    captions = captions or [f"the picture {name}" for name in names]
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), 10 + number, np.uint8)).save(root / name)
    if form == "csv":
        rows = ["file,caption", *(f'"{name}","{said}"' for name, said in zip(names, captions, strict=True))]
        (root / "captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    else:
        rows = [json.dumps({"file": name, "caption": said}) for name, said in zip(names, captions, strict=True)]
        (root / "captions.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return root


NAMES = [f"{place}.png" for place in range(20)]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_pictures_and_captions_are_read(form, tmp_path):
    said = ["a dog, running  on grass", "für immer"]
    images = FolderImages(write(tmp_path / "own", ["a.png", "deep/er/b.jpg"], said, form))
    assert len(images) == 2 and images.ids == sorted(map(image_id, ["a.png", "deep/er/b.jpg"]))
    first, second = map(images.picture, map(image_id, ["a.png", "deep/er/b.jpg"]))
    assert first.path == tmp_path / "own" / "a.png" and first.captions == ("a dog, running on grass",)
    assert second.captions == ("für immer",) and second.instances == ()
    assert images.about == "the pictures of the folder own"
    assert all(0 <= image < 10**12 for image in images.ids)  # as COCO numbers its files
    assert folder_images(tmp_path / "own", about="dogs").about == "dogs"


def test_both_forms_mean_the_same(tmp_path):
    one, other = FolderImages(write(tmp_path / "a", NAMES)), FolderImages(write(tmp_path / "b", NAMES, form="jsonl"))
    assert one.ids == other.ids and one.fingerprint() == other.fingerprint()


def test_a_mark_of_byte_order_further_columns_and_blank_lines_do_no_harm(tmp_path):
    root = write(tmp_path, ["a.png"])
    (root / "captions.csv").write_bytes('\ufeffcaption,by,file\r\n"a\ncat",me,./a.png\r\n\r\n'.encode())
    assert [images.captions for images in map(FolderImages(root).picture, FolderImages(root).ids)] == [("a cat",)]


def test_a_folder_that_grows_keeps_what_it_had(tmp_path):
    few, more = write(tmp_path / "few", NAMES[:12]), write(tmp_path / "more", NAMES[::-1])
    few, more = folder_images(few, calibration_share=0.3), folder_images(more, calibration_share=0.3)
    assert set(few.ids) < set(more.ids)
    held = [folder_images(each.root, "calibration", 0.3) for each in (few, more)]
    assert set(held[0].ids) <= set(held[1].ids)
    for images, part in zip((few, more), held, strict=True):
        assert part.ids and not set(images.ids) & set(part.ids)
        assert len(images) + len(part) == len(FolderImages(images.root))

    def samples(images):
        plan = Complementary(reference=2).plan(images, ["hed"], len(images) - 2, seed=0)
        return {each.id: each for each in plan.samples}

    before, after = samples(few), samples(more)
    shared = before.keys() & after.keys()
    assert shared and all(before[each] == after[each] for each in shared)


def test_pairings_that_need_objects_refuse_and_others_do_not(tmp_path):
    images = FolderImages(write(tmp_path, NAMES))
    with pytest.raises(UserError, match=r"needs outlined objects and 'pictures in .*' has none; take pairing=cross_im"):
        ObjectOnScene(reference=2).plan(images, ["hed", "depth"], 2, seed=0)
    assert len(CrossImage(reference=2).plan(images, ["hed", "depth"], 4, seed=0).samples) == 4
    styled = Styled(reference=2).plan(images, ["hed", "style"], 2, seed=0).samples
    assert all(sample.prompt.startswith("the picture") for sample in styled)


def test_a_picture_that_must_be_turned_is_refused(tmp_path):
    root = write(tmp_path, ["a.jpg"])
    picture = Image.open(root / "a.jpg")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(root / "a.jpg", exif=exif)
    with pytest.raises(UserError, match=r"a\.jpg is stored turned"):
        FolderImages(root).picture(image_id("a.jpg"))
    exif[0x0112] = 1
    picture.save(root / "a.jpg", exif=exif)
    assert FolderImages(root).picture(image_id("a.jpg"))


CSV = [
    ("caption,name\nx,a.png\n", "no column 'file' in its first line"),
    ("file,text\na.png,x\n", "no column 'caption'"),
    ("file,caption,file\na.png,x,a.png\n", "more than one column 'file'"),
    ("", "no column 'file'"),
    ("file,caption\n", "names no pictures"),
    ("file,caption\na.png,a dog, running\n", "line 2 has 3 cells and the first line 2; a caption with a comma stands"),
    ("file,caption\na.png\n", "line 2 has 1 cells"),
    ("file,caption\na.png,  \n", "line 2 has the caption '  '"),
    ("file,caption\na.png,\n", "line 2 has no caption"),
    ("file,caption\n,x\n", "line 2 has no file"),
    ('file,caption\na.png,"x\n', "line 2 cannot be read"),
    ("file,caption\na.png,x\na.png,y\n", "line 3 names the file 'a.png' a second time"),
    ("file,caption\na.png,x\n./a.png,y\n", "line 3 names the file 'a.png' a second time"),
    ("file,caption\nb.png,x\nc.png,x\na.png,x\n", r"names 2 of 3 files that are not there \(b\.png, c\.png\)"),
    ("file,caption\n" + "".join(f"n{n}.png,x\n" for n in range(9)), r"\(n0\.png, n1\.png, n2\.png and 6 more\)"),
    ("file,caption\n" + "b" * 999 + ".png,x\n", "names 1 of 1 files that are not there"),
    ("file,caption\n../a.png,x\n", "leads out of the folder"),
    ("file,caption\n/etc/passwd,x\n", "leads out of the folder"),
    ("file,caption\nC:\\a.png,x\n", "leads out of the folder"),
    ("file,caption\nlink.png,x\n", "a link out of the folder" + "|a link that leads out of the folder"),
    ("file,caption\nfolder,x\n", "names 1 of 1 files that are not there"),
    (b"file,caption\na.png,caf\xe9\n", "is not UTF-8 at byte 22"),
    (b"f\0i\0l\0e\0", "holds a zero byte"),
    ("file,caption\na.png," + "x" * 200_000, "cannot be read"),
]
JSONL = [
    ('{"file": "a.png"}', "line 1 has no caption"),
    ('{"file": 3, "caption": "x"}', "line 1 has the file 3"),
    ('\n["a.png"]', "line 2 is .* and not a mapping"),
    ('{"file": "a.png", "caption": "x"}\n{', "line 2 is not JSON"),
    ('{"file": "a.png", "caption": "\\ud800"}', "line 1 has a caption with a character that is none"),
    ("", "names no pictures"),
]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [*(("captions.csv", *each) for each in CSV), *(("captions.jsonl", *each) for each in JSONL)],
)
def test_every_mistake_in_the_list_is_one_sentence(name, content, sentence, tmp_path):
    root = write(tmp_path / "own", ["a.png"])
    (root / "captions.csv").unlink()
    (root / "folder").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=sentence) as caught:
        folder_images(root)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500


def test_the_folder_itself_is_named(tmp_path):
    with pytest.raises(UserError, match=r"There is no folder .*nowhere; set data\.root="):
        folder_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no captions\.csv and no captions\.jsonl"):
        folder_images(tmp_path)
    write(tmp_path, ["a.png"]), write(tmp_path, ["a.png"], form="jsonl")
    with pytest.raises(UserError, match="has both"):
        folder_images(tmp_path)
    (tmp_path / "captions.jsonl").unlink(), (tmp_path / "captions.csv").unlink()
    (tmp_path / "captions.csv").mkdir()
    with pytest.raises(UserError, match=r"captions\.csv cannot be read"):
        folder_images(tmp_path)


def test_a_file_that_is_no_picture_is_named_when_it_is_asked_for(tmp_path):
    root = write(tmp_path, ["a.png", "b.png"])
    (root / "a.png").write_bytes(b"no picture")
    images = folder_images(root, calibration_share=0)
    assert images.picture(image_id("b.png"))
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        images.picture(image_id("a.png"))
    with pytest.raises(UserError, match="has no image 7; it has 2 others"):
        images.picture(7)
