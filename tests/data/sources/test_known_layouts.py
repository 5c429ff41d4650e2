"""Layouts of real archives and repositories: what is trained, what is noted, what is a stop.

The left column says where a layout is met; most are those of public data sets, shortened.
"""

import random

import pytest

from image_trees import encoded, left_out, write_tar, write_tree, write_zip
from regraft.data.samples import Entry, Source
from regraft.data.sources.layout import arrange
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.registry import open_source
from regraft.errors import DataError


def files(*folders, count=2):
    """Return images in folders: "train/{rose,tulip}" stands for two folders."""
    return [f"{name}/{n}.jpg" for folder in folders for name in spread(folder)
            for n in range(1, count + 1)]  # fmt: skip


def spread(pattern):
    before, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    inner, _, after = rest.partition("}")
    return [name for each in inner.split(",") for name in spread(before + each + after)]


def found(*names, **options):
    """Return {part: classes}, without the parts where there are none, and the notes."""
    arrangement = arrange(names, "data", **options)
    parts = {}
    for entry in arrangement.entries:
        parts.setdefault(entry.part, set()).add(entry.label)
    parts = {part: "".join(sorted(labels)) if max(map(len, labels)) == 1 else labels
             for part, labels in parts.items()}  # fmt: skip
    return (parts[None] if set(parts) == {None} else parts), arrangement.notes


TRAINED = {
    "one folder for each class": (["{a,b,c}"], "abc"),
    "an archive's folder around them": (["top/{a,b}"], "ab"),
    "several folders around them: raw-img of Animals-10": (["animals/raw-img/{a,b}"], "ab"),
    "data/raw/CLASS": (["data/raw/{a,b}"], "ab"),
    "PetImages": (["archive/PetImages/{Cat,Dog}"], {"Cat", "Dog"}),
    "the same folder twice: Garbage classification": (["Garbage/Garbage/{a,b}"], "ab"),
    "food-101: images/CLASS beside meta files": (["food-101/images/{a,b}"], "ab"),
    "state farm: c0 to c9": (["imgs/{c0,c1,c2,c3}"], {"c0", "c1", "c2", "c3"}),
    "Caltech-256: numbered names, one with a folder": (
        ["256/{001.ak47,056.dog}", "256/056.dog/greg"], {"001.ak47", "056.dog"}),
    "masks that are worn": (["{with_mask,without_mask}"], {"with_mask", "without_mask"}),
    "a mask as a class": (["{mask,no_mask}"], {"mask", "no_mask"}),
    "test results as classes": (["{test_positive,test_negative}"],
                                {"test_positive", "test_negative"}),
    "a train among vehicles": (["{bus,train}"], {"bus", "train"}),
    "valid and invalid": (["{valid,invalid}"], {"valid", "invalid"}),
    "one folder images in each class": (["{a,b}/images"], "ab"),
    "imagenette, ImageFolder": (["imagenette2/{train,val}/{a,b}"], {"train": "ab", "val": "ab"}),
    "cat-and-dog: training_set/training_set": (
        ["training_set/training_set/{a,b}", "test_set/test_set/{a,b}"],
        {"train": "ab", "test": "ab"}),
    "the same, nested on one side only": (
        ["training_set/{a,b}", "test_set/test_set/{a,b}"], {"train": "ab", "test": "ab"}),
    "Intel scenes: seg_train, seg_test and images to predict": (
        ["{seg_train/seg_train,seg_test/seg_test}/{a,b}", "seg_pred/seg_pred"],
        {"train": "ab", "test": "ab"}),
    "a course's data: single_prediction": (
        ["dataset/{training_set,test_set}/{a,b}", "dataset/single_prediction"],
        {"train": "ab", "test": "ab"}),
    "Food-11: training, validation, evaluation": (
        ["{training,validation,evaluation}/{a,b}"], {"train": "ab", "val": "ab", "test": "ab"}),
    "evaluation beside a test part": (
        ["{train,eval,test}/{a,b}"], {"train": "ab", "val": "ab", "test": "ab"}),
    "train and dev": (["{train,dev}/{a,b}"], {"train": "ab", "val": "ab"}),
    "Training Data and Test Data": (["{Training Data,Test Data}/{a,b}"],
                                    {"train": "ab", "test": "ab"}),
    "trainingSet and testSet": (["{trainingSet,testSet}/{a,b}"], {"train": "ab", "test": "ab"}),
    "train_images and val_images": (["{train_images,val_images}/{a,b}"],
                                    {"train": "ab", "val": "ab"}),
    "train2017 and val2017": (["{train2017,val2017}/{a,b}"], {"train": "ab", "val": "ab"}),
    "letters of a sign language": (
        ["{asl_train/asl_train,asl_test/asl_test}/{a,b}"], {"train": "ab", "test": "ab"}),
    "real and fake in parts of a folder": (["real_vs_fake/real-vs-fake/{train,test}/{a,b}"],
                                           {"train": "ab", "test": "ab"}),
    "parts with a folder images in each class: tiny-imagenet": (
        ["{train,val}/{a,b}/images"], {"train": "ab", "val": "ab"}),
    "parts in each class": (["{a,b}/{train,test}"], {"train": "ab", "test": "ab"}),
    "Roboflow: train, valid, test": (["{train,valid,test}/{a,b}"],
                                     {"train": "ab", "val": "ab", "test": "ab"}),
}  # fmt: skip


