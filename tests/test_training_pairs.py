"""Shards and examples: the split, and that the box of an example is where the target is."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shards import red_box, write_patches, write_shards, write_strung

from model.config import VARIANTS
from model.geometry import Box, CropWindow
from training.augment import Augmentation
from training.clutter import Things
from training.kinds import kind_of
from training.pairs import PairSampler, PairSettings
from training.shards import Record, ShardError, Shards
from training.sources import Sources, Triple
from training.view import Layer, View, render

CONFIG = VARIANTS["mixvit_tiny"]
CLEAN = Augmentation(joint_color=0.0, single_color=0.0, light=0.0, grayscale=0.0, blur=0.0, low_resolution=0.0, noise=0.0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def with_patches(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_patches(tmp_path_factory.mktemp("patches"))


def sampler(shards: Shards, settings: PairSettings, seed: int = 0) -> PairSampler:
    return PairSampler(Sources(shards, shards.training()), CONFIG, settings, seed, total=1000)


def test_no_validation_frame_is_in_the_training_list(shards: Shards) -> None:
    trained = {(record.shard, record.image) for record in shards.training()}
    held_out = {(record.shard, record.image) for record in shards.validation()}
    assert not trained & held_out
    assert trained | held_out == {(record.shard, record.image) for record in shards.records}
    assert {name.split("/")[0] for shard, name in held_out if shard == "davis"} == {"libby"}


def test_single_pictures_are_held_out_by_name_alone() -> None:
    records = [Record("bsds", f"{number:04d}.jpg", 9, 9, (), "", 0, "") for number in range(1000)]
    held_out = [record for record in records if record.is_validation]
    assert 10 <= len(held_out) <= 35
    assert all(replace(record, width=5, boxes=()).is_validation for record in held_out)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"uavdt\.tar"):
        Shards(tmp_path, ["uavdt"])


@pytest.mark.parametrize("entry", ['{"image": "a.jpg"', '{"image": "there.jpg", "mask": "a.jpg"'])
def test_a_picture_that_is_not_in_its_shard_is_named(tmp_path: Path, entry: str) -> None:
    index = (entry + ', "width": 9, "height": 9, "boxes": []}').encode()
    with tarfile.open(tmp_path / "bsds.tar", "w") as tar:
        for name, data in (("index.jsonl", index), ("there.jpg", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(ShardError, match=r"bsds\.tar lacks 1 pictures of its index, a\.jpg"):
        Shards(tmp_path, ["bsds"])


def test_a_box_is_that_of_the_object_without_the_strings_it_hangs_on(tmp_path: Path) -> None:
    strung, other = write_strung(tmp_path / "strung", "kite-surf"), write_strung(tmp_path / "other", "swan")
    assert strung.records[0].boxes == (Box(30, 40, 24, 16),)
    assert np.count_nonzero(strung.mask(strung.records[0])) == 24 * 16
    assert other.records[0].boxes == (Box(30, 0, 130, 56),)
    assert np.count_nonzero(other.mask(other.records[0])) > 24 * 16


@pytest.mark.parametrize("source", ["video", "boxed"])
def test_box_of_an_example_is_where_its_target_is(shards: Shards, source: str) -> None:
    settings = PairSettings(shares={source: 1.0}, augmentation=CLEAN)
    errors = []
    for index in range(60):
        example = sampler(shards, settings).example(index)
        errors.append(np.abs(np.array(red_box(example.search)) - example.box).max())
    # a distractor may be as red as the target and an occluder may hide its edge; what is left is turned by a few degrees
    assert np.quantile(errors, 0.5) < 0.04


@pytest.mark.parametrize("source", ["video", "small"])
def test_template_shows_its_target_in_the_middle_half(with_patches: Shards, source: str) -> None:
    example = sampler(with_patches, PairSettings(shares={source: 1.0}, augmentation=CLEAN)).example(0)
    x1, y1, x2, y2 = red_box(example.templates[0])
    assert (x1 + x2) / 2 == pytest.approx(0.5, abs=0.03)
    assert (y1 + y2) / 2 == pytest.approx(0.5, abs=0.03)
    assert np.sqrt((x2 - x1) * (y2 - y1)) == pytest.approx(1 / CONFIG.template_factor, abs=0.08)


def test_half_of_the_scenes_are_stretched_with_their_boxes(shards: Shards) -> None:
    shapes = {}
    for share in (0.0, 1.0):
        settings = PairSettings(shares={"video": 1.0}, stretched=share, augmentation=CLEAN)
        examples = [sampler(shards, settings).example(index) for index in range(60)]
        errors = [np.abs(np.array(red_box(each.search)) - each.box).max() for each in examples]
        assert np.quantile(errors, 0.5) < 0.04
        boxes = np.array([example.box for example in examples])
        shapes[share] = np.log((boxes[:, 3] - boxes[:, 1]) / (boxes[:, 2] - boxes[:, 0]))
    assert shapes[1.0].std() > shapes[0.0].std() + 0.4
    # all of the scene, so the templates' targets, too
    templates = np.array([red_box(example.templates[0]) for example in examples])
    whole = (templates > 0.05).all(axis=1) & (templates < 0.95).all(axis=1)
    assert whole.sum() > 20
    drawn = np.log((templates[:, 3] - templates[:, 1]) / (templates[:, 2] - templates[:, 0]))
    assert np.median(np.abs(drawn - shapes[1.0])[whole]) < 0.3


def test_small_pictures_are_targets_only_where_the_border_is_away_from_the_object(with_patches: Shards) -> None:
    sources, rng = Sources(with_patches, with_patches.training()), np.random.default_rng(0)
    drawn = [sources.draw("small", rng, gap=0).template for _ in range(40)]
    assert {view.layers[-1].image.tobytes() for view in drawn} == {
        with_patches.image(record).tobytes() for record in with_patches.training()
        if record.shard == "tiny_imagenet" and record.boxes[0].x == 60
    }  # fmt: skip


@pytest.mark.parametrize("source", ["video", "boxed", "small", "region", "pasted"])
def test_target_stays_in_the_search_region(with_patches: Shards, source: str) -> None:
    examples = [sampler(with_patches, PairSettings(shares={source: 1.0})).example(index) for index in range(30)]
    boxes = np.array([example.box for example in examples])
    assert boxes.min() >= 0.0
    assert boxes.max() <= 1.0
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert all(example.visible for example in examples)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centers.std(axis=0).min() > 0.1  # jittered, not always in the middle


def test_another_of_its_kind_is_from_another_video_or_picture(with_patches: Shards) -> None:
    records = with_patches.training()
    things, rng = Things(with_patches, records), np.random.default_rng(0)
    car = next(record for record in records if record.shard == "vehicles")
    others = {with_patches.image(record).tobytes() for record in records if record.shard == "vehicles" and record != car}
    found = [things.like(car, rng) for _ in range(40)]
    assert {thing.image.tobytes() for thing in found if thing is not None} == others
    assert things.like(replace(car, kind="teapot"), rng) is None


def test_a_target_is_no_distractor_of_its_own(tmp_path: Path) -> None:
    with_patches = write_patches(tmp_path)
    records = with_patches.records
    things, rng = Things(with_patches, records), np.random.default_rng(0)
    swan = next(record for record in records if record.sequence == "swan")
    own = [with_patches.image(record) for record in records if record.sequence == "swan"]
    for _ in range(60):
        cut = things.any(swan, rng)
        assert not any(np.array_equal(cut.image, image) for image in own)


def test_what_takes_the_place_of_a_target_hides_it(with_patches: Shards) -> None:
    sources, rng = Sources(with_patches, with_patches.training()), np.random.default_rng(0)
    photo = View((Layer(np.full((200, 200, 3), 90, np.uint8), np.eye(3)),), Box(80, 80, 30, 24))
    target = Triple(photo, photo, photo, with_patches.training()[0])
    for _ in range(20):
        shown = sources.replaced(target, rng)
        covered = render(View(shown.layers[:1], shown.box), CropWindow(80, 80, 24), 24) != 90
        hidden = render(shown, CropWindow(80, 80, 24), 24) != 90
        assert not covered.any()
        assert hidden.any(axis=2).mean() > 0.5


def test_absent_target_has_no_box(shards: Shards) -> None:
    settings = PairSettings(shares={"video": 1.0}, absent=1.0)
    examples = [sampler(shards, settings).example(index) for index in range(10)]
    assert not any(example.visible or example.box.any() for example in examples)


def test_example_depends_on_seed_and_index_alone(shards: Shards) -> None:
    one, same = (sampler(shards, PairSettings()).example(7) for _ in range(2))
    other, reseeded = sampler(shards, PairSettings()).example(8), sampler(shards, PairSettings(), seed=1).example(7)
    assert np.array_equal(one.search, same.search)
    assert np.array_equal(one.templates, same.templates)
    assert not np.array_equal(one.search, other.search)
    assert not np.array_equal(one.search, reseeded.search)


def test_a_crop_may_be_taken_in_quite_other_light(shards: Shards) -> None:
    def spread(light: float) -> float:
        """Of how much brighter the search region's target is than the template's, in steps of the aperture."""
        settings = PairSettings(shares={"video": 1.0}, augmentation=replace(CLEAN, light=light))
        examples = [sampler(shards, settings).example(index) for index in range(30)]
        return float(np.std([np.log2(example.search.max() / example.templates[0].max()) for example in examples]))

    assert spread(0.0) < 0.1
    assert spread(1.0) > 0.5


def test_a_picture_is_of_the_kind_that_its_label_says_or_its_video_or_its_shard() -> None:
    assert kind_of("tiny_imagenet", "", "n01443537") == "n01443537"
    assert kind_of("davis", "parkour", "") == kind_of("davis", "breakdance", "") != ""
    assert kind_of("vehicles", "", "") == kind_of("uavdt", "S0601", "") == kind_of("davis", "drift-chicane", "")
    assert kind_of("bsds", "", "") == ""
