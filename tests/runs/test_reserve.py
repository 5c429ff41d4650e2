"""Places of runs: taken by one at a time, given back however a process ends, and nothing lost."""

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import regraft
from regraft.errors import DataError, DiskFullError, RunError
from regraft.runs.metrics_file import write_metrics
from regraft.runs.reserve import reserve

#: Other processes import the regraft that is tested here, not one that is installed.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(regraft.__file__).parents[1])}
MAKE = "import sys; from pathlib import Path; from regraft.runs.reserve import reserve\n"


def fill(folder, word="new"):
    """Write what makes a folder a run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "split.csv").write_text(word, encoding="utf-8")
    write_metrics(folder, {"regraft": "0", "task": "single-label", "backbone": {}})
    return folder


def word_of(folder):
    return (folder / "split.csv").read_text(encoding="utf-8")


def make(out, *, word="new", meanwhile=None, **options):
    with reserve(out, "photos", **{"overwrite": False, **options}) as reserved:
        if meanwhile is not None:
            meanwhile()
        with reserved.new_folder() as new:
            fill(new, word)
    return reserved.folder


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


RUN = ["metrics.json", "split.csv"]


def test_a_run_appears_whole_and_nothing_else_stays(tmp_path):
    assert make(tmp_path / "a" / "run") == tmp_path / "a" / "run"
    assert tree(tmp_path) == ["a", "a/run", *(f"a/run/{name}" for name in RUN)]


def test_what_fails_leaves_nothing(tmp_path):
    for error in (ValueError, KeyboardInterrupt):
        with (  # noqa: PT012 - the error comes from the block
            pytest.raises(error),
            reserve(tmp_path / "a" / "b", "x", overwrite=False) as reserved,
            reserved.new_folder() as new,
        ):
            (new / "half").touch()
            raise error
        assert tree(tmp_path) == []


def close_as_a_lost_mount_does(lock):
    """Close the lock's descriptor, so that closing it once more fails."""
    for descriptor in range(3, 4096):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                os.close(descriptor)
                return
    raise AssertionError(lock)


@pytest.mark.skipif(sys.platform == "win32", reason="locks are opened otherwise there")
def test_what_ended_a_run_is_reported_though_its_lock_cannot_be_closed(tmp_path):
    """A network file system that went away in the middle; closing it raised EIO or ENOTCONN."""
    with (  # noqa: PT012 - the error comes from the block
        pytest.raises(DataError, match="cannot be read"),
        reserve(tmp_path / "run", "x", overwrite=False),
    ):
        close_as_a_lost_mount_does(tmp_path / ".run.part" / "regraft.lock")
        raise DataError("a.jpg cannot be read")
    assert tree(tmp_path) == []


def test_names_follow_the_data(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for data, name in (
        ("photos/flowers.zip", "flowers"),
        (Path("a b/c d"), "c-d"),
        ("x.TAR.gz", "x"),
        (([], []), "arrays"),
        ("é" * 300, "é" * 60),
        ("...", "run"),
    ):
        with reserve(None, data, overwrite=False) as reserved:
            assert reserved.folder == Path("regraft-runs") / name
    assert tree(tmp_path) == ["here"]


def test_the_name_of_a_stopped_training_is_left_to_it(tmp_path, monkeypatch):
    """A probe of the same data took it, and the training that was resumed began at another path."""
    monkeypatch.chdir(tmp_path)

    def stopped(run):
        return run.name in {"photos", "photos-3"}

    assert make(None, is_stopped=stopped).name == "photos-2"
    assert make(None, is_stopped=stopped).name == "photos-4"
    assert make(None, is_stopped=stopped, resume=True).name == "photos"
    assert make(None, is_stopped=stopped, resume=True).name == "photos-3"
    assert make(None, is_stopped=stopped, resume=True).name == "photos-5"  # nothing to resume


def test_two_at_once_have_two_paths(tmp_path, monkeypatch):
    """In one process and in two: the second one sees that the first path is taken."""
    monkeypatch.chdir(tmp_path)
    code = (
        MAKE
        + "with reserve(None, 'photos', overwrite=False) as reserved: print(reserved.folder.name)"
    )
    with reserve(None, "photos", overwrite=False) as first:
        with reserve(None, "photos", overwrite=False) as second:
            other = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                check=True,
                env=ENVIRONMENT,
            )
            with second.new_folder() as new:
                fill(new, "second")
        with first.new_folder() as new:
            fill(new, "first")
    assert (first.folder.name, second.folder.name) == ("photos", "photos-2")
    assert (other.stdout.strip(), other.stderr) == ("photos-3", "")
    assert [word_of(reserved.folder) for reserved in (first, second)] == ["first", "second"]
    assert sorted(path.name for path in Path("regraft-runs").iterdir()) == ["photos", "photos-2"]


