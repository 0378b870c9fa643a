"""`npu verify --random`: what it compares, what it says of a fault, how it ends."""

import shlex
import signal
import subprocess
import sys
import time

import pytest
from npu_isa.machine import timing as rules
from npu_isa.machine.config import load_machine
from npu_runtime.cli import main
from npu_runtime.verification import randomly as module
from npu_runtime.verification.randomly import random_case, verify_random
from npu_runtime.verification.verify import VerifyReport
from npu_sim.random_programs.machines import RTL_SIZES


def total(*args, **kwargs) -> VerifyReport:
    return sum((report for _, report in verify_random(*args, **kwargs)), VerifyReport())


def test_a_seed_names_a_case():
    for machine in (None, load_machine("npu16")):
        p, vectors, image = random_case(5, machine)
        q, others, other = random_case(5, machine)
        assert (p.machine, p.instructions, p.legal, vectors) == (q.machine, q.instructions, q.legal, others)
        assert p.constants.tobytes() == q.constants.tobytes()
        assert image.tobytes() == other.tobytes()
        assert random_case(6, machine)[0].instructions != p.instructions
        assert machine is None or p.machine == machine
    for seed in range(12):
        machine = random_case(seed, rtl=True)[0].machine
        assert (machine.array_rows, machine.array_cols) == tuple(RTL_SIZES[seed % 6].values())[:2]


def test_every_kind_of_number_is_compared():
    found = total(range(2))
    assert found.difference is None
    assert found.runs == sum(len(random_case(seed)[1]) + 1 for seed in range(2))  # boundaries, then scrambled tokens
    assert min(found.times, found.counters, found.values) > 0
    assert total(range(1), machine=load_machine("npu16")).difference is None


def wrong_rule(monkeypatch):
    right = rules.vec_issue_cycles
    monkeypatch.setattr(rules, "vec_issue_cycles", lambda *args: right(*args) + 1)


def test_a_difference_is_reproduced_by_the_command_that_is_printed(monkeypatch, capsys):
    wrong_rule(monkeypatch)
    assert main(["verify", "--random", "20", "--seed", "100"]) == 1
    first, again = capsys.readouterr().out.splitlines()
    assert "DIFFERENCE issue end of instruction" in first
    assert "(vec)" in first
    command = again.split("again with: npu ")[1]
    assert main(shlex.split(command)) == 1
    assert capsys.readouterr().out.splitlines()[0].split("DIFFERENCE")[1] == first.split("DIFFERENCE")[1]


def test_an_interrupt_gives_the_totals_so_far(monkeypatch, capsys):
    def interrupted(seeds, *_, **__):
        yield from ((seed, VerifyReport(("fast", "register"), runs=3)) for seed in seeds[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "verify_random", interrupted)
    assert main(["verify", "--random", "9"]) == 130
    assert capsys.readouterr().out.startswith("2 programs from seed 0, interrupted: fast = register: 6 runs")


@pytest.mark.slow
def test_processes_find_the_same():
    assert total(range(6), jobs=2) == total(range(6))


@pytest.mark.slow
def test_control_c_with_processes():
    heard = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"  # also in the background
    call = "from npu_runtime.cli import main; sys.exit(main(['verify', '--random', '100000', '--jobs', '2']))"
    command = [sys.executable, "-c", f"{heard}; {call}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(15)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert ", interrupted: fast = register: " in out
    assert "Traceback" not in err
