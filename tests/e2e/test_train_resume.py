"""outrider train: however a run ends, it goes on as if it had not, bit by bit."""

import hashlib
import json
import os
import random
import resource
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
        moments = [lambda: steps_logged(run) not in range(seen, seen + wanted),
                   lambda: any(run.glob(".*.tmp-*"))]
        wait_until(draw.choice(moments), process)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 3
    subprocess.run(command(run, "--resume"), check=True, capture_output=True)
    check_same_run(run, whole)


def has_begun(run, name):
    """Whether a folder of the run is being written, or was: a test that comes late must not wait forever."""
    return (run / name).exists() or any(run.glob(f".{name}.tmp-*"))


MOMENTS = {
    "while it opens its data": (signal.SIGINT, lambda run: True),
    "as the folder is made": (signal.SIGTERM, lambda run: run.exists()),
    "while it evaluates": (signal.SIGINT, lambda run: steps_logged(run) >= 5),
    "while it saves": (signal.SIGTERM, lambda run: has_begun(run, "checkpoint-8")),
    "while it keeps the best": (signal.SIGINT, lambda run: has_begun(run, "best")),
    "while it writes the final model": (signal.SIGTERM, lambda run: has_begun(run, "final")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_run_can_be_resumed(moment, command, whole, tmp_path):
    number, has_come = MOMENTS[moment]
    run = tmp_path / "run"
    process = start(command(run))
    assert wait_until(lambda: has_come(run), process) or process.returncode == 0
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
    assert wait_until(lambda: steps_logged(run) >= 5, process)  # an evaluation begins
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


# --- damaged -------------------------------------------------------------------------------------

# The short run with a checkpoint after every third step.
OFTEN = tuple(3 if before == "--save-steps" else option for before, option in zip(("", *SHORT), SHORT))

DAMAGES = {
    "cut off": (lambda folder: os.truncate(folder / "model.safetensors", 4096),
                "model.safetensors (4096 bytes) is not as it was written"),
    "another byte": (lambda folder: flip_a_bit(folder / "training_state.safetensors"),
                     "training_state.safetensors ("),
    "a file gone": (lambda folder: (folder / "outrider_state.json").unlink(),
                    "outrider_state.json is missing"),
    "the state gone": (lambda folder: (folder / "training_state.json").unlink(),
                       "training_state.json is missing"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{oops"),
                "config.json (5 bytes) is not as it was written"),
    "a state that is no JSON": (lambda folder: (folder / "training_state.json").write_bytes(b"\0" * 99),
                                "training_state.json"),
    "empty": (lambda folder: [file.unlink() for file in folder.iterdir()],
              "training_state.json is missing"),
}


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.fixture(scope="module")
def three_checkpoints(train, eagle, tmp_path_factory):
    out = tmp_path_factory.mktemp("three") / "run"
    train(eagle(), out, *OFTEN)
    return out


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_with_an_older_one(train, eagle, three_checkpoints, damage,
                                                         tmp_path):
    run = tmp_path / "run"
    shutil.copytree(three_checkpoints, run, ignore=shutil.ignore_patterns("final"))
    change, problem = DAMAGES[damage]
    change(run / "checkpoint-9")
    flip_a_bit(run / "checkpoint-6/model.safetensors")
    before = sorted(run.rglob("*"))
    text = train(eagle(), run, *OFTEN, "--resume", status=3)
    assert f"error: the checkpoint '{run}/checkpoint-9' is damaged: " in text and problem in text
    assert (f"hint: '{run}/checkpoint-3' is older and whole: continue from it with --resume-from "
            "checkpoint-3") in text
    assert text.count("error: ") == 1 and sorted(run.rglob("*")) == before


def test_a_run_goes_on_from_a_checkpoint_of_choice(train, eagle, three_checkpoints, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(three_checkpoints, run, ignore=shutil.ignore_patterns("final"))
    (run / "checkpoint-9/training_state.safetensors").write_text("?")
    assert "it has checkpoint-3, checkpoint-6, checkpoint-9" in train(
        eagle(), run, *OFTEN, "--resume-from", "checkpoint-7", status=2)
    train(eagle(), run, *OFTEN, "--resume-from", run / "checkpoint-6")
    assert timeless(run) == timeless(three_checkpoints)
    for name in ("final", "checkpoint-9"):
        assert same_tensors(run / name, three_checkpoints / name)
    assert (run / "set-aside-checkpoint-9/training_state.safetensors").read_text() == "?"


def test_without_a_whole_checkpoint_the_way_on_is_told(train, eagle, three_checkpoints, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(three_checkpoints, run, ignore=shutil.ignore_patterns("final", "checkpoint-[39]"))
    flip_a_bit(run / "checkpoint-6/model.safetensors")
    text = train(eagle(), run, *OFTEN, "--resume", status=3)
    assert "no older checkpoint is whole" in text
    assert f"delete '{run}/checkpoint-6' for --resume to begin this one again" in text
    shutil.rmtree(run / "checkpoint-6")
    train(eagle(), run, *OFTEN, "--resume")
    assert same_tensors(run / "final", three_checkpoints / "final")


# --- no room -------------------------------------------------------------------------------------


def limit_files(limit):
    """For a child: files of more bytes cannot be written, as on a disk that is full."""

    def apply():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    return apply


def size_of(folder):
    return (folder / "model.safetensors").stat().st_size


@pytest.fixture(scope="module")
def twelve_steps(program, eagle, shards):
    """twelve_steps(run, *options): the arguments of short_run's command."""

    def make(run, *options):
        return [program, "train", eagle(), "--data", shards / "train", "--out", run,
                "--learning-rate", "3e-3", *map(str, SHORT), *map(str, options)]

    return make


def test_what_the_disk_has_no_room_for_is_written_later(twelve_steps, short_run, tmp_path):
    """Neither checkpoint-6 nor the final model can be written, but a checkpoint without the base."""
    run = tmp_path / "run"
    limit = size_of(short_run / "final") - 1000
    done = subprocess.run(twelve_steps(run, "--wait-for-room", 0), capture_output=True, text=True,
                          check=False, restore_signals=False, preexec_fn=limit_files(limit))
    assert done.returncode == 3, done.stderr
    warning, error, hint = (line for line in done.stderr.splitlines() if not line.startswith("step"))
    assert warning.startswith("warning: cannot write '") and "training goes on" in warning
    assert "(none of the 6 steps is saved)" in warning
    assert error.startswith("error: cannot write '")
    assert error.endswith(f"; '{run}/checkpoint-12' holds everything so far")
    assert hint.startswith("hint: make room (") and hint.endswith("same command and --resume")
    assert not list(run.glob(".*")) and not (run / "final").exists()
    assert all(name.startswith("eagle_module.")
               for name in load_file(run / "checkpoint-12/model.safetensors"))
    subprocess.run(twelve_steps(run, "--resume"), check=True, capture_output=True)
    assert timeless(run) == timeless(short_run)
    assert same_tensors(run / "final", short_run / "final")


def test_a_run_waits_for_room_at_its_end(twelve_steps, short_run, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    limit = size_of(short_run / "final") - 1000
    with log.open("w") as stderr:
        process = subprocess.Popen(twelve_steps(run, "--wait-for-room", 3600), stderr=stderr,
                                   stdout=subprocess.DEVNULL, restore_signals=False,
                                   preexec_fn=limit_files(limit))
    assert wait_until(lambda: "waiting up to 1:00:00 for room" in log.read_text(), process)
    assert f"'{run}/checkpoint-12' holds everything so far; waiting" in log.read_text()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert process.wait() == 0, log.read_text()
    assert timeless(run) == timeless(short_run)
    assert same_tensors(run / "final", short_run / "final")


def test_an_interrupt_ends_the_wait_for_room(twelve_steps, short_run, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(twelve_steps(run, "--wait-for-room", 3600), stderr=stderr,
                                   stdout=subprocess.DEVNULL, restore_signals=False,
                                   preexec_fn=limit_files(200_000))
    assert wait_until(lambda: "waiting up to" in log.read_text(), process)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 3
    assert "; none of the 12 steps is saved" in log.read_text()


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
    assert (f": the base computes values that are not finite in float32, from its embedding on: "
            f"conversation {culprit}, token {rows[culprit].index(token)} (counted from 0)") in text
    assert "its weights hold values that are not finite: 'model.embed_tokens.weight'\n" in text
    assert "hint: the base is damaged" in text and "--learning-rate" not in text
    # Nothing of it was kept: the newest checkpoint is the step before, and it is finite.
    saved = sorted(int(p.name.split("-")[1]) for p in run.glob("checkpoint-*"))
    if step > 1:
        assert saved[-1] == step - 1
        tensors = load_file(run / f"checkpoint-{step - 1}/model.safetensors")
        assert all(t.isfinite().all() for n, t in tensors.items() if n.startswith("eagle_module."))
    assert not (run / "final").exists()
    assert values in (run / "report.html").read_text()


def test_a_loss_that_the_base_is_not_to_blame_for_is_not_its(train, eagle, tmp_path):
    text = train(eagle(), tmp_path / "run", "--max-steps", 40, "--logging-steps", 1,
                 "--lr-scheduler-type", "constant", "--max-grad-norm", 0, learning_rate=1e30, status=4)
    assert "the base" not in text
    assert "hint: " in text and "--learning-rate" in text and "without these conversations" in text


@pytest.fixture(scope="module")
def overflowing(tiny, edited):
    """A float16 base whose second layer exceeds the range of float16."""
    base = edited(tiny("float16"), "config.json", lambda config: None)
    tensors = load_file(base / "model.safetensors")
    for part, scale in (("up_proj", 60), ("down_proj", 900)):
        tensors[f"model.layers.1.mlp.{part}.weight"] = (
            tensors[f"model.layers.1.mlp.{part}.weight"].sign() * scale)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    return base


def test_a_base_that_overflows_float16_is_named(train, outrider, convert, overflowing, shards,
                                                draft_vocabulary, tmp_path):
    options = ("--mode", "eagle", "--preset", "eagle3", "--draft-vocab", draft_vocabulary)
    model = convert(overflowing, *options)
    text = train(model, tmp_path / "run", "--max-steps", 1, status=4)
    named = "the base computes values that are not finite in float16, from decoder layer 1 (of 0 to 3)"
    advised = "hint: float16 ends at 65504, which this base exceeds: give --dtype bfloat16"
    assert "step 1: loss nan" in text and named in text and advised in text
    assert "its weights" not in text and not (tmp_path / "run").exists()
    train(model, tmp_path / "run", "--max-steps", 1, "--dtype", "bfloat16")

    offline = convert(overflowing, *options, "--set", "eagle_offline=true")
    command = ("data", "hidden-states", overflowing, "--for", offline, "--data", shards / "train",
               "--out", tmp_path / "states")
    text = outrider(*command, status=4).stderr
    assert named in text and advised in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    outrider(*command, "--dtype", "bfloat16")


def test_stored_states_that_are_not_finite_are_the_shards_fault(train, outrider, convert, tiny,
                                                               shards, tmp_path):
    offline = convert(tiny(), "--mode", "eagle", "--preset", "eagle3", "--set", "eagle_offline=true")
    outrider("data", "hidden-states", tiny(), "--for", offline, "--data", shards / "train", "--out",
             tmp_path / "states")
    file = tmp_path / "states/hidden-00000.safetensors"
    tensors = load_file(file)
    [name] = [n for n in tensors if n.startswith("layer.")][:1]
    [shard] = (shards / "train").glob("*.safetensors")
    begin = int(load_file(shard)["offsets"][17])
    tensors[name][begin + 4, 3] = float("inf")
    save_file(tensors, file)
    description = json.loads((tmp_path / "states/hidden_states.json").read_text())
    description["files"][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "states/hidden_states.json").write_text(json.dumps(description))
    summary = outrider("train", offline, "--data", tmp_path / "states", "--out", tmp_path / "run",
                       "--num-train-epochs", 1, "--logging-steps", 1, status=4)
    assert f": {file}: '{name}' holds values that are not finite: conversation 17, token 4" in (
        summary.stderr)
    assert "hint: write the hidden states again" in summary.stderr
