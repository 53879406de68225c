"""Sharded folders, single files, and what looking at large ones costs."""

import json
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import REFERENCE
from safetensors.numpy import load_file

BASE = REFERENCE / "base_llama/base"
MEDUSA = ("--mode", "medusa", "--set", "medusa_num_heads=2")
BATCH = {"input_ids": [[5, 17, 99, 3, 3, 42, 8]]}


@pytest.fixture(scope="module")
def whole(convert):
    return convert(BASE, *MEDUSA)


@pytest.fixture(scope="module")
def sharded(convert):
    return convert(BASE, *MEDUSA, "--max-shard-size", "20KB")


def weights(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def same(a, b):
    return sorted(a) == sorted(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_shards_have_the_names_and_index_of_transformers(sharded, whole):
    assert not (sharded / "model.safetensors").exists()
    files = sorted(file.name for file in sharded.glob("*.safetensors"))
    assert len(files) > 2
    assert files == [f"model-{i:05}-of-{len(files):05}.safetensors"
                     for i in range(1, len(files) + 1)]
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    tensors = weights(whole)
    assert same(weights(sharded), tensors)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    for name, file in index["weight_map"].items():
        assert name in load_file(sharded / file)


def test_a_sharded_folder_computes_the_same(forward, sharded, whole):
    assert same(forward(sharded, BATCH, "--train"), forward(whole, BATCH, "--train"))


def test_transformers_loads_a_sharded_folder(sharded):
    import torch
    from transformers import AutoModelForCausalLM

    logits = []
    for folder in (BASE, sharded):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True)
        with torch.no_grad():
            logits.append(model(input_ids=torch.tensor(BATCH["input_ids"])).logits)
    assert torch.equal(*logits)


def test_a_saved_file_is_restored_on_its_base(outrider, forward, whole, tmp_path):
    file, out = tmp_path / "model.outrider", tmp_path / "out"
    outrider("save", whole, "--out", file)
    assert outrider("restore", BASE, file, "--out", out, "--json").json()["modes"] == ["medusa"]
    assert same(weights(out), weights(whole))
    read = [json.loads((f / "outrider_state.json").read_text()) for f in (out, whole)]
    assert read[0] == read[1]
    assert same(forward(out, BATCH, "--train"), forward(whole, BATCH, "--train"))


def test_a_converted_folder_is_restored_too(outrider, whole, sharded, tmp_path):
    outrider("restore", BASE, sharded, "--out", tmp_path / "out", "--max-shard-size", "20KB")
    assert same(weights(tmp_path / "out"), weights(whole))


def test_restoring_refuses_what_does_not_fit(outrider, whole, edited, tmp_path):
    out = tmp_path / "out"
    plain = outrider("restore", BASE, BASE / "model.safetensors", "--out", out, status=3).stderr
    assert "has no 'outrider_state'" in plain
    twice = outrider("restore", whole, whole, "--out", out, status=4).stderr
    assert "already has mode 'medusa'" in twice
    other = edited(whole, "outrider_state.json",
                   lambda state: state["base_model"].update(hidden_size=48))
    text = outrider("restore", BASE, other, "--out", out, status=4).stderr
    assert "hidden_size is 32 in the base's config.json, 48 in the recorded state" in text
    assert list(tmp_path.iterdir()) == []


def test_a_shard_size_that_is_none_is_refused(outrider, tmp_path):
    for size, said in (("0", "shard of 0 bytes"), ("much", "--max-shard-size")):
        text = outrider("convert", BASE, *MEDUSA, "--max-shard-size", size, "--out",
                        tmp_path / "out", status=2).stderr
        assert said in text
    assert list(tmp_path.iterdir()) == []


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_inspecting_twenty_gigabytes_takes_little_memory(program, tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    shutil.copy(BASE / "config.json", folder)
    rows, columns, count = 1 << 14, 1 << 14, 38  # 512 MiB each in bfloat16
    size = 2 * rows * columns
    header = json.dumps({
        f"model.layers.{i}.weight": {"dtype": "BF16", "shape": [rows, columns],
                                     "data_offsets": [i * size, (i + 1) * size]}
        for i in range(count)}).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + count * size)
    done = subprocess.run([sys.executable, "-c", PEAK, program, "inspect", folder],
                          capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 * 1024  # KiB
