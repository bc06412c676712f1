from __future__ import annotations

import json

import pytest

from edgeface import bundled, cli, model, zoo
from reference import SHARED, needs_shared


@pytest.fixture(autouse=True)
def no_bundled_models(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "_FOLDERS", (tmp_path,))


def test_table_has_every_released_file(capsys):
    assert cli.main(["models"]) == 0
    table, note, about = capsys.readouterr().out.split("\n\n")
    header, *rows = table.splitlines()
    assert note == "AP compares where the last column is the same."
    assert [row.split()[0] for row in rows] == [published.file for published in zoo.MODELS]
    assert header.split()[:4] == ["file", "family", "input", "landmarks"]
    assert all(published.source in about for published in zoo.MODELS)
    for row, published in zip(rows, zoo.MODELS):
        assert row.endswith(f"  3,226 images, {published.protocol}")


def test_json_has_what_is_known(capsys):
    assert cli.main(["models", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for values, published in zip(found, zoo.MODELS):
        assert (values["sha256"], values["ap"]) == (published.sha256, published.ap)
        assert (values["ap_images"], values["protocol"]) == (3226, published.protocol)
    assert len(found) == len(zoo.MODELS)


@needs_shared
def test_what_it_says_of_released_files_is_true(capsys):
    cli.main(["models", "--json"])
    found = {v["sha256"]: v for v in map(json.loads, capsys.readouterr().out.splitlines())}
    files = [p for p in (SHARED / "weights").glob("*/*") if p.suffix in (".pth", ".onnx")]
    for path in files:
        opened = model.load(path)
        values = found[model.hashlib.sha256(path.read_bytes()).hexdigest()]
        assert values["landmarks"] == (opened.spec.heads.landmarks is not None)
        assert tuple(values["size"]) == opened.graph.input_size
    assert files
