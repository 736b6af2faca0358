"""What the levels of a folder mean: the one possible meaning, or a question with all of them."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivero.data.folder_layout import FolderLayout, folder_layout
from vivero.data.folder_metadata import Description, FolderMetadata
from vivero.errors import DataError

PETS = ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/4.png")


def placed(names: tuple[str, ...], **options: object) -> dict[str, tuple[str, str | None]]:
    """Split and class of each file that has a place."""
    layout = layout_of(names, **options)
    return {
        file.key: (file.split, None if file.label is None else layout.class_names[file.label])
        for file in layout.files
        if file.problem is None
    }


def layout_of(names: tuple[str, ...], **options: object) -> FolderLayout:
    metadata = options.pop("metadata", FolderMetadata())
    return folder_layout(names, metadata, **options)  # type: ignore[arg-type]


PETS_PLACED = {name: (name.split("/")[0], name.split("/")[1]) for name in PETS}


@pytest.mark.parametrize(
    "stray",
    [
        "preview.png",
        "LICENSE",
        "README",
        "README.md",
        "labels.txt",
        "notes/how.txt",
        "preview.HEIC",
        "train/cover.png",
        "docs/deep/er/page.html",
    ],
)
@pytest.mark.parametrize("wrapper", ["", "archive/", "a/b/"])
def test_stray_files_never_change_what_the_folders_mean(stray: str, wrapper: str):
    names = tuple(wrapper + name for name in PETS)
    for place in {wrapper} if "train/" in stray else {"", wrapper}:
        found = placed((*names, place + stray))
        taken = {key: value for key, value in found.items() if key in names}
        assert taken == {wrapper + key: value for key, value in PETS_PLACED.items()}
        assert found.get(place + stray, ("train", None)) == ("train", None)


def test_a_stray_image_is_refused_with_its_reason():
    layout = layout_of((*PETS, "preview.png", "train/cover.png"))
    assert {row.path: row.reason for row in layout.refused} == {
        "preview.png": "outside_splits",
        "train/cover.png": "no_label",
    }


def test_a_file_without_extension_is_not_trained_on_even_if_it_is_an_image():
    [problem] = [file.problem for file in layout_of((*PETS, "cover")).files if file.key == "cover"]
    assert problem
    assert problem[0] == "outside_splits"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((*PETS, "unlabeled/5.png"), ["unlabeled/", "--layout splits", "--layout classes"]),
        ((*PETS, "train_masks/5.png"), ["train_masks/", "train = train/"]),
        (("cat/1.png", "dog/2.png", "test/3.png"), ["test/", "--layout classes"]),
        (("cat/train/1.png", "cat/test/2.png", "dog/train/3.png"), ["cat/train/", "inside"]),
        (
            ("train2017/1.png", "val2017/2.png", "test2017/3.png", "unlabeled2017/4.png"),
            ["train = train2017/", "left out: 'unlabeled2017/'"],
        ),
        (("seg_train/a/1.png", "seg_test/a/2.png", "seg_pred/3.png"), ["test = seg_test/"]),
        (("train_images/1.png", "test_images/2.png", "masks/3.png"), ["train = train_images/"]),
        (("cats_train/1.png", "cats_test/2.png", "samples/3.png"), ["train = cats_train/"]),
        (("trainset/1.png", "testset/2.png"), ["train = trainset/"]),
        (("trainset/1.png", "testset/2.png", "unlabeled/3.png"), ["test = testset/"]),
        (("trainset/1.png", "other/3.png"), ["train = trainset/"]),
        (
            ("trainA/1.png", "trainB/2.png", "testA/3.png", "testB/4.png"),
            ["train = trainA/, trainB/", "test = testA/, testB/"],
        ),
        (("TrainImages/1.png", "TestImages/2.png"), ["train = TrainImages/"]),
        (("cat/train2017/1.png", "cat/test2017/2.png", "dog/3.png"), ["cat/train2017/"]),
        (("test2017/cat/1.png", "test2017/dog/2.png"), ["test2017/ mention splits"]),
        (("one/train/cat/1.png", "two/train/cat/2.png"), ["one/train/"]),
        (("train2017/1.png", "val2017/2.png"), ["train2017/", "mention splits"]),
        (("cars_train/1.png", "cars_test/2.png"), ["train = cars_train/"]),
        (("Train Set/a/1.png", "Test Set/a/2.png"), ["train = Train Set/"]),
        (("test/cat/1.png", "test/dog/2.png"), ["no images for training"]),
        (("val/cat/1.png", "test/dog/2.png"), ["no images for training"]),
        (("train/a/1.png", "train/b/2.png", "1.png", "2.png"), ["outside the splits"]),
        (("train/a/1.png", "train/b/2.png", "test/1.png"), ["1 of 1 images of test"]),
        (("a/1.png", "b/2.png", "1.png", "2.png"), ["beside the folders"]),
        (("train/a/test/1.png", "train/b/2.png"), ["train/a/test/"]),
        (("train/test/1.png", "train/b/2.png"), ["train/test/"]),
        (("1.png", "x/train/a/2.png", "x/other/b/3.png"), ["other/"]),
    ],
)
def test_what_can_mean_several_things_is_asked(names: tuple[str, ...], words: list[str]):
    with pytest.raises(DataError) as caught:
        layout_of(names)
    message = str(caught.value)
    for word in ["cannot tell what the folders mean", "--layout", "--ignore", *words]:
        assert word in message, message


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("1.png", "2.png"), {"1.png": ("train", None), "2.png": ("train", None)}),
        (("TRAIN/a/1.png", "Val/b/2.png"), {
            "TRAIN/a/1.png": ("train", "a"), "Val/b/2.png": ("validation", "b")}),
        (("train/a/1.png", "train/b/2.png"), {
            "train/a/1.png": ("train", "a"), "train/b/2.png": ("train", "b")}),
        (("train/a/1.png", "dev/a/2.png", "eval/b/3.png"), {
            "train/a/1.png": ("train", "a"), "dev/a/2.png": ("validation", "a"),
            "eval/b/3.png": ("test", "b")}),
        (("train/images/a/1.png", "train/images/b/2.png", "test/images/a/3.png"), {
            "train/images/a/1.png": ("train", "a"), "train/images/b/2.png": ("train", "b"),
            "test/images/a/3.png": ("test", "a")}),
        (("train/train/a/1.png", "train/train/b/2.png", "test/test/a/3.png"), {
            "train/train/a/1.png": ("train", "a"), "train/train/b/2.png": ("train", "b"),
            "test/test/a/3.png": ("test", "a")}),
        (("train_station/1.png", "airport/2.png"), {
            "train_station/1.png": ("train", "train_station"),
            "airport/2.png": ("train", "airport")}),
        (("pets/cat/1.png", "pets/dog/2.png", "cover.png"), {
            "pets/cat/1.png": ("train", "cat"), "pets/dog/2.png": ("train", "dog")}),
        (("1.png", "2.png", "sub/3.png"), {
            "1.png": ("train", None), "2.png": ("train", None), "sub/3.png": ("train", None)}),
        (("0/a", "0/b", "1/c", "LICENSE.txt"), {
            "0/a": ("train", "0"), "0/b": ("train", "0"), "1/c": ("train", "1")}),
    ],
)  # fmt: skip
def test_what_means_one_thing_is_understood(names: tuple[str, ...], expected: dict):
    assert placed(names) == expected


@pytest.mark.parametrize(
    "name",
    ["testudo", "trainer", "valley", "Testament", "contest", "crash_test", "bullet_train",
     "validator", "trainers2", "devil", "dataset2", "evaluator"],
)  # fmt: skip
def test_a_class_whose_name_only_resembles_a_split_asks_nothing(name: str):
    names = (f"{name}/1.png", "cat/2.png", "dog/3.png")
    assert layout_of(names).class_names == tuple(sorted([name, "cat", "dog"], key=str))
    assert layout_of((f"train/{name}/1.png", "train/cat/2.png")).class_names == tuple(
        sorted([name, "cat"])
    )


@pytest.mark.parametrize("known", ["cat", "dog"])
def test_images_that_join_from_numbered_splits_are_asked_about(known: str):
    with pytest.raises(DataError, match="train2017/, val2017/ mention splits"):
        layout_of(
            (f"train2017/{known}/1.png", f"val2017/{known}/2.png"), known_names=["cat", "dog"]
        )
    names = ("monday/test2017/cat/1.png", "tuesday/dog/2.png")
    with pytest.raises(DataError, match="monday/test2017/"):
        layout_of(names, known_names=["cat", "dog"])


def test_only_a_choice_with_training_images_is_offered_and_taken():
    names = ("cat/1.png", "dog/2.png", "test/3.png")
    with pytest.raises(DataError) as caught:
        layout_of(names)
    assert "--layout splits" not in str(caught.value)
    with pytest.raises(DataError, match="no images for training; test/"):
        layout_of(names, asked="splits")


@pytest.mark.parametrize("inner", ["train/cat", "trainA"])
def test_no_layout_that_mixes_splits_is_offered(inner: str):
    test = inner.replace("train", "test")
    with pytest.raises(DataError) as caught:
        layout_of((f"dset/{inner}/1.png", f"dset/{test}/2.png", "figures/3.png"))
    message = str(caught.value)
    assert "--layout classes" not in message
    assert "--layout flat" not in message
    assert "--ignore 'figures'" in message


@pytest.mark.parametrize("splits", [("train", "test"), ("train",), ("train", "val", "test")])
@pytest.mark.parametrize("around", ["images", "a/b", ""])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_stray_image_at_any_level_below_a_split_changes_no_class(
    splits: tuple[str, ...], around: str, seed: int
):
    levels = [part for part in around.split("/") if part]
    names = [
        "/".join([split, *levels, kind, f"{number}.png"])
        for split in splits
        for kind in ("cat", "dog")
        for number in range(2)
    ]
    before = placed(tuple(names))
    assert {label for _, label in before.values()} == {"cat", "dog"}
    for depth in range(len(levels) + 1):
        stray = "/".join([splits[seed % len(splits)], *levels[:depth], "preview.png"])
        layout = layout_of((*names, stray))
        assert placed((*names, stray)) == before
        assert [(row.path, row.reason) for row in layout.refused] == [(stray, "no_label")]


UNCLEAR = ("train/cat/1.png", "test/cat/2.png", "train/dog/3.png", "unlabeled/4.png", "p.png")


def test_the_chosen_layout_is_taken():
    assert placed(UNCLEAR, asked="splits") == {
        "train/cat/1.png": ("train", "cat"),
        "test/cat/2.png": ("test", "cat"),
        "train/dog/3.png": ("train", "dog"),
    }
    assert set(placed(UNCLEAR, asked="classes").values()) == {
        ("train", "train"),
        ("train", "test"),
        ("train", "unlabeled"),
    }
    assert set(placed(UNCLEAR, asked="flat").values()) == {("train", None)}
    assert placed(("cars_train/1.png", "cars_test/2.png"), asked="splits") == {
        "cars_train/1.png": ("train", None),
        "cars_test/2.png": ("test", None),
    }


def test_a_layout_that_is_not_there_is_refused():
    with pytest.raises(DataError, match=r"needs folders such as train/ and test/; there are cat/"):
        layout_of(("cat/1.png", "dog/2.png"), asked="splits")


def test_images_that_join_classes_are_asked_about_too():
    known = ["cat", "dog"]
    assert placed((*PETS, "preview.png"), known_names=known) == PETS_PLACED
    with pytest.raises(DataError, match="unlabeled/"):
        layout_of((*PETS, "unlabeled/5.png"), known_names=known)
    with pytest.raises(DataError, match="monday/test/"):
        layout_of(("monday/test/cat/1.png", "tuesday/dog/2.png"), known_names=known)
    assert placed(("test/1.png", "cat/2.png"), known_names=["cat", "test"]) == {
        "test/1.png": ("train", "test"),
        "cat/2.png": ("train", "cat"),
    }


def test_both_unicode_forms_are_one_class():
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    names = (f"train/{nfc}/1.png", f"test/{nfd}/2.png", "train/tea/3.png")
    assert layout_of(names).class_names == ("café", "tea")
    assert set(placed((f"{nfd}/1.png",), known_names=[nfc, "tea"]).values()) == {("train", nfc)}
    assert set(placed((f"{nfc}/1.png",), known_names=[nfd, "tea"]).values()) == {("train", nfd)}


def test_metadata_leaves_splits_to_the_folders():
    names = ("train/1.png", "test/2.png", "extra/3.png")
    metadata = FolderMetadata({name: Description("a", None) for name in names}, {"."})
    with pytest.raises(DataError, match="extra/"):
        layout_of(names, metadata=metadata)
    assert placed(names, metadata=metadata, asked="splits") == {
        "train/1.png": ("train", "a"),
        "test/2.png": ("test", "a"),
    }


FOLDERS = st.sampled_from(["train", "test", "val", "cat", "dog", "extra", "Train2"])


@given(
    paths=st.sets(
        st.lists(FOLDERS, max_size=3).map(lambda parts: "/".join([*parts, "1.png"])), max_size=6
    ),
    strays=st.sets(st.sampled_from(["LICENSE", "a.txt", "x/notes.md", "train/readme.txt"])),
)
def test_no_image_below_a_test_folder_is_ever_trained_on_unasked(paths: set, strays: set):
    names = tuple(sorted(paths | strays))
    try:
        found = placed(names)
    except DataError as error:
        assert "cannot tell what the folders mean" in str(error)  # noqa: PT017
        return
    for key, (split, _) in found.items():
        if key in paths and "test" in key.split("/")[:-1]:
            assert split == "test", key
    without = placed(tuple(sorted(paths)))
    assert {key: value for key, value in found.items() if key in paths} == without


KINDS = st.lists(st.sampled_from(["cat", "dog", "bird"]), min_size=2, max_size=3, unique=True)


@given(
    splits=st.sampled_from([("train",), ("train", "test"), ("Train", "val", "test")]),
    levels=st.lists(st.sampled_from(["images", "a", "crops"]), max_size=3),
    kinds=KINDS,
    places=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=3),
)
def test_strays_at_each_level_below_a_split_change_nothing(
    splits: tuple[str, ...], levels: list[str], kinds: list[str], places: set[tuple[int, int]]
):
    names = tuple(
        "/".join([split, *levels, kind, f"{number}.png"])
        for split in splits
        for kind in kinds
        for number in range(4)
    )
    strays = {
        "/".join([splits[split % len(splits)], *levels[: min(depth, len(levels))], f"p{depth}.png"])
        for split, depth in places
    }
    found = placed((*names, *sorted(strays)))
    assert found == placed(names)
    assert {label for _, label in found.values()} == set(kinds)


def test_metadata_without_a_label_column_leaves_classes_to_the_folders():
    names = ("cat/1.png", "dog/2.png")
    metadata = FolderMetadata({name: Description(None, "a", False) for name in names}, {"."})
    assert layout_of(names, metadata=metadata).class_names == ("cat", "dog")
    labelled = FolderMetadata({name: Description(None, "a") for name in names}, {"."})
    assert layout_of(names, metadata=labelled).class_names == ()
