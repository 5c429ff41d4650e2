"""Hostile bundles: some in every run of the tests, 20,000 by ``scripts/fuzz bundle``."""

import copy
import json
import os
import random
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from attacks import bundle, weakened
from attacks.bundle_draft import Draft, read_sound
from attacks.bundle_mutations import MUTATIONS, mutate
from attacks.hunting import hunt

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes need rights there")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    outside = folder / "outside"
    bundle.write_sound(folder)
    return [read_sound(folder / name, outside) for name in ("linear", "two")]


def test_each_ends_in_one_typed_error_or_in_a_working_model():
    report = bundle.run(300, seed=20)
    assert not report.findings, str(report)
    assert report.cases == 300
    # Both outcomes occur, and each kind of file is refused.
    assert min(report.outcomes[f"refused: {n}"] for n in ("manifest.json", ".safetensors")) > 30
    worked = report.outcomes["works"] + report.outcomes["works, and decides"]
    assert min(worked, report.outcomes["refused: golden"]) > 5


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_every_kind_changes_a_sound_bundle_and_never_fails_itself(sound, mutation):
    changed = 0
    for number in range(40):
        original = sound[number % 2]
        draft = Draft(copy.deepcopy(original.manifest), dict(original.files), original.outside)
        mutation(random.Random(number), draft)
        same = draft.encoded() == original.encoded() and draft.files == original.files
        changed += not same or bool(draft.disk)
    assert changed > 20


def test_equal_seeds_and_numbers_give_equal_bundles(sound):
    for number in range(50):
        first, again = (mutate(7, number, sound) for _ in range(2))
        assert (first.encoded(), first.files) == (again.encoded(), again.files)


def test_a_mutation_does_not_change_the_sound_bundle(sound):
    before = [json.dumps(draft.manifest) for draft in sound]
    for number in range(100):
        mutate(1, number, sound)
    assert [json.dumps(draft.manifest) for draft in sound] == before


def test_the_attacks_find_each_check_that_is_removed():
    with bundle.prepared() as folder:
        report = hunt(partial(weakened.attack, folder), 64, seed=7)
    for index, (name, _, _, words) in enumerate(weakened.WEAKENED):
        found = [what for n, what in report.findings.items() if n % len(weakened.WEAKENED) == index]
        assert any(re.search(words, what) for what in found), (name, report)


def test_the_guard_reports_what_is_forbidden(tmp_path):
    """In a process of its own: a hook cannot be removed."""
    code = (
        "import sys, os; from pathlib import Path\n"
        "from attacks.guard import ForbiddenError, Guard\n"
        "guard, inside = Guard(), Path(sys.argv[1], 'inside'); inside.mkdir()\n"
        "(inside / 'a').write_bytes(b'a'); (inside / 'out').symlink_to('..')\n"
        "def tried(act):\n"
        "    try:\n"
        "        with guard.watching(inside): act()\n"
        "    except ForbiddenError: pass\n"
        "    return len(guard.seen)\n"
        "import socket, subprocess, pickle\n"
        "print([tried(act) for act in (\n"
        "    lambda: (inside / 'a').read_bytes(), lambda: (inside / 'a').write_bytes(b''),\n"
        "    lambda: (inside / 'out' / 'b').read_bytes(), lambda: open(os.devnull),\n"
        "    lambda: socket.socket(), lambda: subprocess.run(['true']), lambda: os.system(''),\n"
        "    lambda: exec('1'), lambda: __import__('antigravity'), lambda: __import__('os'),\n"
        "    lambda: pickle.loads(b'cos\\nsystem\\n.'), lambda: os.listdir('/'),\n"
        "    lambda: sys.modules.update(new_top_level=sys),\n"
        ")])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(bundle.__file__).parents[1])}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.stdout == "[0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1]\n", result.stderr
