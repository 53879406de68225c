"""The program against ModelOpt itself, run now.

Drawn cases: bases, drafts and batches come from a seed. A failure names it, and the case with all
that was drawn. The same run again, or another one:

    OUTRIDER_LIVE_SEED=7 python -m pytest tests/e2e/test_live_reference.py -k 0.47-3-

Switches: where Outrider differs by default, both sides are checked: with the option the numbers are
ModelOpt's, without it those of a formula that is written down apart (draft_formula.py)."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from compare import difference, differences
from draft_formula import RELEASES, Rules, draft_weights, run
from live_cases import FAMILIES, SWITCHES, draw_cases, switch_case
from live_runs import PEERS, run_reference
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors

SEED = int(os.environ.get("OUTRIDER_LIVE_SEED", "1"))
CASES = {case.name: case for case in draw_cases(SEED)}
SWITCHED = [(numerics, switch) for switch, releases in SWITCHES.items() for numerics in releases]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """live(case): the folder of what ModelOpt computed."""
    out = tmp_path_factory.mktemp("live")
    errors = run_reference([*CASES.values(), *(switch_case(*pair) for pair in SWITCHED)], out)

    def folder(case):
        assert not errors[case.name], f"ModelOpt cannot run {described(case)}\n{errors[case.name]}"
        return out / case.name

    return folder


def described(case):
    return f"seed {SEED}, {json.dumps(case.as_dict())}"


@pytest.fixture(scope="module")
def converted(convert, tmp_path_factory):
    """converted(case, folder, *options): the case's base, converted by Outrider."""

    def made(case, folder, *options):
        config = tmp_path_factory.mktemp("config") / "config.json"
        config.write_text(json.dumps(case.config | case.extensions()))
        return convert(folder / "base", "--mode", case.mode, "--config", config, *options,
                       OMP_NUM_THREADS="1")

    return made


@pytest.fixture(scope="module")
def trained(forward):
    """trained(model, folder): a training pass on the case's batch."""

    def result(model, folder):
        return forward(model, folder / "inputs.safetensors", "--train", "--gradients",
                       OMP_NUM_THREADS="1")

    return result


@pytest.fixture(scope="module")
def as_modelopt(live, converted, trained):
    """as_modelopt(case): what ModelOpt computed, and what Outrider does with its numerics."""

    def results(case):
        folder = live(case)
        model = converted(case, folder, "--weights", folder / "converted.safetensors",
                          "--reference-numerics", case.numerics)
        return load_file(folder / "expected.safetensors"), trained(model, folder)

    return results


def same_numbers(expected, found):
    """A line for each difference; both have the same gradients."""
    gradients = [{n for n in tensors if n.startswith("grad.")} for tensors in (expected, found)]
    return differences(expected, found) + sorted(gradients[0] ^ gradients[1])


def test_the_draw_covers_what_it_should():
    assert len(CASES) >= 30
    assert sum(case.numerics == "0.42" for case in CASES.values()) >= 10
    for numerics in PEERS:
        assert {c.family for c in CASES.values() if c.numerics == numerics} == set(FAMILIES)


@pytest.mark.parametrize("name", CASES)
def test_a_drawn_case_trains_as_in_modelopt(as_modelopt, name):
    expected, found = as_modelopt(CASES[name])
    wrong = same_numbers(expected, found)
    assert not wrong, f"{described(CASES[name])}\n" + "\n".join(wrong)


def randomized(model):
    """The same folder, its draft with values that no initialisation has."""
    random = np.random.default_rng(3)
    weights = load_file(model / "model.safetensors")
    for name, tensor in weights.items():
        if name.startswith("eagle_module."):
            noise = random.standard_normal(tensor.shape) * 0.3 + (tensor.ndim == 1)
            weights[name] = noise.astype(tensor.dtype)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.mark.parametrize("numerics, switch", SWITCHED)
def test_a_default_that_differs_has_both_sides(live, converted, trained, as_modelopt, numerics,
                                               switch):
    case = switch_case(numerics, switch)
    folder, release = live(case), RELEASES[numerics]
    inputs = load_tensors(folder / "inputs.safetensors")

    def formula(weights, rules):
        return run(folder / "base", draft_weights(weights), inputs, case.config, rules)

    # With the option: ModelOpt's numbers, which are the formula's under all of the release's rules.
    expected, found = as_modelopt(case)
    assert not same_numbers(expected, found)
    assert not differences(formula(folder / "converted.safetensors", release), expected)
    # Without the option: the formula's numbers under Outrider's rules.
    if switch == "input":  # whose parameters are others
        model = randomized(converted(case, folder))
    else:
        model = converted(case, folder, "--weights", folder / "converted.safetensors")
        own = {rule: getattr(Rules(), rule) for rule in SWITCHES[switch][numerics]}
        other = formula(model / "model.safetensors", replace(release, **own))
        assert difference("loss", expected["loss"], other["loss"])  # this rule decides here
    without = trained(model, folder)
    assert not same_numbers(formula(model / "model.safetensors", Rules()), without)
    assert difference("loss", expected["loss"], without["loss"])
