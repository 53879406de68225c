"""Drives the installed program with the built plugin. Needs Python's standard library alone.

program_test.py PROGRAM PLUGIN
"""

import json
import math
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

PROGRAM, PLUGIN = map(Path, sys.argv[1:3])
HIDDEN, VOCABULARY, LAYERS, INTERMEDIATE = 8, 32, 2, 16


def write_safetensors(path, tensors):
    """tensors: name → (dtype, shape, bytes)."""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text
                     + b"".join(data for _, _, data in tensors.values()))


def read_safetensors(path):
    content = path.read_bytes()
    size, = struct.unpack("<Q", content[:8])
    header = json.loads(content[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"],
                   content[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]])
            for name, entry in header.items()}


def floats(tensor):
    return struct.unpack(f"<{len(tensor[2]) // 4}f", tensor[2])


def make_base(folder):
    draw = random.Random(1)

    def matrix(*shape, scale=0.3):
        values = [draw.gauss(0, scale) for _ in range(math.prod(shape))]
        return "F32", list(shape), struct.pack(f"<{len(values)}f", *values)

    tensors = {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN),
               "lm_head.weight": matrix(VOCABULARY, HIDDEN), "model.norm.weight": matrix(HIDDEN)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{layer}self_attn.{name}.weight"] = matrix(HIDDEN, HIDDEN)
        for name in ("gate_proj", "up_proj"):
            tensors[f"{layer}mlp.{name}.weight"] = matrix(INTERMEDIATE, HIDDEN)
        tensors[f"{layer}mlp.down_proj.weight"] = matrix(HIDDEN, INTERMEDIATE)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{name}.weight"] = matrix(HIDDEN)
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 64,
        "torch_dtype": "float32", "tie_word_embeddings": False}))


class HydraTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.base, cls.draft = cls.folder / "base", cls.folder / "draft"
        make_base(cls.base)
        ids = [[random.Random(2).randrange(VOCABULARY) for _ in range(12)] for _ in range(2)]
        data = b"".join(struct.pack("<12q", *row) for row in ids)
        cls.batch = cls.folder / "batch.safetensors"
        write_safetensors(cls.batch, {"input_ids": ("I64", [2, 12], data)})
        cls.run_program("convert", cls.base, "--mode", "hydra", "--preset", "hydra_teacher", "--set",
                        "hydra_num_layers=2", "--set", "hydra_num_heads=3", "--out", cls.draft)

    @classmethod
    def run_program(cls, *arguments, status=0):
        done = subprocess.run(
            [PROGRAM, "--plugin-dir", PLUGIN.parent, "--allow-unlocked-plugins",
             *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != status:
            raise AssertionError(f"exit status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def forward(self, folder):
        out = self.folder / "out.safetensors"
        self.run_program("forward", folder, "--batch", self.batch, "--out", out, "--train")
        return read_safetensors(out)

    def exported(self, name):
        out = self.folder / name
        self.run_program("export", self.draft, "--format", "hydra", "--out", out)
        return out

    def test_forward_has_every_heads_logits_and_a_loss(self):
        results = self.forward(self.draft)
        for i in range(3):
            self.assertEqual(results[f"hydra_logits.{i}"][1], [2, 11 - i, VOCABULARY])
        loss, = floats(results["loss"])
        self.assertGreater(loss, 0.1)
        self.assertLess(loss, 3 * 3 * math.log(VOCABULARY))

    def test_drafting_changes_no_token(self):
        prompts = self.folder / "prompts.jsonl"
        prompts.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in ([3, 4, 5], [9], [8, 8])))
        options = "--prompts", prompts, "--max-new-tokens", "16", "--json"

        def tokens(*more):
            done = subprocess.run([PROGRAM, "--plugin-dir", PLUGIN.parent, "--allow-unlocked-plugins", "generate",
                                   self.draft, *options, *more], capture_output=True, text=True, check=True)
            return [json.loads(line)["token_ids"] for line in done.stdout.splitlines()]

        plain = tokens("--no-draft")
        for shape in ("chain", "static-tree", "dynamic-tree"):
            self.assertEqual(tokens("--draft-shape", shape, "--batch-size", "2"), plain)

    def test_it_is_decoded_as_it_is_trained_also_from_its_export(self):
        said = self.run_program("verify", self.draft, "--export", self.exported("served"))
        for name in ("hydra decode", "export decode"):
            self.assertRegex(said, rf"{name} +same ")

    def test_its_drafter_keeps_its_promises(self):
        names = "train_serve", "drafting", "sampling", "draft_order", "rollback", "keep"
        only = [word for name in names for word in ("--only", name)]
        said = self.run_program("plugin", "check", PLUGIN, *only)
        for name in names:
            self.assertRegex(said, rf"passed +{name} ")

    def test_heads_start_from_the_bases_output_matrix(self):
        tensors = read_safetensors(self.draft / "model.safetensors")
        for i in range(3):
            self.assertEqual(tensors[f"hydra_head.hydra_lm_head.{i}.weight"][2],
                             tensors["lm_head.weight"][2])

    def test_saved_and_restored_drafts_compute_the_same(self):
        expected = self.forward(self.draft)
        saved, restored = self.folder / "saved.safetensors", self.folder / "restored"
        self.run_program("save", self.draft, "--out", saved)
        self.run_program("restore", self.base, saved, "--out", restored)
        self.assertEqual(self.forward(restored), expected)

    def test_exported_and_imported_drafts_compute_the_same(self):
        exported, imported = self.exported("exported"), self.folder / "imported"
        config = json.loads((exported / "config.json").read_text())
        self.assertEqual({key: config[key] for key in (
            "hydra_num_heads", "hydra_num_layers", "hydra_head_arch", "grounded_heads",
            "hidden_state_offset")}, {
            "hydra_num_heads": 3, "hydra_num_layers": 2, "hydra_head_arch": "mlp",
            "grounded_heads": True, "hidden_state_offset": 0})
        self.assertTrue(zipfile.is_zipfile(exported / "hydra_lm_head.pt"))
        self.run_program("import", exported, "--base", self.base, "--out", imported)
        self.assertEqual(self.forward(imported), self.forward(self.draft))

    def test_an_import_names_every_tensor_that_does_not_fit(self):
        folder = self.exported("wrong")
        config = json.loads((folder / "config.json").read_text())
        config.update(hydra_num_heads=2, hydra_num_layers=3)
        (folder / "config.json").write_text(json.dumps(config))
        text = self.run_program("import", folder, "--base", self.base, "--format", "hydra", "--out",
                                self.folder / "never", status=4)
        for name in ("hydra_lm_head.2.weight", "hydra_mlp.2.0.linear.bias",
                     "hydra_mlp.1.2.linear.weight"):
            self.assertIn(name, text)
        self.assertFalse((self.folder / "never").exists())

    def test_an_import_refuses_what_computes_something_else(self):
        folder = self.exported("prefix")
        config = json.loads((folder / "config.json").read_text())
        config.update(hydra_head_arch="prefix-mlp", hidden_state_offset=1, hydra_num_heads=900)
        del config["grounded_heads"]
        (folder / "config.json").write_text(json.dumps(config))
        text = self.run_program("import", folder, "--base", self.base, "--out",
                                self.folder / "never", status=2)
        for part in ("prefix-mlp", "'grounded_heads' is false", "'hidden_state_offset' is 1", "900"):
            self.assertIn(part, text)

    def test_deep_heads_are_not_exported_to_a_program_that_shares_blocks(self):
        deep, out = self.folder / "deep", self.folder / "deep-out"
        self.run_program("convert", self.base, "--mode", "hydra", "--set", "hydra_num_layers=3",
                         "--set", "hydra_num_heads=1", "--out", deep)
        text = self.run_program("export", deep, "--format", "hydra", "--out", out, status=4)
        self.assertIn("applies the second 2 times", text)
        self.run_program("export", deep, "--format", "hydra", "--allow-train-serve-mismatch",
                         "--out", out)
        self.run_program("import", out, "--base", self.base, "--out", self.folder / "deep-back")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
