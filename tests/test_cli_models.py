from __future__ import annotations

import json

from edgeface import ModelError, cli, model, zoo
from reference import SHARED, needs_shared


def test_table_has_every_released_file(capsys):
    assert cli.main(["models"]) == 0
    table, about = capsys.readouterr().out.split("\n\n")
    header, *rows = table.splitlines()
    assert [row.split()[0] for row in rows] == [published.file for published in zoo.MODELS]
    assert header.split()[:5] == ["file", "family", "input", "landmarks", "runs"]
    for published, row in zip(zoo.MODELS, rows):
        assert ("not yet" in row) == (published.missing is not None)
        assert published.source in about
        assert published.missing is None or published.missing in about


def test_json_has_what_is_known(capsys):
    assert cli.main(["models", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for values, published in zip(found, zoo.MODELS):
        assert (values["sha256"], values["ap"]) == (published.sha256, published.ap)
        assert values["runs"] == (published.missing is None)
    assert len(found) == len(zoo.MODELS)


@needs_shared
def test_what_it_says_of_released_files_is_true(capsys):
    cli.main(["models", "--json"])
    found = {v["sha256"]: v for v in map(json.loads, capsys.readouterr().out.splitlines())}
    files = [p for p in (SHARED / "weights").glob("*/*") if p.suffix in (".pth", ".onnx")]
    for path in files:
        try:
            data, graph = model.read_graph(path)
        except ModelError as error:
            assert "not supported yet" in str(error)  # noqa: PT017
            continue
        values = found[model.hashlib.sha256(data).hexdigest()]
        assert values["runs"]
        assert values["landmarks"] == (len(graph.outputs) == 3)
        assert tuple(values["size"]) == graph.input_size
    assert files
