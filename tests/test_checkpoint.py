"""Checkpoints: official files read without trust, ours with their rule, both strictly."""

import hashlib
import pickle
import resource
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.recorded import loaded, official_state
from model.checkpoint import convert, load_model, save_model
from model.config import VARIANTS, UpdateRule
from model.mixformer import MixFormer
from model.official import CheckpointError, Inert, read_official

OFFICIAL = "mixvit_online"


class TrainingSettings:
    """A class of the writer's own, unknown to the reader, whose unpickling would run code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, (str(self.marker),))


@pytest.fixture(scope="module")
def official_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the layout of a real official checkpoint, objects of foreign classes included."""
    folder = tmp_path_factory.mktemp("official")
    path = folder / "MixFormer_ep0500.pth.tar"
    settings = TrainingSettings(folder / "code_ran")
    state = {
        "epoch": 500,
        "net": official_state(OFFICIAL),
        "optimizer": {"state": {}},
        "stats": [settings],
        "settings": settings,
    }
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ours with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("ours") / "tiny.safetensors"
    rule = UpdateRule(update_interval=20, candidate_threshold=0.7, renew_when_uncertain=False)
    save_model(path, MixFormer(VARIANTS["mixvit_tiny"]).eval(), rule, {"recipe": "none"})
    return path


def test_official_file_loads_and_runs_none_of_its_code(official_file: Path) -> None:
    tensors = read_official(official_file)
    assert len(tensors) == len(loaded_keys())
    assert not (official_file.parent / "code_ran").exists()


def loaded_keys() -> list[str]:
    model = MixFormer(VARIANTS["mixvit_base"])
    return [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]


def test_variant_is_told_from_the_shapes(official_file: Path) -> None:
    assert load_model(official_file).model.config.name == "mixvit_base"
    assert loaded("mixcvt").model.config.name == "mixcvt_base_offline"


def test_official_file_runs_the_originals_rule(official_file: Path) -> None:
    assert load_model(official_file).update_rule == UpdateRule()


def test_legacy_layout_loads_too(tmp_path: Path) -> None:
    path = tmp_path / "legacy.pth.tar"
    torch.save({"net": official_state(OFFICIAL)}, path, _use_new_zipfile_serialization=False)
    assert load_model(path).model.config.name == "mixvit_base"


