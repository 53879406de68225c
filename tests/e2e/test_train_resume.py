"""outrider train: however a run ends, it goes on as if it had not, bit by bit."""

import json
import random
import shutil
import signal
import subprocess
import time

import pytest
from runs import SHORT, half_of, metrics, same_tensors, timeless
from safetensors.torch import load_file, save_file

# --- resuming ----------------------------------------------------------------------------------


def test_two_halves_equal_one_whole_bit_by_bit(train, eagle, short_run, tmp_path):
    resumed = half_of(short_run, tmp_path / "run")
    train(eagle(), resumed, *SHORT, "--resume")
    assert timeless(resumed) == timeless(short_run)
    assert [line["step"] for line in metrics(resumed)] == [2, 4, 6, 8, 10, 12]
    assert same_tensors(resumed / "final", short_run / "final")
    assert not same_tensors(resumed / "checkpoint-6", short_run / "final")


def test_the_seed_decides_the_run(train, eagle, short_run, tmp_path):
    train(eagle(), tmp_path / "same", *SHORT)
    train(eagle(), tmp_path / "other", *SHORT, "--seed", 7)
    assert timeless(tmp_path / "same") == timeless(short_run)
    assert same_tensors(tmp_path / "same/final", short_run / "final")
    assert not same_tensors(tmp_path / "other/final", short_run / "final")


def test_resuming_with_other_options_names_them(train, eagle, short_run, tmp_path):
    half = half_of(short_run, tmp_path / "run")
    before = sorted(half.rglob("*")), (half / "metrics.jsonl").read_bytes()
    text = train(eagle(), half, *SHORT, "--resume", "--seed", 1, learning_rate=1e-4,
                 data="held_out", status=2)
    assert "checkpoint-6' is from a run with other options" in text
    assert "learning_rate is 0.0001, was 0.003" in text
    assert "seed is 1, was 42" in text
    assert "data is " in text
    assert "warmup" not in text
    assert (sorted(half.rglob("*")), (half / "metrics.jsonl").read_bytes()) == before


# --- killed and interrupted ----------------------------------------------------------------------

LONG = ("--max-steps", 24, "--logging-steps", 1, "--save-steps", 8, "--eval-steps", 5)


@pytest.fixture(scope="module")
def held_out(outrider, model, shards):
    """Few conversations, so that an evaluation takes a moment and no more."""
    lines = (shards / "held_out.jsonl").read_text().splitlines(keepends=True)
    (shards / "few.jsonl").write_text("".join(lines[:24]))
    outrider("data", "prepare", shards / "few.jsonl", "--model", model, "--out", shards / "few",
             "--max-length", 96)
    return shards / "few"


@pytest.fixture(scope="module")
def command(program, eagle, shards, held_out):
    """command(run, *options): the argument list of a run that evaluates and saves."""

    def make(run, *options):
        return [program, "train", eagle(), "--data", shards / "train", "--eval-data",
                held_out, "--out", run, "--learning-rate", "3e-3",
                *map(str, LONG), *options]

    return make


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The same run without a break."""
    run = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(run), check=True, capture_output=True)
    return run


def start(arguments):
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition, process):
    """Whether it came true while the process ran."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.001)
    return False


def steps_logged(run):
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def check_same_run(run, whole):
    """Each line once, every bit the same, nothing left over."""
    assert timeless(run) == timeless(whole)
    assert same_tensors(run / "final", whole / "final")
    assert same_tensors(run / "best", whole / "best")
    assert (run / "best/best.json").read_text() == (whole / "best/best.json").read_text()
    assert not list(run.glob(".*"))


def test_a_run_killed_before_its_first_checkpoint_starts_again(command, whole, tmp_path):
    run = tmp_path / "run"
    process = start(command(run))
    assert wait_until(lambda: steps_logged(run) >= 3, process)
    process.kill()
    process.communicate()
    assert not list(run.glob("checkpoint-*"))
    refused = subprocess.run(command(run), capture_output=True, text=True, check=False)
    assert refused.returncode == 3
    assert "hint: continue the run in it with --resume" in refused.stderr
    other = subprocess.run(command(run, "--resume", "--seed", "3"), capture_output=True, text=True,
                           check=False)
    assert other.returncode == 2
    assert "run.json' is from a run with other options: seed is 3, was 42" in other.stderr
    done = subprocess.run(command(run, "--resume"), capture_output=True, text=True, check=True)
    assert f"note: '{run}' holds no checkpoint yet: the run starts again from step 0" in done.stderr
    check_same_run(run, whole)
    record = json.loads((run / "run.json").read_text())
    assert [entry["step"] for entry in record["starts"]] == [0, 0]
    assert record["starts"][1]["command"].endswith("--resume")


def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(command, whole, tmp_path):
    run = tmp_path / "run"
    draw = random.Random(11)
    killed = 0
    for _ in range(8):
        process = start(command(run, *(["--resume"] if run.exists() else [])))
        seen, wanted = steps_logged(run), draw.randint(1, 12)
        wait_until(lambda: steps_logged(run) not in range(seen, seen + wanted), process)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 3
    subprocess.run(command(run, "--resume"), check=True, capture_output=True)
    check_same_run(run, whole)


