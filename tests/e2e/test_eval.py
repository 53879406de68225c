"""`outrider eval`: what it says against a count of what was emitted, and against `generate`."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ElementTree

import pytest

PROMPTS = [[1, 57, 90, 31, 8] * 4, [5, 6, 7, 8, 9, 10] * 3, [99, 98, 97] * 5, [4, 40, 44] * 4]
COUNT = 24


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=120, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, bos_token_id=1, eos_token_id=2))
    folder = tmp_path_factory.mktemp("eval") / "base"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(base, convert):
    return [convert(base, "--mode", "eagle", "--preset", "eagle3"), convert(base, "--mode", "medusa")]


@pytest.fixture
def prompts(jsonl):
    return jsonl(*({"input_ids": ids, "category": "even" if i % 2 == 0 else "odd"}
                   for i, ids in enumerate(PROMPTS)), name="prompts.jsonl")


def drafted(results):
    """The way of the model's draft."""
    [way] = [way for way in results["ways"] if way["drafter"] == "eagle"]
    return way


def test_ways_are_measured_side_by_side(outrider, folders, prompts):
    options = "--prompts", prompts, "--max-new-tokens", COUNT
    result = outrider("eval", *folders, *options, "--json").json()
    assert result["prompts"] == 4
    ways = {(way["model"], way["drafter"]): way for way in result["ways"]}
    eagle, medusa = map(str, folders)
    assert set(ways) == {(eagle, "eagle"), (eagle, "prompt-lookup"), (eagle, "none"), (medusa, "medusa"), (medusa, "none")}
    texts = [[answer["token_ids"] for answer in way["answers"]] for way in ways.values()]
    assert all(text == texts[0] for text in texts)
    for (folder, drafter), way in ways.items():
        answers = way["answers"]
        emitted = sum(len(a["token_ids"]) - 1 for a in answers)
        assert way["acceptance_length"] == pytest.approx(emitted / sum(a["rounds"] for a in answers))
        low, high = way["interval"]
        assert low <= way["acceptance_length"] <= high
        assert way["tokens_per_second"] == pytest.approx(
            sum(len(a["token_ids"]) for a in answers) / sum(way["seconds"].values()))
        plain = ways[folder, "none"]
        assert way["speed_up"] == pytest.approx(way["tokens_per_second"] / plain["tokens_per_second"])
        even = [a for a in answers[::2]]
        assert way["acceptance_length_by_category"]["even"] == pytest.approx(
            sum(len(a["token_ids"]) - 1 for a in even) / sum(a["rounds"] for a in even))
        positions = way["acceptance_by_position"]
        assert positions == ([] if drafter == "none" else pytest.approx(
            [sum(a["accepted"][k:k + 1][0] for a in answers if len(a["accepted"]) > k)
             / max(sum(a["drafted"][k] for a in answers if len(a["drafted"]) > k), 1) for k in range(len(positions))]))
    assert ways[eagle, "none"]["acceptance_length"] == 1 and ways[eagle, "none"]["seconds"]["draft"] == 0


def test_answers_are_those_of_generate(outrider, folders, prompts):
    options = "--prompts", prompts, "--max-new-tokens", COUNT, "--draft-shape", "dynamic-tree", "--json"
    way = drafted(outrider("eval", folders[0], *options, "--num-prompts", 2).json())
    lines = outrider("generate", folders[0], *options).stdout.splitlines()
    for ours, theirs in zip(way["answers"], map(json.loads, lines[::2]), strict=True):
        assert all(ours[key] == theirs[key] for key in ours)


def test_every_tokenizer_is_tried_before_anything_is_decoded(outrider, tiny, jsonl, tmp_path):
    without = shutil.copytree(tiny("float32"), tmp_path / "without")
    (without / "tokenizer.json").unlink()
    done = outrider("eval", tiny("float32"), without, "--prompts", jsonl({"text": "The sea"}), status=3)
    assert f"{without}: no usable tokenizer" in done.stderr and "plain" not in done.stderr


