"""What kind of thing a target is: of two of one kind, the tracker must not take one for the other."""

_OF_SHARD = {"vehicles": "car", "uavdt": "car", "road_signs": "road sign"}
_OF_VIDEO = {
    "breakdance": "person", "dance-twirl": "person", "kite-surf": "person", "paragliding-launch": "person", "parkour": "person",
    "car-roundabout": "car", "car-shadow": "car", "drift-chicane": "car", "drift-straight": "car",
    "bmx-trees": "rider", "horsejump-high": "rider", "motocross-jump": "rider", "scooter-black": "rider", "soapbox": "rider",
    "camel": "beast", "cows": "beast", "dog": "beast", "goat": "beast", "libby": "beast",
}  # fmt: skip
_STRUNG = frozenset({"kite-surf", "paragliding-launch"})


def kind_of(shard: str, sequence: str, label: str) -> str:
    """The kind of a picture's objects, from its own label, its video or its shard; "" where nobody knows."""
    return label or _OF_VIDEO.get(sequence, "") or _OF_SHARD.get(shard, "")


def has_strings(sequence: str) -> bool:
    """Whether the masks of a video have the strings of a sail in them: a box around those is background for nine tenths."""
    return sequence in _STRUNG
