"""Plain decoding beside transformers' generate and llama.cpp, and drafting beside plain decoding, in one run.

usage: decode.py [--model DIR] [--tokens N] [--prompts N] [--dtype float32] [--program build/bin/outrider]
                 [--drafts DIR…] [--threads N]

llama.cpp takes part where xllamacpp is installed (requirements-bench.txt); the model is then written as a GGUF file of
the same type first. Texts are compared, since it gives no tokens.

Where other work shares the cores, one thread is what can be compared: two wait for each other at every product."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))

from outrider import demo_model  # noqa: E402

QUESTIONS = ["Why is the sky blue?", "Write a short story about a lighthouse keeper.",
             "Explain how a bicycle stays upright.", "List five uses of a paperclip."]


def of_transformers(folder, prompts, count, dtype):
    """(tokens per second, tokens) of greedy generate."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    found, seconds = [], 0.0
    with torch.inference_mode():
        model.generate(torch.tensor(prompts[:1]), max_new_tokens=4, do_sample=False)
        for prompt in prompts:
            ids = torch.tensor([prompt])
            start = time.perf_counter()
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
            seconds += time.perf_counter() - start
            found.append(out[0, len(prompt):].tolist())
    return sum(map(len, found)) / seconds, found


def of_llama_cpp(folder, prompts, count, dtype, threads):
    """(tokens per second, texts) of greedy decoding, or None without xllamacpp."""
    try:
        import xllamacpp
    except ImportError:
        return None
    import gguf_model

    with tempfile.TemporaryDirectory() as scratch:
        params = xllamacpp.CommonParams()
        params.model.path = str(Path(scratch) / "model.gguf")
        gguf_model.write(folder, params.model.path, dtype)
        params.n_ctx, params.n_parallel, params.n_gpu_layers, params.verbosity = 2048, 1, 0, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        server = xllamacpp.Server(params)

        def answer(ids, tokens):
            return server.handle_completions({"prompt": ids, "n_predict": tokens, "temperature": 0, "cache_prompt": False})

        answer(prompts[0], 4)
        answers = [answer(ids, count) for ids in prompts]
    timings = [a["timings"] for a in answers]
    seconds = sum(t["prompt_ms"] + t["predicted_ms"] for t in timings) / 1000
    return sum(t["predicted_n"] for t in timings) / seconds, [a["choices"][0]["text"] for a in answers]


def of_outrider(program, folder, prompts, count, dtype, *options):
    """(tokens per second, tokens, tokens per pass)."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps({"input_ids": ids}) + "\n" for ids in prompts)
        file.flush()
        done = subprocess.run(
            [program, "generate", folder, "--prompts", file.name, "--max-new-tokens", str(count), "--dtype", dtype,
             "--json", *options], capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    tokens = [answer["token_ids"] for answer in answers]
    seconds = sum(len(a["token_ids"]) / a["tokens_per_second"] for a in answers)
    emitted, rounds = sum(len(t) - 1 for t in tokens), sum(a["rounds"] for a in answers)
    return sum(map(len, tokens)) / seconds, tokens, emitted / rounds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--program", default=ROOT / "build/bin/outrider")
    parser.add_argument("--drafts", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    folder = options.model or demo_model.default_folder()
    if not options.model:
        demo_model.make(folder)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer.apply_chat_template([{"role": "user", "content": question}], return_dict=False,
                                             add_generation_prompt=True) for question in QUESTIONS[:options.prompts]]
    theirs, expected = of_transformers(folder, prompts, options.tokens, options.dtype)
    print(f"transformers generate: {theirs:.1f} tokens/s")
    arguments = prompts, options.tokens, options.dtype
    plain, tokens, _ = of_outrider(options.program, folder, *arguments, "--no-draft")
    print(f"outrider, plain:       {plain:.1f} tokens/s, {plain / theirs:.2f} of transformers, "
          f"{sum(a == b for a, b in zip(tokens, expected))} of {len(tokens)} answers the same")
    if found := of_llama_cpp(folder, *arguments, options.threads):
        speed, texts = found
        same = sum(tokenizer.decode(ids, skip_special_tokens=True) == text for ids, text in zip(tokens, texts))
        print(f"llama.cpp:             {speed:.1f} tokens/s; outrider, plain: {plain / speed:.2f} of it, "
              f"{same} of {len(tokens)} answers the same")
    modes = [(folder, "--drafter", "prompt-lookup"), *((draft, "--draft-shape", shape) for draft in options.drafts
                                                      for shape in ("chain", "static-tree", "dynamic-tree"))]
    for mode in modes:
        speed, found, length = of_outrider(options.program, mode[0], *arguments, *mode[1:])
        print(f"{' '.join(map(str, mode))}: {speed:.1f} tokens/s, {speed / plain:.2f} of plain, {length:.2f} tokens "
              f"per pass, {sum(a == b for a, b in zip(found, tokens))} of {len(tokens)} answers the same")


if __name__ == "__main__":
    main()