def test_many_at_once_have_as_many_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = threading.Barrier(8)
    made = []

    def one(number):
        start.wait()
        made.extend(make(None, word=f"{number} {turn}") for turn in range(5))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 40
    assert len({word_of(folder) for folder in made}) == 40
    assert len(list(Path("regraft-runs").iterdir())) == 40


def test_a_named_path_that_is_taken_is_reported_at_once(tmp_path):
    message = (
        f"another run is writing to {tmp_path / 'run'}\nhint: `out` names another folder; "
        f"where no run is alive, remove {tmp_path / '.run.part'}"
    )
    with reserve(tmp_path / "run", "x", overwrite=True):
        with pytest.raises(RunError) as caught, reserve(tmp_path / "run", "x", overwrite=True):
            pass
        assert str(caught.value) == message
    assert tree(tmp_path) == []


KILLED = """
path = Path(sys.argv[1])
with reserve(path, "x", overwrite=True) as reserved:
    with reserved.new_folder() as new:
        (new / "half").touch()
        if sys.argv[2] == "between":
            real = Path.replace
            def replace(self, target):
                if target == path:
                    print("ready", flush=True); sys.stdin.read()
                return real(self, target)
            Path.replace = replace
        else:
            print("ready", flush=True); sys.stdin.read()
"""


@pytest.mark.parametrize("moment", ["writing", "between"])
@pytest.mark.parametrize("following", ["run", "other"])
def test_after_a_kill_the_next_run_tidies_up_and_the_old_run_is_back(tmp_path, moment, following):
    """In the middle of writing, and between the two renames, when there is no run."""
    run = fill(tmp_path / "run", "old")
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE + KILLED, str(run), moment],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    with process:
        assert process.stdout.readline().strip() == b"ready"
        with pytest.raises(RunError, match="another run is writing to"):
            make(run, overwrite=True)  # it still lives: hands off
        process.kill()
    assert (tmp_path / ".run.part").is_dir()
    if following == "run":
        with pytest.raises(RunError, match="already holds a run"):
            make(run)
        assert word_of(run) == "old"
        make(run, overwrite=True)
        assert word_of(run) == "new"
        assert tree(tmp_path) == ["run", *(f"run/{name}" for name in RUN)]
    else:
        make(tmp_path / "other")
        assert word_of(run) == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


