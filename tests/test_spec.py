from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from edgeface import ModelError
from edgeface import spec as specs
from edgeface.spec import ModelSpec

SPEC = dataclasses.replace(
    reference.detector_spec(reference.detector_graph(landmarks=True)),
    sha256="0" * 64,
    licence="MIT",
    training_data="WIDER FACE",
    ap={"easy": 0.9, "medium": 0.85, "hard": 0.6},
)


def values():
    return json.loads(specs.to_json(SPEC))


def changed(path, value):
    """The spec's JSON with one value replaced, or removed where it is `del`."""
    read = values()
    *outer, last = path.split(".")
    part = read
    for key in outer:
        part = part[key]
    if value is del_:
        del part[last]
    else:
        part[last] = value
    return json.dumps(read)


del_ = object()


def test_writing_and_reading_gives_the_same_spec():
    assert specs.from_json(specs.to_json(SPEC)) == SPEC
    without = dataclasses.replace(
        SPEC, heads=dataclasses.replace(SPEC.heads, landmarks=None), sha256=None, ap={}
    )
    assert specs.from_json(specs.to_json(without)) == without


@given(
    mean=st.tuples(*[st.floats(-1e30, 1e30)] * 3),
    variances=st.tuples(*[st.floats(-1e3, 1e3)] * 2),
    name=st.text(),
    clip=st.booleans(),
)
def test_any_numbers_and_names_survive_the_round_trip(mean, variances, name, clip):
    spec = dataclasses.replace(
        SPEC,
        name=name,
        input=dataclasses.replace(SPEC.input, mean=mean, name=name),
        priors=dataclasses.replace(SPEC.priors, variances=variances, clip=clip),
    )
    assert specs.from_json(specs.to_json(spec)) == spec


def test_the_json_has_the_words_of_the_documentation():
    read = values()
    assert set(read) == {f.name for f in dataclasses.fields(ModelSpec)}
    assert read["input"]["resize"] == "stretch"
    assert read["priors"]["grid"] == "cell"
    assert read["heads"]["encoding"] == "offsets"
    assert specs.to_json(SPEC).endswith("}\n")


REQUIRED = [
    *("name", "input", "priors", "heads", "score_threshold", "iou_threshold"),
    *(f"input.{f.name}" for f in dataclasses.fields(specs.InputSpec)),
    *(f"priors.{f.name}" for f in dataclasses.fields(specs.PriorSpec)),
    *(f"heads.{f.name}" for f in dataclasses.fields(specs.HeadSpec) if f.name != "objectness"),
]


@pytest.mark.parametrize("path", REQUIRED)
def test_a_missing_key_is_named(path):
    *outer, last = path.split(".")
    with pytest.raises(ModelError, match=rf"{'.'.join(['spec', *outer])}: missing key '{last}'"):
        specs.from_json(changed(path, del_))


@pytest.mark.parametrize("path", ["sha256", "licence", "training_data", "ap"])
def test_what_does_not_change_the_result_may_be_left_out(path):
    read = specs.from_json(changed(path, del_))
    assert not getattr(read, path)


def test_heads_without_an_objectness_need_not_say_so():
    assert specs.from_json(changed("heads.objectness", del_)).heads.objectness is None


