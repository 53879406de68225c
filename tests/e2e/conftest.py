"""Drives the built program. OUTRIDER_PROGRAM names it; ctest sets that."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests/fixtures/reference"
TEST_PLUGINS = Path(os.environ.get("OUTRIDER_TEST_PLUGINS", ROOT / "build/tests/host/plugins/built"))
sys.path.insert(0, str(ROOT / "python"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

from exchanged_drafts import DRAFTS, make_base, randomize  # noqa: E402
from outrider import demo_model  # noqa: E402
from runs import SHORT  # noqa: E402


@dataclass
class Finished:
    status: int
    stdout: str
    stderr: str

    def json(self):
        return json.loads(self.stdout)


@pytest.fixture(scope="session")
def program():
    path = Path(os.environ.get("OUTRIDER_PROGRAM", ROOT / "build/bin/outrider"))
    assert path.is_file(), f"{path} is missing: run `make build`, or set OUTRIDER_PROGRAM"
    return path


@pytest.fixture(scope="session")
def outrider(program):
    """outrider(*arguments, status=0, NAME=value…): runs the program and checks its exit status.

    The environment is the tests' own with each NAME set, or removed where the value is None."""

    def run(*arguments, status=0, **changes):
        environment = {k: v for k, v in {**os.environ, **changes}.items() if v is not None}
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True,
            env=environment, timeout=3600, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def model():
    """SmolLM2-135M-Instruct, made once per machine. Read only."""
    folder = demo_model.default_folder()
    demo_model.make(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, local_files_only=True)


@pytest.fixture(scope="session")
def examples():
    return ROOT / "examples/data"


