"""models/make.py: from a checkpoint to models, specs and cards."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import pytest

from edgeface import FaceDetector, media, model
from edgeface.spec import read
from reference import picture

torch = pytest.importorskip("torch", reason="training needs PyTorch")
pytest.importorskip("cv2", reason="opencv is not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
make = pytest.importorskip("make")

CHANCE = 3  # seeds a network whose random weights find something


def tried():
    from edgeface.train import config

    return config.Config(
        "tried", "slim", (config.Stage((160, 128), 1, 2),), ema=0.0, seed=CHANCE, compile=False
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a run that has learnt nothing."""
    from edgeface.train import checkpoint, config
    from edgeface.train.learner import Learner

    run = tried()
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    learner = Learner(run, torch.device("cpu"))
    state = {"config": config.to_dict(run), "progress": {"step": 1234}, **learner.state_dict()}
    checkpoint.write(path, state)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), 3)


def write_data(folder, count):
    """An archive of edgeface's form, unpacked: pictures with faces where chance wants them."""
    lines = []
    for seed in range(count):
        frame = picture(seed=seed)
        media.write_image(folder / "images" / f"{seed}.png", frame)
        lines.append(
            {
                "image": f"images/{seed}.png",
                "width": frame.shape[1],
                "height": frame.shape[0],
                "boxes": [[10, 10, 40, 40], [60, 20, 12, 14]],
                "ignore": [0, 0],
                "landmarks": [None, None],
            }
        )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "annotations.jsonl").write_text(text)
    return folder