MOMENTS = {
    "while it opens its data": (signal.SIGINT, lambda run: True),
    "as the folder is made": (signal.SIGTERM, lambda run: run.exists()),
    "while it evaluates": (signal.SIGINT, lambda run: steps_logged(run) == 5),
    "while it saves": (signal.SIGTERM, lambda run: any(run.glob(".checkpoint-8.tmp-*"))),
    "while it keeps the best": (signal.SIGINT, lambda run: any(run.glob(".best.tmp-*"))),
    "while it writes the final model": (signal.SIGTERM, lambda run: any(run.glob(".final.tmp-*"))),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_run_can_be_resumed(moment, command, whole, tmp_path):
    number, has_come = MOMENTS[moment]
    run = tmp_path / "run"
    process = start(command(run))
    assert wait_until(lambda: has_come(run), process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    assert process.returncode in (0, 130, -number), errors
    if process.returncode == 130:
        [saved] = sorted(run.glob("checkpoint-*"), key=lambda p: int(p.name[11:]))[-1:]
        assert f"'{saved}' holds everything so far" in errors and "--resume" in errors
        step = saved.name.split("-")[1]
        assert f"<p>interrupted after step {step}; " in (run / "report.html").read_text()
    subprocess.run(command(run, *(["--resume"] if run.exists() else [])), check=True,
                   capture_output=True)
    check_same_run(run, whole)


def test_a_second_signal_ends_a_run_at_once(command, whole, tmp_path):
    run = tmp_path / "run"
    process = start(command(run))
    assert wait_until(lambda: steps_logged(run) == 5, process)  # an evaluation begins
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    process.communicate(timeout=600)
    assert process.returncode == 130
    subprocess.run(command(run, "--resume"), check=True, capture_output=True)
    check_same_run(run, whole)


def test_what_is_no_run_is_not_resumed(train, eagle, shards, tmp_path):
    text = train(eagle(), tmp_path / "nowhere", "--resume", status=3)
    assert f"'{tmp_path}/nowhere': no such folder, so there is no run to resume" in text
    text = train(eagle(), shards, "--resume", status=2)
    assert f"'{shards}' is no folder of a run: it has neither run.json nor a checkpoint" in text


def test_a_finished_run_is_not_done_again(train, eagle, short_run, tmp_path):
    shutil.copytree(short_run, tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    summary = train(eagle(), tmp_path / "run", *SHORT, "--resume")
    assert summary == json.loads((short_run / "run.json").read_text())["summary"]
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


# --- not a number --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisoned(convert, edited, tiny, draft_vocabulary):
    """poisoned(token): a converted model in which one token's embedding is not a number."""

    def make(token):
        base = edited(tiny(), "config.json", lambda config: config.update(tie_word_embeddings=False))
        tensors = load_file(base / "model.safetensors")
        embedding = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = embedding.clone()
        embedding[token] = float("nan")
        save_file(tensors, base / "model.safetensors", {"format": "pt"})
        return convert(base, "--mode", "eagle", "--preset", "eagle3", "--draft-vocab",
                       draft_vocabulary)

    return make


def test_a_poisoned_batch_stops_the_run_and_is_named(train, poisoned, shards, tmp_path):
    [file] = (shards / "train").glob("*.safetensors")
    data = load_file(file)
    bounds = data["offsets"].tolist()
    rows = [data["input_ids"][a:b].tolist() for a, b in zip(bounds, bounds[1:])]
    # A token of a single conversation, not among those that open or close it.
    holders = {}
    for i, row in enumerate(rows):
        for token in row[:-4]:
            holders.setdefault(token, set()).add(i)
    token, [culprit] = next((t, held) for t, held in sorted(holders.items()) if len(held) == 1)
    run = tmp_path / "run"
    text = train(poisoned(token), run, "--save-steps", 1, "--logging-steps", 1, status=4)
    step = int(text.split("error: step ")[1].split(":")[0])
    values = f"step {step}: loss nan, gradient norm nan; the batch held conversations"
    assert values in text
    named = text.split("conversations ")[1].split(" of ")[0]
    assert str(culprit) in named.split(", ") and len(named.split(", ")) == 4
    assert f"of '{shards}/train'" in text and "(counted from 0)" in text
    assert "hint: " in text and "--learning-rate" in text and "without these conversations" in text
    # Nothing of it was kept: the newest checkpoint is the step before, and it is finite.
    saved = sorted(int(p.name.split("-")[1]) for p in run.glob("checkpoint-*"))
    if step > 1:
        assert saved[-1] == step - 1
        tensors = load_file(run / f"checkpoint-{step - 1}/model.safetensors")
        assert all(t.isfinite().all() for n, t in tensors.items() if n.startswith("eagle_module."))
    assert not (run / "final").exists()
    assert values in (run / "report.html").read_text()