@pytest.mark.parametrize("layout", TRAINED)
def test_what_is_trained(layout):
    folders, expected = TRAINED[layout]
    assert found(*files(*folders))[0] == expected


NOTED = {
    "patients in classes": (
        ["ill/{p1,p2}", "well/{p3,p4}"],
        "its folders (ill: p1, p2); `group_by='parent'` keeps the images of one folder in"),
    "videos in classes": (
        ["jump/{v_01,v_02}", "run/{v_03,v_04}"], "`group_by='parent'` keeps the images of one"),
    "patients that are counted in each class": (
        ["ill/{1,2,3}", "well/{1,2,3}"],
        "`group_by='1'` keeps the images of all folders of one name (1, 2, 3) in one part"),
    "one person in several classes": (
        ["top/{happy,sad}/{s01,s02}"], "`group_by='1'` keeps the images of all folders of one"),
    "kinds of kinds": (
        ["cat/{siamese,persian}", "dog/{poodle,beagle}"], "its folders (cat: persian, siamese)"),
    "patients in parts": (
        ["train/ill/{p1,p2}", "train/well/{p3,p4}", "test/{ill,well}/p5"],
        "its folders (ill: p1, p2, p5)"),
    "patients of one class only, and images beside them": (
        ["ill", "ill/{p1,p2}", "well"], "its folders (ill: p1, p2)"),
    "images to predict": (
        ["{seg_train,seg_test}/{a,b}", "seg_pred"],
        "seg_pred is left out: its 2 images have no class folders"),
    "only one part folder": (
        ["train/{a,b}"], "train is the only part folder, so it is split like any other data"),
    "a single part folder by another name": (
        ["x/training_set/{a,b}"], "training_set is the only part folder, so it is split like"),
    "two training folders": (
        ["{train,train_images,test}/{a,b}"], "train, train_images are all used as the train part"),
    "parts in each class": (
        ["{a,b}/{train,test}"], "the folders test, train in the class folders are used as parts"),
}  # fmt: skip


@pytest.mark.parametrize("layout", NOTED)
def test_what_is_noted(layout):
    folders, note = NOTED[layout]
    (only,) = found(*files(*folders))[1]
    assert note in only


def test_nothing_is_said_about_plain_folders():
    quiet = ["{a,b}/images", "c", "c/deep/er"]
    assert found(*files("{a,b,c}"))[1] == found(*files(*quiet))[1] == ()


