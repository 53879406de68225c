"""Loading the package disturbs nobody."""

import pytest

QUIET = """
import logging
{first}
{second}
import torch
assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
assert not logging.getLogger("outrider").handlers and not logging.getLogger().handlers
"""
IMPORTS = ("import transformers", "import outrider.speculative, outrider.opt")

FORKED = """
import torch
from small_models import EAGLE, batch, llama, made
import outrider.speculative as mtsp
model = mtsp.convert(made(llama), [("eagle", EAGLE)]).train()
expected = model(**batch()).loss.item()

class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i):
        torch.set_num_threads(1)
        with torch.no_grad():
            return model(**batch()).loss

loader = torch.utils.data.DataLoader(Data(), num_workers=2, multiprocessing_context="fork")
for loss in loader:
    assert abs(loss.item() - expected) < 1e-4
"""


@pytest.mark.parametrize("order", [1, -1])
def test_import_says_and_changes_nothing(order, python):
    first, second = IMPORTS[::order]
    done = python("-c", QUIET.format(first=first, second=second))
    assert done.stdout == ""


def test_works_in_a_forked_worker(python):
    assert python("-c", FORKED).stdout == ""


def test_text_tools_need_no_torch(python):
    python("-c", "import sys, outrider.text.tool; assert 'torch' not in sys.modules")


def test_another_torch_is_refused_in_a_sentence(python):
    code = ("import importlib.metadata as m; m.version = lambda name: '2.9.1+cpu'\n"
            "try: import outrider.speculative\n"
            "except ImportError as error: print(error)")
    assert python("-c", code).stdout == (
        "outrider works with torch 2.11.0, but this environment has torch 2.9.1+cpu: "
        "pip install torch==2.11.0\n")


def test_types(python, tmp_path):
    """The package, and what a user writes against it."""
    user = tmp_path / "user.py"
    user.write_text(
        "import torch\nimport outrider.opt as mto\nimport outrider.speculative as mtsp\n"
        "def attach(model: torch.nn.Linear) -> torch.nn.Linear:\n"
        "    return mtsp.convert(model, [('eagle', mtsp.EAGLE3_DEFAULT_CFG['config'])])\n"
        "def wrong(model: torch.nn.Linear) -> None:\n"
        "    mto.save(model)  # type: ignore[call-arg]\n")
    python("-m", "mypy", "--cache-dir", tmp_path / "cache", "--warn-unused-ignores", "-p",
           "outrider.speculative", "-p", "outrider.opt")
    python("-m", "mypy", "--cache-dir", tmp_path / "cache", "--warn-unused-ignores", user)