def test_converted_file_gives_the_same_weights(official_file: Path, tmp_path: Path) -> None:
    destination = tmp_path / "converted.safetensors"
    assert convert(official_file, destination).name == "mixvit_base"
    converted, original = load_model(destination), load_model(official_file)
    pairs = zip(converted.model.state_dict().items(), original.model.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    with safe_open(destination, "pt") as file:
        assert file.metadata()["variant"] == "mixvit_base"


def test_our_file_carries_variant_rule_and_metadata(tiny: Path) -> None:
    file = load_model(tiny)
    assert file.model.config is VARIANTS["mixvit_tiny"]
    assert file.update_rule == UpdateRule(update_interval=20, candidate_threshold=0.7, renew_when_uncertain=False)
    assert file.metadata["recipe"] == "none"
    assert file.sha256 == hashlib.sha256(tiny.read_bytes()).hexdigest()


def test_loading_and_saving_again_keeps_every_weight(tiny: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_model(again, load_model(tiny).model)
    before, after = load_file(tiny), load_file(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_can_be_read_by_others_as_any_file_of_their_writer(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    assert tiny.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_weights_that_find_no_room_leave_the_former_ones(tiny: Path, tmp_path: Path) -> None:
    path, former = tmp_path / "weights.safetensors", tiny.read_bytes()
    path.write_bytes(former)
    model, limits = load_model(tiny).model, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(former) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_model(path, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == former
    assert [*tmp_path.iterdir()] == [path]


def broken(tiny: Path, tmp_path: Path, change: str, value: Tensor | None) -> Path:
    tensors = load_file(tiny)
    if value is None:
        del tensors[change]
    else:
        tensors[change] = value
    path = tmp_path / "broken.safetensors"
    save_file(tensors, path, {"variant": "mixvit_tiny"})
    return path


KEY = "backbone.stages.0.blocks.3.attention.project.qkv.bias"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (KEY, None, f"1 missing for variant mixvit_tiny, first {KEY}"),
        ("backbone.extra", torch.zeros(2), "1 unexpected for variant mixvit_tiny, first backbone.extra"),
        (KEY, torch.zeros(7), rf"{KEY} has shape \[7\], mixvit_tiny needs \[576\]"),
        (KEY, torch.zeros(576, dtype=torch.int32), f"{KEY} holds torch.int32"),
    ],
)
def test_wrong_key_stops_the_load_with_its_name(
    tiny: Path, tmp_path: Path, name: str, value: Tensor | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(broken(tiny, tmp_path, name, value))


def test_unknown_variant_is_refused_with_the_known_ones(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'mixvit_huge'; known are .*mixvit_tiny"):
        load_model(tiny, "mixvit_huge")


def test_wrong_variant_is_refused(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="for variant mixcvt_base"):
        load_model(tiny, "mixcvt_base")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ('{"online_size": 9}', "online_size 9 is outside 1 to 5"),
        ('{"lost_threshold": 7}', "lost_threshold 7 is no float"),
        ('{"lost_threshold": 7.5}', "lost_threshold 7.5 is outside 0 to 1"),
        ('{"lost_threshold": NaN}', "lost_threshold nan is outside 0 to 1"),
        ('{"lost_threshold": "0.3"}', "lost_threshold '0.3' is no float"),
        ('{"lost_threshold": true}', "lost_threshold True is no float"),
        ('{"update_interval": 1.0}', "update_interval 1.0 is no int"),
        ('{"renew_when_uncertain": "no"}', "renew_when_uncertain 'no' is no bool"),
        ('{"pace": 1}', "pace"),
        ("[]", "not usable"),
    ],
)
def test_a_rule_that_makes_no_sense_in_the_metadata_is_refused(tiny: Path, tmp_path: Path, rule: str, reason: str) -> None:
    path = tmp_path / "rule.safetensors"
    save_file(load_file(tiny), path, {"variant": "mixvit_tiny", "update_rule": rule})
    with pytest.raises(CheckpointError, match=reason):
        load_model(path)


def test_files_that_are_no_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such file"):
        load_model(tmp_path / "absent.pth")
    for name, content in (("a.safetensors", b"\x05\0\0\0\0\0\0\0nope!"), ("b.pth", b"nonsense"), ("c.pth", pickle.dumps([1]))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            load_model(tmp_path / name)
    torch.save({"model": 1}, tmp_path / "d.pth")
    with pytest.raises(CheckpointError, match="no state dict under 'net'"):
        load_model(tmp_path / "d.pth")


def test_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("script/constants.pkl", b"")
        archive.writestr("script/data.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_model(path)


def test_truncated_official_file_is_refused(official_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.pth"
    shutil.copyfile(official_file, path)
    with path.open("r+b") as file:
        file.truncate(1_000_000)
    with pytest.raises(CheckpointError, match=r"short\.pth"):
        load_model(path)


class Hidden(OrderedDict[str, object]):
    """Pickled as a plain OrderedDict with attributes in place of its methods."""

    def __reduce__(self) -> tuple[object, ...]:
        return OrderedDict, (), {"items": 1, "get": 2}, None, iter(self.items())


# Each with the words that it is refused with.
HOSTILE = {
    # One object, remembered under the highest number there is.
    "memo": (b"\x80\x02Nr\xff\xff\xff\xff.", "holds no state dict under 'net'"),
    "hidden": (pickle.dumps(Hidden(net=Hidden(a=1))), "entry 'a' of 'net' is no tensor"),
    "name": (pickle.dumps({"net": {"x" * 100_000: 1}}), "entry 'x+' of 'net' is no tensor"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_pickle_written_to_do_harm_is_refused_in_few_words(kind: str, compression: int, tmp_path: Path) -> None:
    content, words = HOSTILE[kind]
    if compression != zipfile.ZIP_STORED:
        words = f"an entry of \\d+ bytes stands for {len(content)}"
    path = tmp_path / "hostile.pth"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
    with pytest.raises(CheckpointError, match=rf"hostile\.pth: {words}$") as caught:
        load_model(path)
    assert len(str(caught.value)) < 1000


def test_an_archive_whose_directory_is_damaged_is_refused(official_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "directory.pth"
    data = official_file.read_bytes()
    at = data.rindex(b"PK\x01\x02")
    path.write_bytes(data[:at] + b"????" + data[at + 4 :])
    with pytest.raises(CheckpointError, match=r"directory\.pth"):
        load_model(path)


def test_inert_takes_anything() -> None:
    thing = Inert(1, two=2)
    thing.append(1)
    thing.extend([1])
    thing["key"] = "value"
    thing.__setstate__({"state": 1})
    assert vars(thing) == {}