STOPPED = {
    "a cloned repository: Dataset/0 to 9 beside Examples": (
        ["Dataset/{0,1,2,3,4,5,6,7,8,9}", "Examples"],
        "data has folders in Dataset only, and not in Examples",
        ("if the classes are 0, 1, 2, 3, 4 and 5 more, give data/Dataset; `exclude='Examples'` "
         "leaves out what is no class; if the classes are Dataset, Examples, `group_by='parent'` "
         "keeps the images of one folder together, and `group_by='none'` does not"),
    ),
    "a cloned repository with more pictures": (
        ["repo/{docs/img,assets}", "repo/data/{cat,dog}"],
        "data has folders in data only, and not in assets, docs",
        "if the classes are cat, dog, give data/repo/data;",
    ),
    "two folders of a repository hold folders": (
        ["dataset/{cat,dog}", "static/{icons,photos}"],
        "data has folders in dataset, which is no name of a class",
        "give data/dataset;",
    ),
    "parts one folder deeper, beside others": (
        ["Dataset/{train,test}/{a,b}", "Examples"],
        "data holds Dataset, which has the part folders test, train",
        "give data/Dataset;",
    ),
    "MVTec: parts of each object": (
        ["bottle/train/good", "bottle/test/{good,broken}", "cable/train/good",
         "cable/test/{good,bent}"],
        "data holds bottle, which has the part folders test, train",
        "give data/bottle;",
    ),
    "waste: DATASET and a copy of it": (
        ["DATASET/{TRAIN,TEST}/{O,R}", "dataset/DATASET/{TRAIN,TEST}/{O,R}"],
        "data holds DATASET, which has the part folders TEST, TRAIN",
        "give data/DATASET;",
    ),
    "chest X-rays: the part folders and a copy of all": (
        ["chest_xray/{train,test,val}/{a,b}", "chest_xray/chest_xray/{train,test,val}/{a,b}"],
        "chest_xray holds the part folders test, train, val and others beside them: chest_xray",
        "chest_xray has part folders, too: remove it if it is a copy",
    ),
    "part folders and a class folder": (
        ["{train,test}/{a,b}", "cars"],
        "data holds the part folders test, train and others beside them: cars",
        "leave only part folders there, or only class folders",
    ),
    "fruits-360: more test images": (
        ["{Training,Test}/{a,b}", "test-multiple_fruits"],
        "data holds the part folders Test, Training and others beside them: test-multiple_fruits",
        "leave only part folders there",
    ),
    "MNIST as JPEG: a sample of each part": (
        ["{trainingSet,testSet,trainingSample}/{0,1}"],
        "data holds the part folders testSet, trainingSet and others beside them: trainingSample",
        "leave only part folders there",
    ),
    "training folders for each class": (
        ["{train,test}_{cats,dogs}"],
        "data holds the part folders test_cats, train_cats and others beside them: test_dogs",
        "leave only part folders there",
    ),
    "a part folder beside the class folders": (
        ["{a,b}", "test/{a,b}"],
        "data has the folders a, b twice: beside test and in it",
        "put a, b into a folder train;",
    ),
    "brain tumours: the classes and a copy of all": (
        ["{yes,no}", "brain_tumor_dataset/{yes,no}"],
        "data has the folders no, yes twice: beside brain_tumor_dataset and in it",
        "give data/brain_tumor_dataset;",
    ),
    "rock, paper, scissors: the same": (
        ["{rock,paper,scissors}", "rps-cv-images/{rock,paper,scissors}"],
        "data has the folders paper, rock, scissors twice: beside rps-cv-images and in it",
        "give data/rps-cv-images;",
    ),
    "years": (
        ["{2023,2024}/{daisy,rose}", "2024/tulip"],
        "data has folders of the same names in 2023, 2024: daisy, rose",
        "if the classes are daisy, rose, tulip, give data/2024;",
    ),
    "sites": (
        ["site{A,B}/{rose,tulip}"],
        "data has folders of the same names in siteA, siteB: rose, tulip", "give data/siteA;",
    ),
    "sites and patients": (
        ["{north,south}/{ill,well}/{p1,p2}"],
        "data has folders of the same names in north, south: ill, well", "give data/north;",
    ),
    "folds with numbers as classes": (
        ["fold{1,2,3}/{0,1,2}"],
        "data has folders of the same names in fold1, fold2, fold3: 0, 1, 2", "give data/fold1;",
    ),
    "sites with numbers as classes": (
        ["site{A,B}/{0,1,2}"],
        "data has folders of the same names in siteA, siteB: 0, 1, 2", "give data/siteA;",
    ),
    "sites with numbered classes": (
        ["{north,south}/grade{1,2,3,4,5,6,7}"],
        ("data has folders of the same names in north, south: grade1, grade2, grade3, grade4, "
        "grade5 and 2 more"),
        "give data/north;",
    ),
    "patients above the classes: histology": (
        ["{10253,10254}/{0,1}"],
        "data has folders of the same names in 10253, 10254: 0, 1", "give data/10253;",
    ),
    "writers of each digit: NIST": (
        ["{30,31,32,4a}/{hsf_0,hsf_1}"],
        "data has folders of the same names in 30, 31, 32, 4a: hsf_0, hsf_1", "give data/30;",
    ),
    "Office-31: domains with a folder images": (
        ["{amazon,dslr,webcam}/images/{mug,pen}"],
        "data has folders of the same names in amazon, dslr, webcam: mug, pen",
        "give data/amazon/images;",
    ),
    "domains: photo, sketch": (
        ["{photo,sketch}/{dog,house}"],
        "data has folders of the same names in photo, sketch: dog, house", "give data/photo;",
    ),
    "PlantVillage: the same leaves in three ways": (
        ["plantvillage/{color,grayscale,segmented}/{apple,grape}"],
        "data has folders of the same names in color, grayscale, segmented: apple, grape",
        "give data/plantvillage/color;",
    ),
    "an augmented copy of all": (
        ["{original,augmented}/{a,b}"],
        "data has folders of the same names in augmented, original: a, b", "give data/original;",
    ),
    "images/CLASS and segmentations/CLASS: CUB": (
        ["{images,segmentations}/{a,b}"],
        "data has folders of the same names in images, segmentations: a, b", "give data/images;",
    ),
    "masks in each class: COVID-19 radiography": (
        ["{covid,normal}/{images,masks}"],
        "data has folders named masks in class folders: masks, labels or copies",
        "`exclude='masks'` leaves out what is no class; if the classes are covid, normal,",
    ),
    "augmented copies in a class": (
        ["{a,b}", "a/augmented"],
        "data has folders named augmented in class folders: masks, labels or copies",
        "`exclude='augmented'`",
    ),
    "thumbnails in each class": (
        ["{a,b}", "{a,b}/thumbs"],
        "data has folders named thumbs in class folders: masks, labels or copies",
        "`exclude='thumbs'`",
    ),
    "images and masks, without classes": (
        ["{images,masks}"],
        "data holds images, masks, and no class folders, so the labels are unknown",
        "give a table with the columns path and label",
    ),
    "VOC": (
        ["{JPEGImages,SegmentationClass}"],
        "data holds JPEGImages, SegmentationClass, and no class folders, so the labels",
        "give a table",
    ),
    "pieces of one data set: HAM10000": (
        ["HAM10000_images_part_{1,2}"],
        "data holds HAM10000_images_part_1, HAM10000_images_part_2: pieces of data, and no class",
        "give a table with the columns path and label",
    ),
    "lungs and colons: two sets of classes": (
        ["colon_image_sets/{colon_aca,colon_n}", "lung_image_sets/{lung_aca,lung_n}"],
        "data has folders in colon_image_sets, which is no name of a class",
        "give data/colon_image_sets;",
    ),
    "a competition: no classes in either part": (
        ["{train_images,test_images}"],
        "data: train_images holds 2 images and no class folders, so the labels are unknown",
        "put the images of each class into a folder with the class's name, or give a table",
    ),
    "a competition: no classes in the test part": (
        ["train/{a,b}", "test"],
        "data: test holds 2 images and no class folders",
        "; or give train alone: it is divided into parts",
    ),
    "the same in a folder of the same name: ASL": (
        ["asl_train/asl_train/{a,b}", "asl_test/asl_test"],
        "data: asl_test/asl_test holds 2 images and no class folders", "or give asl_train alone",
    ),
    "tiny-imagenet's val/images": (
        ["train/{a,b}/images", "val/images"],
        "data: val/images holds 2 images and no class folders", "or give train alone",
    ),
    "Stanford cars": (
        ["cars_train/cars_train", "cars_test/cars_test"],
        "data: cars_train/cars_train holds 2 images and no class folders", "or give cars_test",
    ),
    "a detector's data: train/images": (
        ["{train,valid}/images"],
        "data: train/images holds 2 images and no class folders", "put the images of each class",
    ),
    "patients of one class only": (
        ["ill/{p1,p2}", "well"],
        "data has folders in ill only, and not in well", "`group_by='parent'` keeps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", STOPPED)
def test_what_is_a_stop(layout):
    folders, message, hint = STOPPED[layout]
    with pytest.raises(DataError) as caught:
        found(*files(*folders))
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


CONTAINERS = {
    "folder": lambda root, names: write_tree(root / "data", names),
    "zip": lambda root, names: write_zip(root / "data.zip", names),
    "tar": lambda root, names: write_tar(root / "data.tgz", names, "w:gz"),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_group_by_says_what_the_folders_are_in_every_container(tmp_path, container):
    names = dict.fromkeys(files("repo/Dataset/{0,1,2}", "repo/Examples"), encoded(1))
    data = CONTAINERS[container](tmp_path, names)
    with pytest.raises(DataError, match="has folders in Dataset only, and not in Exa") as caught:
        open_source(data)
    advice = {"folder": f"give {data}/repo/Dataset"}
    expected = advice.get(container, "unpack it and give the folder repo/Dataset")
    assert caught.value.hint.startswith(f"if the classes are 0, 1, 2, {expected}; ")
    source = open_source(data, SourceOptions(exclude=("Examples",)))
    assert {entry.label for entry in source.entries} == {"0", "1", "2"}
    assert source.notes == ("left out by `exclude='Examples'`: 2 images",)
    assert left_out(source) == {
        f"repo/Examples/{n}.jpg": ("passed over", "excluded") for n in (1, 2)
    }
    both = open_source(data, SourceOptions(classes=("Dataset", "Examples")))
    assert {entry.label for entry in both.entries} == {"Dataset", "Examples"}
    for group_by, groups in (("none", {None}), ("1", {"0", "1", "2", "1.jpg", "2.jpg"})):
        source = open_source(data, SourceOptions(group_by=group_by))
        assert {entry.label for entry in source.entries} == {"Dataset", "Examples"}
        assert {entry.group for entry in source.entries} == groups


def test_masks_beside_their_images_are_noted():
    """Of ultrasound images of breasts: ``benign (1)_mask.png``."""
    names = ["benign/b (1).png", "benign/b (1)_mask.png", "benign/b (1)_mask_1.png",
             "normal/n (1).png", "normal/lonely_mask.png"]  # fmt: skip
    entries = [Entry(name, name.split("/")[0]) for name in names]
    (note,) = open_source(Source("new", "data", entries, lambda _: iter(()))).notes
    assert note == (
        "by name 2 images may be masks of others, such as benign/b (1)_mask.png; they count as "
        "examples, and `exclude='*_mask*'` leaves such out"
    )


WORDS = ["train", "test", "seg_train", "seg_test", "pred", "a", "b", "rose", "images", "masks",
         "1", "2", "p1", "data", "2023", "fold1", "x y"]  # fmt: skip


def arranged(names, settled):
    """Return an arrangement, or its error's message and hint."""
    try:
        return arrange(names, "data", settled=settled)
    except DataError as error:
        return error.message, error.hint


@pytest.mark.parametrize("settled", [False, True])
def test_every_image_is_used_or_recorded_and_order_changes_nothing(settled):
    for seed in range(200):
        draw = random.Random(seed)
        folders = ["/".join(draw.choices(WORDS, k=draw.randint(0, 4))) for _ in range(8)]
        names = sorted({f"{folder}/{draw.randint(0, 3)}.jpg".lstrip("/") for folder in folders})
        one, other = arranged(names, settled), arranged(names[::-1], settled)
        if isinstance(one, tuple):
            assert one == other
        else:
            used = [names[position] for position in one.positions]
            assert sorted([*used, *(entry.path for entry in one.refused)]) == names
            assert (one.entries, one.notes) == (other.entries, other.notes)
