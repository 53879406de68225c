"""FSDP2: two processes see what one sees."""

import pytest
import torch
from safetensors.torch import load_file
from small_models import EAGLE, llama, made

import outrider.opt as mto
import outrider.speculative as mtsp


@pytest.fixture
def sharded(python, tmp_path):
    def run(processes, *options):
        out = tmp_path / f"seen-{processes}-{len(list(tmp_path.iterdir()))}.pt"
        python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes,
               "sharded_run.py", out, *options)
        return torch.load(out)

    return run


@pytest.mark.parametrize("options", [(), ("--head-apart",), ("--trains-base",)])
def test_two_processes_are_one(sharded, options):
    one, two = sharded(1, *options), sharded(2, *options)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two["gradients"].keys() == one["gradients"].keys()
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_sharded_state_goes_on_in_another_world(sharded, tmp_path):
    state = tmp_path / "state"
    sharded(2, "--state", state)
    resumed = [sharded(count, "--state", state, "--resume") for count in (1, 2)]
    assert resumed[0]["losses"] == pytest.approx(resumed[1]["losses"], rel=1e-5)
    fresh = sharded(1)
    assert resumed[0]["losses"] != pytest.approx(fresh["losses"], rel=1e-4)
    restored = mto.restore(made(llama), f"{state}.safetensors")
    assert mtsp.modes() and restored.eagle_module is not None
    stored = load_file(f"{state}.safetensors")
    assert stored.keys() == mtsp.convert(made(llama), [("eagle", EAGLE)]).state_dict().keys()
