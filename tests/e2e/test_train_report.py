"""report.html: one page that says everything about a run and needs nothing from elsewhere."""

import hashlib
import html
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from outrider.text import show
from runs import metrics
from safetensors.torch import load_file
from tokenizers import Tokenizer

VOID = {"meta", "br", "link", "img", "input", "hr", "path", "circle"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps them with their attributes and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.words.append(text)

    @property
    def text(self):
        return "".join(self.words)


def read(run):
    return Page((run / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(long_run):
    return read(long_run[0])


def test_a_report_needs_nothing_from_elsewhere(report, long_run):
    assert not {tag for tag, _ in report.tags} & {"script", "img", "link", "iframe", "object", "a"}
    for _, attributes in report.tags:
        assert not {"src", "href", "xlink:href", "srcset", "data"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    text = (long_run[0] / "report.html").read_text()
    assert "url(" not in text and "@import" not in text and "http:" not in text
    [policy] = [a for tag, a in report.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_curve_is_drawn_inside_its_frame(long_run):
    text = (long_run[0] / "report.html").read_text()
    charts = re.findall(r'<svg class="chart".*?</svg>', text, re.S)
    titles = [re.search('aria-label="([^"]*)"', chart)[1] for chart in charts]
    assert titles == ["Draft loss", "Acceptance length", "Accuracy of eagle, training",
                      "Accuracy of eagle, held out", "Learning rate", "Gradient norm",
                      "Throughput", "Memory of the process"]
    for chart in charts:
        svg = ElementTree.fromstring(chart)
        _, _, width, height = map(float, svg.get("viewBox").split())
        for circle in svg.iter("circle"):
            assert 0 <= float(circle.get("cx")) <= width and 0 <= float(circle.get("cy")) <= height
        for label in svg.iter("text"):
            assert 0 <= float(label.get("x")) <= width and 0 <= float(label.get("y")) <= height
        assert [label.text for label in svg.iter("text")][-1] == "optimizer step"


def test_curves_show_the_numbers_of_the_metrics(long_run):
    text = (long_run[0] / "report.html").read_text()
    for line in metrics(long_run[0]):
        name, drafts = (("held out", line["eval"]["drafts"]) if "eval" in line
                        else ("training", line["drafts"]))
        loss = drafts[0]["loss"]
        assert f"<title>{name}, step {line['step']}: {loss:.4g} nats" in text


def test_a_report_holds_results_configuration_and_provenance(report, long_run, eagle, shards,
                                                             program):
    run, summary = long_run
    assert summary["report"] == str(run / "report.html")
    held_out = summary["eval"]["drafts"][0]
    for step in held_out["steps"]:
        assert ("span", {"title": step["name"]}) in report.tags and f"{step['loss']:.4f}" in report.text
    assert f"{held_out['expected_acceptance_length']:.2f}" in report.text
    assert "Finished." in report.text and f"Training of {eagle()}" in report.text
    for option in ("learning_rate", "max_grad_norm", "per_device_train_batch_size", "save_steps"):
        assert option in report.text
    assert '"eagle_ttt_steps": 3' in report.text
    config = json.loads((eagle() / "outrider_state.json").read_text())
    assert config["modes"][0]["plugin"]["sha256"] in report.text
    for data in ("train", "held_out"):
        description = (shards / data / "shards.json").read_bytes()
        assert hashlib.sha256(description).hexdigest() in report.text
        for shard in json.loads(description)["shards"]:
            assert shard["sha256"] in report.text
    assert f"{program} train {eagle()} --data {shards}/train" in report.text
    assert "LibTorch 2.11.0" in report.text


STRETCH = r'<(mark|span) title="tokens (\d+) to (\d+): [a-z ]+(?:; ids ([\d ]+))?">([^<]*)</\1>'


def check_first_conversation(page, shards, decode):
    """Ids and mask are the data's; the text of each stretch is what `decode` makes of its ids."""
    [file] = (shards / "train").glob("*.safetensors")
    data = load_file(file)
    end = int(data["offsets"][1])
    ids, mask = data["input_ids"][:end].tolist(), data["loss_mask"][:end].tolist()
    found = {}
    for tag, first, last, hovered, text in re.findall(STRETCH, page):
        if int(first) != len(found):  # the first conversation's stretches follow each other
            break
        tokens = [int(token) for token in (hovered or text).split()]
        found |= {i: (token, tag == "mark") for i, token in
                  zip(range(int(first), int(last) + 1), tokens, strict=True)}
        assert html.unescape(text).split() == decode(tokens).split()
    assert found == {i: (token, m == 1) for i, (token, m) in enumerate(zip(ids, mask))}
    assert f"{end} tokens; of the {end} shown {sum(mask)} are trained on" in page


def test_the_loss_mask_is_shown_on_the_text(long_run, shards, tokenizer):
    page = (long_run[0] / "report.html").read_text()
    check_first_conversation(page, shards, tokenizer.decode)
    assert "Tokens as text" in page and "&lt;|im_start|&gt;user" in page


def test_stretches_add_up_where_a_character_is_divided(model):
    decode = show.light_decoder(model)
    text = "ab 🦦 cd — né"
    ids = Tokenizer.from_file(str(model / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    cuts = [show.texts(decode, [ids[:cut], [], ids[cut:]]) for cut in range(1, len(ids))]
    assert {"".join(parts) for parts in cuts} == {text}
    assert any("\ufffd" in decode(ids[:cut]) for cut in range(1, len(ids)))


@pytest.mark.parametrize("lacking", ["tokenizer", "python"])
def test_without_tokenizer_or_python_ids_are_shown(outrider, eagle, shards, lacking, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(eagle(), model)
    environment = {"OUTRIDER_PYTHON": "/nowhere/python"} if lacking == "python" else {}
    if lacking == "tokenizer":
        for file in model.glob("tokenizer*"):
            file.unlink()
    done = outrider("train", model, "--data", shards / "train", "--out", tmp_path / "run",
                    "--max-steps", 1, **environment)
    assert "error" not in done.stderr and "Traceback" not in done.stderr
    page = (tmp_path / "run/report.html").read_text()
    check_first_conversation(page, shards, lambda ids: " ".join(map(str, ids)))
    assert "Token ids." in page


def test_steps_are_named_after_the_tokens_they_predict(outrider, eagle, shards, tmp_path):
    done = outrider("train", eagle(), "--data", shards / "train", "--out", tmp_path / "run",
                    "--max-steps", 1)
    for step in range(3):
        label, name = f"draft token {step + 1}", f"parallel_0_step_{step}"
        assert re.search(rf"^training  eagle  {label} \({name}\)  ", done.stdout, re.M)
        page = (tmp_path / "run/report.html").read_text()
        assert f'<span title="{name}">{label}</span>' in page
    [line] = metrics(tmp_path / "run")
    assert [s["name"] for s in line["drafts"][0]["steps"]] == [
        f"parallel_0_step_{k}" for k in range(3)]


def test_names_cannot_become_markup(train, eagle, tmp_path):
    odd = tmp_path / "<script>&'\""
    odd.symlink_to(eagle())
    train(odd, tmp_path / "run", "--max-steps", 1)
    page = read(tmp_path / "run")
    assert "script" not in {tag for tag, _ in page.tags}
    assert f"Training of {odd}" in page.text
