"""outrider data inspect, on token shards and on conversations."""

import hashlib
import json
import os
import pty
import subprocess

import numpy as np
import pytest
from conversation_data import chat, conversations
from safetensors.numpy import load_file, save_file

RECORDS = [chat("Hi", "Hello"), chat("1+1?", "2", "And 2+2?", "4\nor so"),
           chat("Say it in Japanese", "日本 🎉"), chat("Hi", "Hello there, how are you?")]


def figures(masks):
    """What the report says of masks, computed another way."""
    lengths = sorted(len(mask) for mask in masks)
    shares = sorted(int(mask.sum()) / len(mask) for mask in masks)
    trained = sum(int(mask.sum()) for mask in masks)
    at = lambda values, q: values[int(np.ceil(q * len(values))) - 1]
    return {
        "conversations": len(masks), "tokens": sum(lengths), "trained_tokens": trained,
        "without_trained_token": sum(not mask.any() for mask in masks),
        "with_every_token_trained": 0,
        "length": {"min": lengths[0], "median": at(lengths, 0.5),
                   "mean": pytest.approx(np.mean(lengths)), "p90": at(lengths, 0.9),
                   "max": lengths[-1]},
        "trained_share": {"all": pytest.approx(trained / sum(lengths)),
                          "min": pytest.approx(shares[0]), "median": pytest.approx(at(shares, 0.5)),
                          "max": pytest.approx(shares[-1])}}


def test_the_figures_of_shards(outrider, shards):
    found = outrider("data", "inspect", shards / "held_out", "--json").json()
    masks = [mask for _, mask in conversations(shards / "held_out")]
    assert {k: v for k, v in found.items() if k not in ("histogram", "shown", "noted")} == figures(
        masks)
    assert found["shown"] == []
    for bucket in found["histogram"]:
        assert bucket["to"] == 2 * bucket["from"] - 1
        assert bucket["count"] == sum(bucket["from"] <= len(m) <= bucket["to"] for m in masks)
    assert sum(bucket["count"] for bucket in found["histogram"]) == len(masks)


def test_conversations_are_inspected_like_their_shards(outrider, model, prepare, tmp_path):
    shards = prepare(*RECORDS)
    of_shards = outrider("data", "inspect", shards, "--model", model, "--json").json()
    of_chats = outrider("data", "inspect", tmp_path / "chats.jsonl", "--model", model,
                        "--json").json()
    assert of_chats.pop("invalid") == 0
    assert [c.pop("where") for c in of_shards["shown"]] == [f"conversation {i}" for i in range(3)]
    assert [c.pop("where") for c in of_chats["shown"]] == [
        f"{tmp_path}/chats.jsonl:{i + 1}" for i in range(3)]
    assert of_chats == of_shards


def test_the_trained_text_is_marked(outrider, model, prepare):
    shards = prepare(*RECORDS)
    command = ["data", "inspect", shards, "--model", model, "--show", 2, "--from", 1]
    text = outrider(*command).stdout
    assert ("--- conversation 1: 7 of 58 tokens trained on, marked ⟦so⟧ ---\n"
            "<|im_start|>system\n") in text
    assert ("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦2<|im_end|>⟧\n"
            "<|im_start|>user\nAnd 2+2?<|im_end|>\n<|im_start|>assistant\n"
            "⟦4\nor so<|im_end|>⟧\n") in text
    assert "<|im_start|>assistant\n⟦日本 🎉<|im_end|>⟧\n" in text
    assert text.count("--- conversation") == 2
    [shown, _] = outrider(*command, "--json").json()["shown"]
    assert [piece["text"] for piece in shown["segments"] if piece["trained"]] == [
        "2<|im_end|>", "4\nor so<|im_end|>"]


def test_the_report_for_people(outrider, prepare):
    text = outrider("data", "inspect", prepare(*RECORDS[:1], *RECORDS[:1])).stdout
    assert text == """\
2 conversations, 68 tokens, 4 of them (5.9%) trained on
without a trained token: 0; with every token trained: 0

each conversation  min   median  mean  p90  max
tokens             34    34      34.0  34   34
share trained on   5.9%  5.9%               5.9%

tokens  conversations
32-63   2       ########################################
"""


def on_terminal(*command):
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(list(map(str, command)), stdout=theirs, stderr=subprocess.DEVNULL,
                               env={**os.environ, "TERM": "xterm", "NO_COLOR": ""})
    os.close(theirs)
    text = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        text += piece
    os.close(ours)
    assert process.wait(timeout=600) == 0
    return text.decode()


def test_terminals_show_colour_and_no_control_characters_of_the_data(program, model, prepare):
    text = on_terminal(program, "data", "inspect", prepare(chat("a\x1b[2Jb", "red\x07")),
                       "--model", model)
    assert "\033[4;32mred\\x07<|im_end|>\033[0m" in text
    assert "a\\x1b[2Jb" in text and "⟦" not in text and "\x07" not in text


def test_conversations_without_a_trained_token_are_counted(outrider, model, jsonl):
    chats = jsonl(RECORDS[0], {"messages": [{"role": "user", "content": "Hi"}]}, "{")
    done = outrider("data", "inspect", chats, "--model", model, "--skip-invalid")
    assert ("without a trained token: 1 (data prepare leaves them out); with every token trained: "
            "0") in done.stdout
    assert f"{chats}:3: not JSON" in done.stderr
    text = outrider("data", "inspect", chats, "--model", model, status=4).stderr
    assert f"{chats}:3: not JSON" in text


def test_nothing_to_train_on_is_an_error(outrider, model, jsonl):
    done = outrider("data", "inspect", jsonl({"messages": [{"role": "user", "content": "Hi"}]}),
                    "--model", model, status=4)
    assert "no token would be trained on" in done.stderr and done.stdout == ""


def edit(shards, change):
    """Changes the tensors of the only shard as its author would have, SHA-256 included."""
    file = shards / "shard-00000.safetensors"
    content = load_file(file)
    change(content)
    save_file(content, file)
    description = json.loads((shards / "shards.json").read_text())
    description["shards"][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (shards / "shards.json").write_text(json.dumps(description))


def test_shards_with_masks_of_nothing_but_ones_or_zeros_are_refused(outrider, prepare):
    shards = prepare(*RECORDS)
    edit(shards, lambda content: content["loss_mask"][content["offsets"][2]:].fill(1))
    done = outrider("data", "inspect", shards, status=4)
    assert (f"{shards}: every token of 2 of 4 conversations is trained on, the prompts too: "
            "conversation 2, 3 (counted from 0)") in done.stderr
    assert done.stdout == ""
    edit(shards, lambda content: content["loss_mask"].fill(0))
    assert f"{shards}: no token is trained on" in outrider("data", "inspect", shards,
                                                           status=4).stderr


def test_shards_that_were_edited_are_refused(outrider, prepare):
    shards = prepare(*RECORDS)
    file = shards / "shard-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    text = outrider("data", "inspect", shards, status=3).stderr
    assert f"{file}: was changed after it was written: its SHA-256 is " in text


def test_unclear_requests_are_refused(outrider, model, jsonl, prepare):
    shards, chats = prepare(RECORDS[0]), jsonl(RECORDS[0])
    text = outrider("data", "inspect", chats, status=2).stderr
    assert "conversations need --model" in text
    text = outrider("data", "inspect", shards, chats, "--model", model, status=2).stderr
    assert "one folder of token shards at a time" in text
    text = outrider("data", "inspect", chats.parent / "no.jsonl", "--model", model, status=3).stderr
    assert "no.jsonl: no such file" in text
