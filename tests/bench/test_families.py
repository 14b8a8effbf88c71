"""What is around `intvit.bench.matrix`: the list, the tables, README's marker, and subjects, whose constants vary."""

from typing import Any

import pytest
import torch
from torch import nn

from intvit.bench.matrix import Finding
from intvit.bench.subjects import vary_constants

TIMES = {"median": 5.0, "p10": 4.0, "p90": 6.0, "calls": 70}


def found(**changes: Any) -> dict[str, Any]:
    finding = Finding("timm:vit", True, True, True, True, True, [31.25, 42.0], 87.5, 0.99, 5_700_000, (3, 32, 32))
    finding.seconds = {"quantize": 4.0, "build": 7.0}
    finding.latency = {"intvit": TIMES, "torch-f32": {**TIMES, "median": 20.0}, "ratio": {"value": 4.0}}
    finding.memory = {"module": 7_000_000, "process": 900_000_000}
    for name, value in changes.items():
        setattr(finding, name, value)
    machine = {"cpu": "C", "family": "1", "virtual": False, "cores": 2, "memory_gib": 8, "flags": [], "system": "S"}
    return {**finding.to_json(), "family": "ViT", "machine": {**machine, "python": "3", "versions": {}}}


def test_what_passes() -> None:
    assert found()["passed"]
    assert not found(sqnr=[19.9, 42.0])["passed"] and not found(sqnr=[])["passed"]
    assert not found(onnx_exact=None)["passed"] and not found(reasons={"export": "no"})["passed"]


def test_a_finding_is_read_again() -> None:
    assert {**found(), **Finding.of_json(found()).to_json()} == found()


def test_tables(script: Any) -> None:
    failed = found(model="hf:swin", onnx_exact=False, reasons={"export": "two\nlines"}, latency=None, agreement=None)
    text = script("family_table").markdown([found(), failed])
    assert "Everything holds for 1 of 2." in text
    assert (
        "| ViT | vit | timm | yes | yes | yes | yes | 31.2 dB | 88 % | 5.00 | 4.00 | 20.00 | 3x32x32 | 5.7 M |" in text
    )
    assert "| swin | hf | yes | yes | yes | **no** | 31.2 dB |  |  |  |" in text
    assert "- hf:swin, export: two lines" in text


def test_the_table_of_readme_is_replaced(script: Any) -> None:
    inserted = script("family_table").inserted
    once = inserted("before\n<!-- families -->\n\nafter\n", [found()])
    assert once.startswith("before\n<!-- families -->\n| model |") and once.endswith("|\n\nafter\n")
    assert inserted(once, [found()]) == once
    with pytest.raises(ValueError, match="no line"):
        inserted("no place", [])


def test_the_list_names_each_model_once(script: Any) -> None:
    entries = script("family_list").FAMILIES
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names) >= 40
    assert {name.partition(":")[0] for name in names} == {"timm", "torchvision", "transformers"}
    assert script("family_list").entry_of("timm:other").options == {}


def test_constants_vary_and_random_values_stay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    weight = module[0].weight.clone()
    vary_constants(module)
    assert torch.equal(module[0].weight, weight)
    assert all(parameter.unique().numel() == parameter.numel() for parameter in module[1].parameters())
    assert torch.equal(module[1].running_mean, torch.zeros(4))