@pytest.fixture
def jsonl(tmp_path):
    """jsonl(records…): a file with one line for each; bytes and strings are written as they are."""

    def write(*records, name="chats.jsonl"):
        path = tmp_path / name
        lines = [r if isinstance(r, (bytes, str)) else json.dumps(r) for r in records]
        path.write_bytes(b"".join(
            (line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
        return path

    return write


@pytest.fixture(scope="session")
def tensors():
    """tensors(file): name → numpy array; bfloat16 is widened to float32."""
    import torch
    from safetensors.torch import load_file

    def read(path):
        return {name: (t.float() if t.dtype == torch.bfloat16 else t).numpy()
                for name, t in load_file(path).items()}

    return read


@pytest.fixture(scope="session")
def forward(outrider, tensors, tmp_path_factory):
    """forward(folder, batch, *options): what `outrider forward` writes, by name.

    The batch is a file, or a dictionary of integer lists."""
    from safetensors.numpy import save_file

    folder, numbers = tmp_path_factory.mktemp("forward"), itertools.count()

    def run(model_folder, batch, *options, **environment):
        number = next(numbers)
        if isinstance(batch, dict):
            arrays = {name: np.asarray(rows, dtype=np.int64) for name, rows in batch.items()}
            batch = folder / f"batch-{number}.safetensors"
            save_file(arrays, batch)
        out = folder / f"out-{number}.safetensors"
        outrider("forward", model_folder, "--batch", batch, "--out", out, *options, **environment)
        found = tensors(out)
        out.unlink()
        return found

    return run


@pytest.fixture(scope="session")
def convert(outrider, tmp_path_factory):
    """convert(base, *options): the converted folder."""
    numbers = itertools.count()

    def run(base, *options, **environment):
        out = tmp_path_factory.mktemp("converted") / f"model-{next(numbers)}"
        outrider("convert", base, *options, "--out", out, **environment)
        return out

    return run


@pytest.fixture(scope="session")
def small_eagle3(convert):
    """A small base of random weights with a new EAGLE-3 draft; nobody writes into the folder."""
    return convert(REFERENCE / "base_llama/base", "--mode", "eagle", "--preset", "eagle3")


@pytest.fixture(scope="session")
def edited(tmp_path_factory):
    """edited(folder, file, change): a copy of the folder with one JSON file changed in place."""

    def copy(folder, file, change):
        out = tmp_path_factory.mktemp("edited") / folder.name
        shutil.copytree(folder, out)
        content = json.loads((out / file).read_text())
        change(content)
        (out / file).write_text(json.dumps(content))
        return out

    return copy


@pytest.fixture(scope="session")
def smol_eagle(convert, model):
    """SmolLM2 with preset eagle3."""
    return convert(model, "--mode", "eagle", "--preset", "eagle3")


@pytest.fixture(scope="session")
def smol_both(convert, smol_eagle):
    """The same with preset medusa on top."""
    return convert(smol_eagle, "--mode", "medusa", "--preset", "medusa")


@pytest.fixture(scope="session")
def tiny(model, tmp_path_factory):
    """tiny(dtype): a Llama with SmolLM2's tokenizer that trains in seconds.

    Its random weights are large: it is sure of its next tokens, which a draft can learn."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    made = {}

    def make(dtype):
        torch.manual_seed(0)
        base = LlamaForCausalLM(LlamaConfig(
            vocab_size=49152, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.3,
            bos_token_id=1, eos_token_id=2, pad_token_id=2))
        folder = tmp_path_factory.mktemp("tiny") / dtype
        base.to(getattr(torch, dtype)).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(model / name, folder)
        return folder

    return lambda dtype="float32": made.get(dtype) or made.setdefault(dtype, make(dtype))


@pytest.fixture(scope="session")
def shards(outrider, model, examples, tmp_path_factory):
    """Token shards of 200 of the example conversations, and of the held-out ones."""
    folder = tmp_path_factory.mktemp("shards")
    lines = (examples / "smollm2_self.jsonl").read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines[:200]))
    shutil.copy(examples / "smollm2_self_validation.jsonl", folder / "held_out.jsonl")
    for name in ("train", "held_out"):
        outrider("data", "prepare", folder / f"{name}.jsonl", "--model", model,
                 "--out", folder / name, "--max-length", 96)
    return folder


@pytest.fixture(scope="session")
def draft_vocabulary(outrider, shards):
    """512 tokens for drafts of models with SmolLM2's tokenizer."""
    path = shards / "d2t.safetensors"
    outrider("data", "calibrate", shards / "train", "--size", 512, "--out", path)
    return path


@pytest.fixture
def prepare(outrider, model, jsonl, tmp_path):
    """prepare(records…, options=[…]): the folder of shards."""

    def run(*records, options=(), name="shards"):
        out = tmp_path / name
        outrider("data", "prepare", jsonl(*records), "--model", model, "--out", out, *options)
        return out

    return run


@pytest.fixture(scope="session")
def eagle(convert, tiny, draft_vocabulary):
    """eagle(dtype): the tiny model with preset eagle3."""
    done = {}

    def make(dtype="float32"):
        if dtype not in done:
            done[dtype] = convert(tiny(dtype), "--mode", "eagle", "--preset", "eagle3",
                                  "--draft-vocab", draft_vocabulary)
        return done[dtype]

    return make


@pytest.fixture(scope="session")
def train(outrider, shards):
    """train(model, run, *options): its summary, or what it says when it fails."""

    def run(model, out, *options, status=0, learning_rate=3e-3, data="train"):
        done = outrider("train", model, "--data", shards / data, "--out", out, "--json",
                        "--learning-rate", learning_rate, *options, status=status)
        return done.json() if status == 0 else done.stderr

    return run


@pytest.fixture
def refused(outrider, model, jsonl, tmp_path):
    """refused(records…): the error text; nothing is left behind."""

    def run(*records, options=(), status=4):
        out = tmp_path / "shards"
        done = outrider("data", "prepare", jsonl(*records), "--model", model, "--out", out, *options,
                        status=status)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["chats.jsonl"]
        return done.stderr

    return run


@pytest.fixture(scope="session")
def short_run(train, eagle, tmp_path_factory):
    """Twelve steps without a break, a checkpoint half-way."""
    out = tmp_path_factory.mktemp("short") / "run"
    train(eagle(), out, *SHORT)
    return out


@pytest.fixture(scope="session")
def long_run(train, eagle, shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("long") / "run"
    return out, train(eagle(), out, "--max-steps", 30, "--logging-steps", 5,
                      "--eval-data", shards / "held_out", "--eval-steps", 10)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A Llama of eight layers with random weights. Read only."""
    return make_base(tmp_path_factory.mktemp("formats") / "base")


@pytest.fixture(scope="session")
def draft(convert, llama):
    """draft(name): the base with that draft, one of DRAFTS."""
    made = {}

    def make(name):
        if name not in made:
            settings = [f"--set=eagle_architecture_config.{key}={json.dumps(value)}"
                        for key, value in DRAFTS[name][0].items()]
            made[name] = randomize(convert(llama, "--mode", "eagle", "--preset", "eagle3",
                                           "--set=eagle_ttt_steps=2", *settings))
        return made[name]

    return make


@pytest.fixture(scope="session")
def exported(outrider, tmp_path_factory):
    """exported(folder, format, *options): the folder that export writes."""
    numbers = itertools.count()

    def run(folder, format, *options):
        out = tmp_path_factory.mktemp("exported") / f"{format}-{next(numbers)}"
        outrider("export", folder, "--format", format, "--out", out, *options)
        return out

    return run


@pytest.fixture(scope="session")
def imported(outrider, llama, tmp_path_factory):
    """imported(folder, *options): the base with the draft of an exported folder."""
    numbers = itertools.count()

    def run(folder, *options):
        out = tmp_path_factory.mktemp("imported") / f"model-{next(numbers)}"
        outrider("import", folder, "--base", llama, "--out", out, *options)
        return out

    return run