def test_the_table_says_which_is_fastest(outrider, base, prompts):
    shown = outrider("eval", base, "--prompts", prompts, "--max-new-tokens", 8)
    assert "tokens/pass" in shown.stdout and "prompt-lookup" in shown.stdout and "odd:" in shown.stdout
    assert "the fastest here is" in shown.stdout or "plain decoding is the fastest here" in shown.stdout
    assert "prompt-lookup chain:3, batch size 1: batch 4/4  100%" in shown.stderr


# --- a folder of results -------------------------------------------------------------------------


def files_in(folder):
    return {path.name: path.read_bytes() for path in (folder / "ways").iterdir()}


def charts_in(page):
    text = page.read_text()
    for tag in ("<script", "src=", "http:", "https:", "url("):
        assert tag not in text
    charts = re.findall(r'<svg class="chart".*?</svg>', text, re.S)
    for chart in charts:
        svg = ElementTree.fromstring(chart)
        _, _, width, height = map(float, svg.get("viewBox").split())
        for label in svg.iter("text"):
            assert 0 <= float(label.get("x")) <= width and 0 <= float(label.get("y")) <= height
    return [re.search('aria-label="([^"]*)"', chart)[1] for chart in charts]


@pytest.fixture
def kept(outrider, folders, prompts, tmp_path):
    """kept(*options): an evaluation in one folder, and what was said."""

    def run(*options, models=folders, status=0):
        return outrider("eval", *models, "--prompts", prompts, "--max-new-tokens", COUNT, "--out", tmp_path / "out",
                        *options, status=status)

    return run


def test_what_was_measured_is_not_measured_again(kept, folders, tmp_path):
    out = tmp_path / "out"
    first = kept("--json").json()
    files = files_in(out)
    assert len(files) == 5
    again = kept("--json")
    assert again.json() == first and files_in(out) == files
    lost = sorted(files)[1]
    (out / "ways" / lost).unlink()
    repeated = kept("--json").json()
    assert {name for name, content in files_in(out).items() if files[name] != content} <= {lost}
    for way, before in zip(repeated["ways"], first["ways"], strict=True):
        assert way["answers"] == before["answers"] and way["interval"] == before["interval"]
    more = kept("--json", models=folders[:1]).json()
    assert [way["drafter"] for way in more["ways"]] == ["none", "eagle", "prompt-lookup"]


def test_an_evaluation_begins_where_one_was_interrupted(outrider, kept, folders, prompts, tmp_path):
    """As after a kill between two ways: the first folder's are there, no report of the second."""
    half = kept("--json", models=folders[:1]).json()
    files = files_in(tmp_path / "out")
    whole = kept("--json").json()
    assert whole["ways"][:3] == half["ways"] and len(whole["ways"]) == 5
    assert files.items() <= files_in(tmp_path / "out").items()


def test_batches_that_were_measured_are_kept(kept, folders, tmp_path):
    """As after a kill while a batch was decoded."""
    first = kept("--json", models=folders[:1]).json()
    [file] = [path for path in (tmp_path / "out/ways").iterdir() if path.name.startswith("model")]
    before = json.loads(file.read_text())
    half = json.loads(file.read_text())
    half["measured"] = {key: values[:2] for key, values in half["measured"].items()}
    file.write_text(json.dumps(half))
    again = kept("--json", models=folders[:1]).json()
    after = json.loads(file.read_text())
    assert after["measured"]["answers"] == before["measured"]["answers"]
    assert after["measured"]["batches"][:2] == before["measured"]["batches"][:2]
    assert after["measured"]["batches"][2:] != before["measured"]["batches"][2:]
    assert again["ways"][0] == first["ways"][0] and drafted(again)["answers"] == drafted(first)["answers"]


def test_a_killed_evaluation_goes_on(program, kept, folders, prompts, tmp_path):
    out = tmp_path / "out"
    command = [program, "eval", *folders, "--prompts", prompts, "--max-new-tokens", COUNT, "--out", out]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(out.glob("ways/model*.json")):
            time.sleep(0.001)
        process.kill()
    before = {path: json.loads(path.read_text())["measured"]["batches"] for path in out.glob("ways/*.json")}
    assert before and not list(out.glob("ways/model*.json"))[2:]
    results = kept("--json").json()
    assert [len(way["answers"]) for way in results["ways"]] == [4] * 5
    for path, batches in before.items():
        assert json.loads(path.read_text())["measured"]["batches"][:len(batches)] == batches