def make_all(checkpoint, pictures, output, *options):
    arguments = ["make.py", str(checkpoint), "tried", "--images", str(pictures / "images")]
    arguments += ["--data", str(pictures), "--teacher", "a teacher", "-o", str(output), *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        return make.main()


@pytest.fixture(scope="module")
def made(checkpoint, pictures, tmp_path_factory):
    output = tmp_path_factory.mktemp("models")
    assert make_all(checkpoint, pictures, output, "--force") == 0
    return output


def test_every_model_has_its_spec_and_its_card(made):
    assert {path.name for path in made.iterdir()} == {
        f"{name}.{suffix}"
        for name in ("tried", "tried-int8")
        for suffix in ("tmfile", "json", "md")
    }
    for name, is_quantized in (("tried", False), ("tried-int8", True)):
        path = made / f"{name}.tmfile"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        spec = read(path.with_suffix(".json"))
        assert (spec.name, spec.sha256, spec.licence) == (name, digest, "MIT")
        assert spec.training_data == make.TRAINING_DATA
        assert set(spec.ap) == {"all"}
        assert model.load(path).graph.is_quantized == is_quantized
        with FaceDetector(path, score_threshold=0.01) as detector:
            assert detector.detect(picture(1)).boxes.shape[1] == 4
        card = path.with_suffix(".md").read_text()
        for text in (f"# {name}", digest, make.TERMS, "a teacher", "1,234 steps", "slim, from"):
            assert text in card
        assert ("- int8: after training" in card) == is_quantized
        assert "| MAFA | 2,000 | mostly masked faces, large |\n" in card
        assert "Learning curves" not in card
        assert f"{spec.ap['all']:.4f}" in card


def test_a_model_is_compared_with_pytorch_on_the_pictures_too(
    checkpoint, pictures, tmp_path, capsys
):
    arguments = argparse.Namespace(images=[pictures / "images"], silence=False)
    make.export_compared(checkpoint, tmp_path / "tried.tmfile", arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["noise", *(f"picture {i}" for i in (1, 2, 3))]
    assert all("differs from PyTorch by" in line for line in lines)


def test_int8_that_loses_more_than_is_allowed_is_not_written(
    checkpoint, pictures, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(make.quantization, "refusal", lambda *_: [])
    monkeypatch.setattr(make, "MOST_LOST_AP", -2)
    output = tmp_path / "models"
    assert make_all(checkpoint, pictures, output) == 1
    assert capsys.readouterr().out.endswith("nothing is written; --force writes it\n")
    assert not output.exists()


def test_int8_that_disagrees_is_refused_with_its_noisiest_layers(
    checkpoint, pictures, tmp_path, monkeypatch
):
    source = tmp_path / "tried.tmfile"
    make.export(checkpoint, source)
    limits = make.quantization.Limits(sqnr_db=200.0)
    monkeypatch.setattr(make.quantization, "Limits", lambda: limits)
    arguments = argparse.Namespace(
        int8=None,
        images=[pictures / "images"],
        samples=1,
        scale_steps=16,
        name="tried",
        force=False,
    )
    with pytest.raises(SystemExit, match=r"disagrees: (?s:.*)noisiest: \w+ '.*' \(.* dB\), "):
        make.in_int8(model.load(source), arguments, tmp_path)


def test_a_card_tells_of_every_run_that_the_model_learnt_in():
    from edgeface.train.config import Config, Distillation, Stage

    first, second = (
        Config(name="tried", network="slim", stages=(Stage(size=size, epochs=1, batch=batch),))
        for size, batch in (((160, 120), 32), ((320, 240), 16))
    )
    second = make.dataclasses.replace(
        second, distillation=Distillation(scores=2.0, features=16.0, mirror=True)
    )
    runs = [
        make.Run(first, {"progress": {"step": 1234}}, "39,488 images"),
        make.Run(second, {"progress": {"step": 56}}),
    ]
    network, one, other, teacher = make.training(runs, "a teacher", "")
    assert network == "network: slim, from random weights"
    assert one.startswith(
        "1,234 steps, 39,488 images, 160x120 with batches of 32 (25% mosaics of 2x2 "
    )
    assert "cropped, half as often in mosaics, 50% mirrored" in one
    assert "; sgd, learning rate 0.01 (cosine)" in one
    assert one.endswith("; beside the labels, its teacher's scores x 1, boxes x 1, features x 0")
    assert other.startswith("56 steps, 320x240 with batches of 16 (")
    assert other.endswith(
        "scores x 2, boxes x 1, features x 16, the mean over an image and its mirror image"
    )
    assert teacher == "teacher: a teacher"


def test_a_card_tells_what_the_model_began_with_and_what_alone_it_learnt():
    from edgeface.train.config import Config, Stage

    stages = (Stage(size=(160, 120), epochs=1, batch=32),)
    config = Config(name="tried", network="rfb", stages=stages, landmarks=True, learns="landm.")
    network, learnt, line = make.training([make.Run(config, {})], "", "other")
    assert network == (
        "network: rfb with five landmarks, from the weights of [other](other.md) as far as they fit"
    )
    assert learnt == "learnt: `landm.*` alone; everything else is as it was"
    assert "teacher" not in line


def test_a_card_tells_how_many_images_a_run_saw(tmp_path):
    from edgeface.train.config import Stage

    sizes = (160, 120), (320, 240)
    log = tmp_path / "log.csv"
    log.write_text("step,size\n600,160x120\n900,160x120\n1234,320x240\n")
    state = {"progress": {"step": 1234}}
    for batches, wanted in (((32,), "39,488 images"), ((32, 16), "about 34,000 images")):
        stages = tuple(Stage(size, 1, batch) for size, batch in zip(sizes, batches))
        config = make.dataclasses.replace(tried(), stages=stages)
        assert make.images_seen(config, state, log) == wanted
    assert make.images_seen(config, state, tmp_path / "none.csv") == ""


def test_a_card_leads_to_the_curves_of_its_network(tmp_path):
    assert make.curves_link(tmp_path / "other-landmarks-int8.tmfile") == []
    (tmp_path / "other-curves.png").touch()
    (link,) = make.curves_link(tmp_path / "other-landmarks-int8.tmfile")
    assert link == "Learning curves of other: [other-curves.png](other-curves.png)."


CARDS = sorted(Path(make.__file__).parent.glob("*.md"))


@pytest.mark.parametrize("card", CARDS, ids=[card.stem for card in CARDS])
def test_what_our_cards_tell_of_training_can_be_kept(card):
    network, *lines = make.former(card)
    assert network.startswith("network: ")
    assert any(" steps, " in line for line in lines)
    assert not any(line.startswith("int8: ") for line in lines)


def test_a_model_that_replaces_its_former_self_keeps_what_that_learnt(made, tmp_path):
    card = made / "tried-int8.md"
    state = {"progress": {"step": 56}}
    config = make.dataclasses.replace(tried(), batch_statistics=False)
    network, first, teacher, then = make.training(
        [make.Run(config, state)], "a teacher", "", make.former(card)
    )
    assert network == "network: slim, from random weights"
    assert first.startswith("1,234 steps, 2,468 images, 160x128")
    assert then.startswith("56 steps, 160x128")
    assert ", BatchNorms by what they had seen before; beside the labels, " in then
    assert teacher == "teacher: a teacher"
    empty = tmp_path / "empty.md"
    empty.write_text("# A model\n")
    with pytest.raises(ValueError, match=r"empty\.md: no card"):
        make.former(empty)


def test_weights_may_be_the_mean_of_what_a_run_began_and_ended_with(checkpoint, tmp_path):
    config, state = make.checkpoint.read(checkpoint)
    began = {key: 3 * value + 1 for key, value in state["state_dict"].items()}
    whole = {**state, "config": make.to_dict(config)}
    other = tmp_path / "other.pt"
    make.checkpoint.write(other, {**whole, "state_dict": began})
    mean = make.mean_of(config, state, other, tmp_path / "mean.pt")
    found = make.checkpoint.read(mean)[1]["state_dict"]
    for key, value in state["state_dict"].items():
        wanted = 2 * value + 0.5 if value.is_floating_point() else value
        torch.testing.assert_close(found[key], wanted)
    make.checkpoint.write(other, {**whole, "state_dict": {"weight": torch.ones(1)}})
    with pytest.raises(ValueError, match=r"other\.pt: of another network"):
        make.mean_of(config, state, other, mean)


def test_a_card_has_every_precision_resize_and_convention(made):
    table = (made / "tried-int8.md").read_text().split("## AP\n")[1].split("##")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == ["precision", "resize", "convention", "all"]
    assert [tuple(row[:3]) for row in rows[2:]] == [
        (kind, resize, convention)
        for kind in ("float32", "int8")
        for resize in ("stretch", "letterbox")
        for convention in ("exact", "toolbox")
    ]
    assert all(0 <= float(row[3]) <= 1 for row in rows[2:])


def test_the_same_checkpoint_gives_the_same_files(made, checkpoint, pictures, tmp_path):
    make_all(checkpoint, pictures, tmp_path, "--force", "--only-int8")
    assert len(list(tmp_path.iterdir())) == 3
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (made / path.name).read_bytes()
