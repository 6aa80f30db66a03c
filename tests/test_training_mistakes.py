"""What the tracker meets on the training videos, and the examples that are made of it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from shards import red_box, write_shards
from test_training_pairs import CLEAN, CONFIG
from torch import Tensor

from model.config import ModelConfig
from model.geometry import Box, CropBox
from model.memory import TemplateMemory
from model.mixformer import Prediction, ignore_mark
from training.calibrate import videos_of
from training.mistakes import FRAMES_OF_OTHERS, Moment, Moments, met
from training.pairs import PairSampler, PairSettings
from training.shards import Shards
from training.sources import Sources


class RedFollower:
    """In the place of a network: it finds what is red, and stays where it is where nothing is."""

    config: ModelConfig = CONFIG
    precision = torch.float32
    device = torch.device("cpu")

    def encode(self, crops: Tensor) -> TemplateMemory:
        return TemplateMemory((), crops.flatten(2)[..., :1].float(), 1)

    def track(self, crops: Tensor, memory: TemplateMemory, mark: Callable[[str], None] = ignore_mark) -> Prediction:
        del memory, mark
        x1, y1, x2, y2 = red_box(crops[0].numpy())
        found = CropBox((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1) if x2 else CropBox(0.5, 0.5, 0.2, 0.2)
        return Prediction(torch.tensor([found]), torch.tensor([0.5]))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("shards"))


def test_it_is_right_along_a_video_and_wrong_where_it_is_cut_to_another(shards: Shards) -> None:
    videos = videos_of(shards.records)
    moments = met(RedFollower(), videos, shards.image)
    along, gone = ([each for each in moments if each.shows is shows] for shows in (True, False))
    # two videos, forwards and backwards, from the second frame on, then what the other one has
    assert len(along) == 2 * sum(len(video) - 1 for video in videos)
    assert len(gone) == 2 * sum(min(FRAMES_OF_OTHERS, len(video)) for video in videos)
    assert all(each.is_right and each.template.sequence == each.searched.sequence for each in along)
    assert all(not each.is_right and each.template.sequence != each.searched.sequence for each in gone)
    assert {each.template.frame for each in along} == {0, 7}


def test_a_moment_is_searched_around_the_box_of_the_frame_before(shards: Shards) -> None:
    video = videos_of(shards.training())[0]
    moments = met(RedFollower(), [video], shards.image)
    assert len(moments) == 2 * (len(video) - 1)
    forwards = moments[: len(video) - 1]
    for moment, before in zip(forwards, video, strict=False):
        assert np.allclose(moment.around, before.boxes[0], atol=1.5)


@pytest.mark.parametrize("shows", [True, False])
def test_an_example_has_the_target_where_it_is_in_the_trackers_crop(shards: Shards, shows: bool) -> None:
    video = videos_of(shards.training())[0]
    before = video[2].boxes[0]
    moment = Moment(video[0], video[5], Box(before.x + 7, before.y - 3, before.width, before.height), shows, is_right=shows)
    sources = Sources(shards, shards.training())
    examples = PairSampler(sources, CONFIG, PairSettings(augmentation=CLEAN), 0, 10, Moments([moment], share=1.0))
    for index in range(4):  # mirrored or not
        example = examples.example(index)
        assert example.visible is shows
        found = red_box(example.search)
        assert example.box.tolist() == pytest.approx(found if shows else [0.0] * 4, abs=0.02)
        assert np.array_equal(*example.templates)
        assert red_box(example.templates[0]) != (0.0, 0.0, 0.0, 0.0)


def test_wrong_moments_are_drawn_as_often_as_right_ones(shards: Shards) -> None:
    record = shards.records[0]
    kinds = [Moment(record, record, record.boxes[0], shows=True, is_right=number > 0) for number in range(10)]
    rng = np.random.default_rng(0)
    drawn = [Moments(kinds, 0.5).draw(rng).is_right for _ in range(400)]
    assert 150 < sum(drawn) < 250
    assert all(Moments(kinds[1:], 0.5).draw(rng).is_right for _ in range(20))


def test_the_share_of_moments_is_what_the_phase_says(shards: Shards) -> None:
    moment = met(RedFollower(), videos_of(shards.training()), shards.image)[0]
    sources = Sources(shards, shards.training())
    settings = PairSettings(shares={"region": 1.0}, augmentation=CLEAN)
    examples = PairSampler(sources, CONFIG, settings, 0, 100, Moments([moment], share=0.5))
    of_moments = [np.array_equal(*examples.example(index).templates) for index in range(60)]
    assert 15 < sum(of_moments) < 45