@pytest.mark.parametrize("where", ["", "input.", "priors.", "heads."])
def test_an_unknown_key_is_named(where):
    with pytest.raises(ModelError, match="unknown key 'colour'"):
        specs.from_json(changed(f"{where}colour", 1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", 3),
        ("name", None),
        ("input", [1]),
        ("input", None),
        ("input.width", "320"),
        ("input.width", 320.0),
        ("input.width", True),
        ("input.width", None),
        ("input.channels", 3),
        ("input.mean", 127),
        ("input.mean", [1, 2]),
        ("input.mean", [1, 2, 3, 4]),
        ("input.scale", [1, 2, "3"]),
        ("input.scale", [1, 2, True]),
        ("priors.strides", 8),
        ("priors.strides", [8, 16.5]),
        ("priors.min_sizes", [10, 16]),
        ("priors.min_sizes", [[10, "16"], [32]]),
        ("priors.clip", 1),
        ("priors.clip", "true"),
        ("priors.variances", [0.1]),
        ("heads.scores", None),
        ("heads.landmarks", 5),
        ("score_threshold", "0.7"),
        ("score_threshold", None),
        ("sha256", 5),
        ("ap", [0.9]),
        ("ap", {"easy": "0.9"}),
    ],
)
def test_a_value_of_another_type_is_named(path, value):
    with pytest.raises(ModelError, match=rf"spec\.{path}.*expected"):
        specs.from_json(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("input.width", 0, "input size 0x64 is not positive"),
        ("input.height", -4, "input size 96x-4 is not positive"),
        ("input.channels", "hsv", "input.channels is 'hsv'; expected one of rgb, bgr, gray"),
        ("input.resize", "crop", "input.resize is 'crop'; expected one of stretch, letterbox"),
        ("input.mean", [1.0, 2.0, float("nan")], "input.mean .* must be finite"),
        ("input.scale", [1.0, 2.0, float("inf")], "input.scale .* must be finite"),
        ("priors.strides", [], "strides is empty"),
        ("priors.strides", [8, 0], "strides .* start at 1"),
        # Beyond what the core's int and float hold.
        ("priors.strides", [8, 2**40], "strides"),
        ("input.mean", [1e300, 0.0, 0.0], "input.mean"),
        ("input.scale", [0.0, 0.0, -1e39], "input.scale"),
        ("priors.min_sizes", [[10.0], [1e300]], "min_sizes"),
        ("priors.strides", [8], "2 lists of min_sizes for 1 strides"),
        ("priors.min_sizes", [[10.0], []], "no min_sizes"),
        ("priors.min_sizes", [[10.0], [0.0]], "must be positive"),
        ("priors.min_sizes", [[10.0], [float("nan")]], "must be finite"),
        ("priors.grid", "hexagon", "priors.grid is 'hexagon'; expected one of cell, stride"),
        ("priors.variances", [0.1, float("inf")], "priors.variances .* must be finite"),
        ("heads.encoding", "polar", "heads.encoding is 'polar'"),
        ("heads.activation", "tanh", "heads.activation is 'tanh'"),
        ("score_threshold", 1.5, "score_threshold is 1.5; expected 0 to 1"),
        ("score_threshold", float("nan"), "score_threshold is nan"),
        ("iou_threshold", -0.1, "iou_threshold is -0.1"),
    ],
)
def test_a_value_out_of_range_is_named(path, value, message):
    with pytest.raises(ModelError, match=message):
        specs.from_json(changed(path, value))


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 100_000, "[1]", "null", "3", '"spec"'])
def test_what_is_no_object_is_a_model_error(text):
    with pytest.raises(ModelError, match="spec: "):
        specs.from_json(text)


@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000, f"-{'9' * 400}"])
@pytest.mark.parametrize("path", ["score_threshold", "priors.variances"])
def test_numbers_beyond_any_float_are_a_model_error(path, value):
    value = f"[{value}, 0.2]" if path == "priors.variances" else value
    with pytest.raises(ModelError):
        specs.from_json(changed(path, "HERE").replace('"HERE"', value))


def test_whole_numbers_beyond_what_python_reads_are_a_model_error():
    with pytest.raises(ModelError):
        specs.from_json(changed("input.width", "HERE").replace('"HERE"', "9" * 5000))


@given(st.text())
def test_any_text_is_read_or_a_model_error(text):
    with pytest.raises(ModelError):
        specs.from_json(text)


def test_whole_numbers_are_numbers():
    read = specs.from_json(changed("input.mean", [104, 117, 123]))
    assert read.input.mean == (104.0, 117.0, 123.0)
    assert all(type(value) is float for value in read.input.mean)


def test_the_files_name_is_in_its_errors(tmp_path):
    path = tmp_path / "face.json"
    path.write_text("{}")
    with pytest.raises(ModelError, match=r"face\.json: spec: missing key 'name'"):
        specs.read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match=r"face\.json"):
        specs.read(path)


@pytest.mark.parametrize(("width", "height"), [(96, 64), (97, 65), (320, 240), (1, 1)])
def test_the_number_of_priors_is_that_of_the_priors(width, height):
    priors = reference.priors(
        width, height, strides=SPEC.priors.strides, min_sizes=SPEC.priors.min_sizes
    )
    assert SPEC.priors.count(width, height) == len(priors)


def test_resized_changes_the_input_alone():
    resized = SPEC.resized(320, 240)
    assert (resized.input.width, resized.input.height) == (320, 240)
    assert resized.resized(SPEC.input.width, SPEC.input.height) == SPEC