def test_folders_that_only_seem_to_be_leftovers_stay(tmp_path):
    for name in (".run.part", ".other.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(RunError, match="another run is writing to"):
        make(tmp_path / "run")
    make(tmp_path / "third")
    assert (tmp_path / ".run.part" / "thesis.txt").exists()
    assert (tmp_path / ".other.part" / "thesis.txt").exists()


def test_what_came_meanwhile_is_left_alone_and_the_new_run_is_kept(tmp_path):
    def thesis():
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.txt").write_text("precious", encoding="utf-8")

    with pytest.raises(RunError) as caught:
        make(tmp_path / "run", meanwhile=thesis, overwrite=True)
    assert str(caught.value) == (
        f"something else was put at {tmp_path / 'run'} while this run was computing; "
        f"it is left alone\nhint: the new run is at {tmp_path / 'run-2'}"
    )
    assert tree(tmp_path / "run") == ["thesis.txt"]
    assert word_of(tmp_path / "run-2") == "new"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_that_came_meanwhile_is_replaced_only_where_asked(tmp_path):
    def other():
        fill(tmp_path / "run", "other")

    with pytest.raises(RunError, match="something else was put"):
        make(tmp_path / "run", meanwhile=other)
    assert word_of(tmp_path / "run") == "other"
    make(tmp_path / "run", meanwhile=other, overwrite=True)
    assert word_of(tmp_path / "run") == "new"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_named_and_links_on_the_way_are_followed_once(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for target in (tmp_path / "link", tmp_path / "dangling"):
        if not target.is_symlink():
            target.symlink_to("nowhere")
        with pytest.raises(RunError) as caught:
            make(target, overwrite=True)
        assert str(caught.value) == (
            f"{target} is a link\nhint: name the folder itself: `out={os.path.realpath(target)!r}`"
        )

    def turn():
        (tmp_path / "link").unlink()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "link").symlink_to("elsewhere")

    make(tmp_path / "link" / "run", meanwhile=turn)
    assert word_of(tmp_path / "real" / "run") == "new"
    assert tree(tmp_path / "elsewhere") == []


def test_a_change_of_directory_moves_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    make(Path("run"), meanwhile=lambda: os.chdir("sub"))
    assert word_of(tmp_path / "run") == "new"
    assert tree(tmp_path / "sub") == []


def test_nothing_that_the_run_needs_lies_in_what_is_replaced(tmp_path):
    run = tmp_path / "run"
    (run / "photos").mkdir(parents=True)
    for data, store, what in (
        (
            "x",
            run / "cache",
            f"the feature store, {run / 'cache'}, would be in the run folder {run}",
        ),
        ("x", run, "the feature store"),
        (run / "photos", None, f"the data, {run / 'photos'}, would be in the run folder {run}"),
    ):
        with pytest.raises(RunError) as caught, reserve(run, data, overwrite=True, store=store):
            pass
        assert str(caught.value).startswith(what)
        assert caught.value.hint == "`out` names another folder"
    with reserve(run / "photos" / "deep", "x", overwrite=False, store=run):
        pass  # a store above is fine: nothing of it is replaced


def test_a_run_is_not_put_into_the_data(tmp_path, monkeypatch):
    (tmp_path / "photos" / "roses").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos")
    for out in (None, Path("run"), tmp_path / "photos" / "roses" / "run"):
        message = r"would be in the data, \.: the next training would take its pictures for images"
        with pytest.raises(RunError, match=message), reserve(out, ".", overwrite=False):
            pass
    with reserve(tmp_path / "run", ".", overwrite=False):
        pass
    assert tree(tmp_path) == ["photos", "photos/roses"]


AS_A_USER = """
import contextlib, os, sys, warnings
from pathlib import Path
import filelock
from regraft.core.files import write_atomic
from regraft.errors import RegraftError
from regraft.runs.metrics_file import write_metrics
from regraft.runs.reserve import reserve

if os.geteuid() == 0:  # permissions do not bind root
    os.setgid(65534); os.setuid(65534)
os.chdir(sys.argv[1])


def make(meanwhile=lambda: None):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with reserve(Path("run"), "x", overwrite=True) as reserved:
                meanwhile()
                with reserved.new_folder() as new:
                    (new / "bundle").mkdir()
                    (new / "bundle" / "weights").touch()
                    write_atomic(new / "split.csv", b"")
                    write_metrics(new, {"regraft": "0", "task": "t", "backbone": {}})
        except RegraftError as error:
            print(str(error).replace(os.getcwd() + "/", ""))
    for each in warned:
        print("warning:", str(each.message).replace(os.getcwd() + "/", ""))
    print(*sorted(os.listdir()))


bundle = Path("run/bundle")
make()
make(lambda: bundle.chmod(0o555))
make()
for mode in (0o555, 0o333, 0o666):
    bundle.chmod(mode)
    make()
bundle.chmod(0o755)
make(lambda: bundle.parent.chmod(0o555))
bundle.parent.chmod(0o755)
Path("run-old/bundle").chmod(0o755)
Path(".run.part").mkdir()  # as a version left it that did not move it beside
(Path(".run.part") / "regraft.lock").touch()
Path("run-old").rename(".run.part/old")
make()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of folders are others there")
def test_a_run_that_cannot_be_removed_whole_is_named_and_is_in_nobodys_way():
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        done = subprocess.run(
            [sys.executable, "-c", AS_A_USER, folder],
            capture_output=True, text=True, check=False, env=ENVIRONMENT,
        )  # fmt: skip
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == [
        "run",
        "warning: an earlier run could not be removed; what is left of it is at run-old",
        "run run-old",
        "run run-old",  # the next run works
        *[  # said before the work, where the right to write, to read or to look up is missing
            "run cannot be replaced: no right to read and change run/bundle",
            "hint: give it (chmod -R u+rwX run); `out` names another folder",
            "run run-old",
        ]
        * 3,
        "the run at run cannot be moved: Permission denied; it is left alone",
        "hint: the new run is at run-2",  # the work is not lost
        "run run-2 run-old",
        "run run-2",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of open files to set")
def test_a_place_without_room_for_the_lock_is_given_back(tmp_path):
    """No descriptor is left: the folder can be made and the lock cannot, as without inodes."""
    code = (
        MAKE
        + "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        + "with reserve(Path(sys.argv[1]), 'x', overwrite=False): pass"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import filelock; " + code, str(tmp_path / "a" / "run")],
        capture_output=True, text=True, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == (
        f"regraft.errors.RunError: {tmp_path / 'a' / 'run'} cannot be written: Too many open files"
    )
    assert tree(tmp_path) == []


def test_paths_that_cannot_be_written_are_reported_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be made: .*file is a file"):
        make(tmp_path / "file" / "a" / "b")
    with pytest.raises(RunError, match="exists and is not a run; it is left alone"):
        make(tmp_path / "file")
    with pytest.raises(RunError, match="cannot be written: File name too long"):
        make(tmp_path / ("x" * 255))

    if sys.platform == "linux":  # a folder where none can be made, which once was tried for ever
        with pytest.raises(RunError, match=r"^/proc/run cannot be written: No such file"):
            make(Path("/proc/run"))

    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(DiskFullError, match="no space left for"):
        make(tmp_path / "run")