@pytest.mark.parametrize("options, what", [
    (("--temperature", 0.5), "temperature is 0.5, was 0.0"),
    (("--num-prompts", 2), "prompts is 2, was 4; prompts_sha256 is "),
    (("--dtype", "bfloat16"), 'dtype is "bfloat16", was ""'),
])
def test_other_settings_are_refused(kept, folders, tmp_path, options, what):
    kept(models=folders[:1])
    before = files_in(tmp_path / "out")
    said = kept(*options, models=folders[:1], status=2).stderr
    assert f"{tmp_path}/out' is of an evaluation with other settings: {what}" in said and "another --out" in said
    assert files_in(tmp_path / "out") == before


def test_a_model_that_changed_is_refused(kept, folders, edited, tmp_path):
    other = edited(folders[0], "config.json", lambda config: config.update(max_position_embeddings=77))
    kept(models=[other])
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 78}))
    assert f"the files of '{other}' changed" in kept(models=[other], status=2).stderr


def test_nothing_is_read_where_all_is_measured(kept, folders, tmp_path):
    """The weights are none any more, which only the record of their file does not say."""
    model = tmp_path / "model"
    shutil.copytree(folders[0], model)
    first = kept("--json", models=[model]).json()
    weights = model / "model.safetensors"
    weights.write_bytes(b"no weights")
    stat, settings = weights.stat(), json.loads((tmp_path / "out/evaluation.json").read_text())
    settings["files"][str(model)][weights.name] = [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    (tmp_path / "out/evaluation.json").write_text(json.dumps(settings))
    assert kept("--json", models=[model]).json() == first
    weights.touch()
    assert f"the files of '{model}' changed" in kept(models=[model], status=2).stderr


def test_folders_of_evaluations_before_files_were_recorded_serve(kept, folders, tmp_path):
    first = kept("--json", models=folders[:1]).json()
    settings = json.loads((tmp_path / "out/evaluation.json").read_text())
    del settings["files"]
    (tmp_path / "out/evaluation.json").write_text(json.dumps(settings))
    assert kept("--json", models=folders[:1]).json() == first
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["models"] == settings["models"]


def test_one_process_at_a_time_evaluates_in_a_folder(kept, folders, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    holder = os.open(out, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    said = kept(models=folders[:1], status=3).stderr
    assert f"'{out}': another process is evaluating in this folder" in said and "another --out" in said
    assert not list(out.iterdir())
    os.close(holder)
    kept(models=folders[:1])


def test_folders_and_files_of_others_are_refused(kept, folders, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    assert "is not the folder of an evaluation" in kept(status=3).stderr
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    kept(models=folders[:1])
    [file] = [path for path in (out / "ways").iterdir() if path.name.startswith("none")]
    for damage in ("{}", '{"way": 1}', file.read_text().replace('"prompts": 1', '"prompts": 2', 1)):
        file.write_text(damage)
        assert f"{file}': not the measurement that its name says" in kept(models=folders[:1], status=3).stderr
    (out / "evaluation.json").write_text("{}")
    assert "'options' or 'models' is missing" in kept(models=folders[:1], status=3).stderr


def test_the_report_draws_what_was_measured(kept, tmp_path):
    results = kept("--json").json()
    out = tmp_path / "out"
    assert charts_in(out / "report.html") == ["Speed-up", "Acceptance length", "Accepted at each position",
                                              "Acceptance length by category"]
    page = (out / "report.html").read_text()
    for way in results["ways"]:
        assert f"<td>{way['acceptance_length']:.3f}</td>" in page and f"<td>{way['speed_up']:.2f}</td>" in page
    for position, share in enumerate(drafted(results)["acceptance_by_position"], 1):
        assert f", position {position}: {share:.4g} share of rounds" in page
    assert "Not finished" not in page
    written = json.loads((out / "results.json").read_text())
    assert written["finished"] and written["fastest"] == results["fastest"]
    assert all("answers" not in way for way in written["ways"])


def test_speed_ups_have_the_interval_of_their_batches(kept):
    for way in kept("--batch-size", 2, "--json").json()["ways"]:
        low, high = way["speed_up_interval"]
        assert low <= way["speed_up"] <= high
        assert way["drafter"] != "none" or (low, high) == (1, 1)
    assert all(way["speed_up_interval"] is None
               for way in kept("--batch-size", 4, "--json").json()["ways"])


# --- sweeps --------------------------------------------------------------------------------------

SWEEP = ("--sweep", "--batch-sizes", "1,6", "--sweep-drafts", "chain:2,chain:4,dynamic-tree:5")


def test_a_sweep_measures_every_draft_at_every_batch_size(outrider, folders, prompts, tmp_path):
    results = outrider("eval", folders[0], "--prompts", prompts, "--max-new-tokens", COUNT, *SWEEP, "--out",
                       tmp_path / "out", "--json").json()
    found = [(way["batch_size"], way["drafter"], way.get("draft_shape"), way.get("num_draft_tokens"))
             for way in results["ways"]]
    drafts = [("chain", 2), ("chain", 4), ("dynamic-tree", 5)]
    assert found == [way for size in (1, 6) for way in [
        (size, "none", None, None), *((size, "eagle", *draft) for draft in drafts),
        *((size, "prompt-lookup", *draft) for draft in drafts[:2])]]
    assert len({json.dumps(way["answers"][0]["token_ids"]) for way in results["ways"]}) == 1
    for way in results["ways"]:  # prompts that came again count once
        assert len(way["answers"]) == len(PROMPTS)
    for best in results["fastest"]:
        beside = [way for way in results["ways"] if way["batch_size"] == best["batch_size"]]
        assert best["speed_up"] == max(way["speed_up"] for way in beside) >= 1
    assert [best["batch_size"] for best in results["fastest"]] == [1, 6]
    charts = charts_in(tmp_path / "out/report.html")
    assert {"Speed at batch size 1", "Speed at batch size 6", "Speed-up"} <= set(charts)


def test_a_sweep_recommends_options_or_plain_decoding(outrider, folders, prompts, tmp_path):
    options = ("--prompts", prompts, "--max-new-tokens", 8, "--out", tmp_path / "out")
    shown = outrider("eval", folders[0], *options, *SWEEP).stdout
    results = json.loads((tmp_path / "out/results.json").read_text())
    for best in results["fastest"]:
        where = f"{folders[0]}, batch size {best['batch_size']}: "
        if best["drafter"] == "none":
            assert where + "plain decoding is the fastest\n" in shown
            continue
        [(recommended, times, doubt)] = re.findall(re.escape(where) + r"(.*) \((\d+\.\d\d) times plain decoding(.*)\)", shown)
        low = (best["speed_up_interval"] or [0])[0]
        assert times == f"{best['speed_up']:.2f}" and bool(doubt) == (low <= 1)
        assert f"--draft-shape {best['draft_shape']} --num-draft-tokens {best['num_draft_tokens']}" in recommended
        outrider("generate", folders[0], "--prompts", prompts, "--max-new-tokens", 4, *recommended.split())


def test_wrong_sweeps_are_refused(outrider, folders, prompts):
    def said(*options):
        return outrider("eval", folders[0], "--prompts", prompts, *options, status=2).stderr

    for draft in ("chain", "chain:0", "chain:3x", "bush:3", "chain:99999999999999999999", ":"):
        assert f"'{draft}' is no shape and number of draft tokens" in said("--sweep", f"--sweep-drafts={draft}")
    assert "--sweep" in said("--batch-sizes", "1,2")
    assert "--batch-size" in said("--sweep", "--batch-size", 2)
    assert "--batch-sizes" in said("--sweep", "--batch-sizes", "0")
