"""The scripts, run on copies, with stand-ins for Python and pip: no network, nothing installed."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["_environment", "docs", "fbp", "lint", "test"]
# All that the scripts call beside Python.
TOOLS = ["cksum", "dirname", "grep", "mkdir", "rm", "sh", "tail", "tee", "touch"]

# A stand-in for python3, and, copied by its own `-m venv`, for .venv/bin/python and .venv/bin/fbp.
# It notes each call; $PIP and $VENV are commands that it runs for an install and a new .venv.
STAND_IN = """#!/bin/sh
case "$*" in
*'import fcntl'*) exec "$REAL_PYTHON" "$@" ;;
*version_info*) echo {version} && exit ;;
*'import pip'*) exit ;;
esac
echo "${{0##*/}} $*" >>"$CALLS"
case "$*" in
*'-m venv'*)
    eval "$VENV"
    for venv; do :; done
    mkdir -p "$venv/bin" && cp "$0" "$venv/bin/python" && cp "$0" "$venv/bin/fbp"
    ;;
*'-m pip install'*)
    echo 'Collecting jax'
    eval "$PIP"
    ;;
*)
    printf '<%s>' "$@"
    echo "${{PYTHONPATH-}}"
    eval "$COMMAND"
    ;;
esac
"""


class Project:
    """A copy of the project in a folder with a space in its name, and a PATH of its own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a project"
        self.bin = folder / "bin"
        self.calls_file = folder / "calls"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self.bin.mkdir()
        for tool in [*TOOLS, "cat", "cp", "sleep"]:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        self.add_python("python3", "3.12")

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def add_python(self, name: str, version: str) -> Path:
        python = self.bin / name
        python.write_text(STAND_IN.format(version=version))
        python.chmod(0o755)
        return python

    def start(
        self, script: str, *args: str, cwd: Path | None = None, **env: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / "scripts" / script, *args],
            cwd=cwd or self.root,
            env={
                "PATH": str(self.bin),
                "REAL_PYTHON": sys.executable,
                "CALLS": str(self.calls_file),
                "VENV": "",
                "PIP": "",
                "COMMAND": "",
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, script: str, *args: str, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(script, *args, cwd=cwd, **env)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def calls(self, part: str = "") -> list[str]:
        """The calls since this was last asked that have `part` in them."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [line for line in lines if part in line]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a script says why it failed."""
    assert done.returncode != 0
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    if lines[0].startswith("Installing"):
        del lines[0]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_syntax(shell: str, script: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not here")
    subprocess.run([shell, "-n", ROOT / "scripts" / script], check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not here")
def test_syntax_of_ci() -> None:
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_scripts_can_be_started() -> None:
    for script in ["scripts/docs", "scripts/fbp", "scripts/lint", "scripts/test", ".ci/run"]:
        assert os.access(ROOT / script, os.X_OK), script


def test_first_start_installs_and_second_does_not(project: Project, tmp_path: Path) -> None:
    args = ["train", "two words", "", "*", "--lr=1e-3"]
    first = project.run("fbp", *args, cwd=tmp_path)
    assert first.returncode == 0
    assert first.stdout == "<train><two words><><*><--lr=1e-3>\n"
    assert first.stderr == "Installing fbp into .venv (about a minute, once)\n"
    assert len(project.calls("pip install --editable .[train]")) == 1
    assert "Collecting jax" in (project.venv / "install.log").read_text()

    second = project.run("fbp", *args, cwd=tmp_path)
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert project.calls() == ["fbp train two words  * --lr=1e-3"]


def test_status_of_the_command_is_the_status_of_the_script(project: Project) -> None:
    assert project.run("fbp", COMMAND="exit 7").returncode == 7


def test_tests_leave_out_the_slow_ones_unless_told(project: Project, tmp_path: Path) -> None:
    done = project.run("test", cwd=tmp_path)
    parallel = "<-n><auto><--maxprocesses><8><--dist><worksteal>"
    assert done.stdout == f"<-m><pytest><-m><not slow and not torch>{parallel}\n"
    # pytest takes the last -m.
    done = project.run("test", "-m", "slow or torch", "tests/a b.py")
    assert done.stdout.endswith("<-m><slow or torch><tests/a b.py>\n")


def test_lint_runs_every_check_and_fails_if_one_does(project: Project) -> None:
    done = project.run("lint", COMMAND="[ $2 != ruff ]")
    assert done.returncode == 1
    assert done.stdout == "<-m><ruff><check>\n<-m><ruff><format><--check>\n<-m><mypy>\n"
    assert project.run("lint").returncode == 0


def test_docs_are_strict(project: Project, tmp_path: Path) -> None:
    done = project.run("docs", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("<-m><sphinx><--fail-on-warning>")
    assert project.run("docs", COMMAND="false").returncode == 1


def test_foreign_packages_stay_out(project: Project) -> None:
    assert project.run("fbp", PYTHONPATH="/elsewhere").stdout == "<>\n"


def test_each_extra_is_installed_once(project: Project) -> None:
    for script in ["fbp", "test", "fbp", "test", "fbp"]:
        assert project.run(script).returncode == 0
    calls = project.calls("pip install")
    assert [line.rsplit(" ", 1)[1] for line in calls] == [".[train]", ".[test]"]


def test_changed_pyproject_is_installed(project: Project) -> None:
    project.run("fbp")
    project.run("test")
    project.calls()
    with (project.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert project.run("fbp").returncode == 0
    assert project.run("test").returncode == 0
    assert len(project.calls("pip install")) == 2


def test_moved_folder_is_installed(project: Project) -> None:
    project.run("fbp")
    project.calls()
    project.root = project.root.rename(project.root.with_name("moved"))
    assert project.run("fbp").returncode == 0
    assert len(project.calls("pip install")) == 1


def test_python_that_is_too_old(project: Project) -> None:
    old = project.add_python("old", "3.9")
    line = complaint(project.run("fbp", PYTHON=str(old)))
    assert "3.11" in line
    assert f"{old} is 3.9" in line
    assert not project.venv.exists()


def test_every_python_on_the_path_is_too_old(project: Project) -> None:
    project.add_python("python3", "3.10")
    project.add_python("python", "2.7")
    line = complaint(project.run("test"))
    assert "3.11" in line
    assert "python3 is 3.10, python is 2.7" in line


def test_no_python(project: Project) -> None:
    (project.bin / "python3").unlink()
    assert "no Python" in complaint(project.run("fbp"))


def test_a_newer_python_beside_an_old_one_is_found(project: Project) -> None:
    project.add_python("python3", "3.9")
    project.add_python("python3.13", "3.13")
    assert project.run("fbp").returncode == 0
    assert project.calls("-m venv")[0].startswith("python3.13 ")


def test_python_of_ones_choice(project: Project) -> None:
    chosen = project.add_python("my python", "3.11")
    assert project.run("fbp", PYTHON=str(chosen)).returncode == 0
    assert project.calls("-m venv")[0].startswith("my python ")


def test_file_in_the_way(project: Project) -> None:
    project.venv.write_text("")
    assert f"cannot write to {project.venv}" in complaint(project.run("fbp"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_is_not_writable(project: Project) -> None:
    project.root.chmod(0o555)
    try:
        line = complaint(project.run("fbp"))
    finally:
        project.root.chmod(0o755)
    assert line.endswith(f"cannot write to {project.venv}: Permission denied")


def test_no_network(project: Project) -> None:
    pip = "echo 'Retrying after connection broken by NewConnectionError' && exit 1"
    line = complaint(project.run("fbp", PIP=pip))
    assert "network" in line
    log = project.venv / "install.log"
    assert str(log) in line
    assert "NewConnectionError" in log.read_text()

    # Nothing was installed, so nothing has to be made anew.
    project.calls()
    assert project.run("fbp").returncode == 0
    assert not project.calls("-m venv")


def test_no_network_for_one_extra_leaves_the_other(project: Project) -> None:
    project.run("fbp")
    complaint(project.run("test", PIP="echo ConnectionError && exit 1"))
    project.calls()
    assert project.run("fbp").stderr == ""
    assert len(project.calls()) == 1


def test_full_disk(project: Project) -> None:
    pip = "echo 'OSError: [Errno 28] No space left on device' && exit 1"
    assert "disk is full" in complaint(project.run("fbp", PIP=pip))


def test_venv_is_missing(project: Project) -> None:
    venv = "echo 'python3: No module named venv' && exit 1"
    assert "lacks venv" in complaint(project.run("fbp", VENV=venv))


def test_any_other_failure_of_pip(project: Project) -> None:
    pip = "echo 'ERROR: No matching distribution found for jax' && exit 1"
    line = complaint(project.run("fbp", PIP=pip))
    assert "No matching distribution found for jax" in line
    assert "install.log" in line


def test_failed_install_is_made_anew(project: Project) -> None:
    complaint(project.run("fbp", PIP="echo 'ERROR: half of it' && exit 1"))
    (project.venv / "half").touch()
    project.calls()
    assert project.run("fbp").returncode == 0
    assert len(project.calls("-m venv")) == 1
    assert not (project.venv / "half").exists()


def test_killed_install_is_made_anew_once_its_pip_has_ended(
    project: Project, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    killed = project.start("fbp", PIP=f"touch '{started}' && sleep 0.5")
    while not started.exists():
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    project.calls()

    done = project.run("fbp", "train")
    killed.communicate()
    assert done.stdout == "<train>\n"
    assert done.stderr.startswith("Waiting for another script")
    assert len(project.calls("-m venv")) == 1


def test_venv_whose_python_is_gone_is_made_anew(project: Project) -> None:
    project.run("fbp")
    project.calls()
    (project.venv / "bin" / "python").unlink()
    (project.venv / "bin" / "python").symlink_to("/nowhere/python")
    assert project.run("fbp").returncode == 0
    assert len(project.calls("-m venv")) == 1


def test_venv_that_is_already_there_is_kept(project: Project) -> None:
    (project.venv / "bin").mkdir(parents=True)
    for name in ["python", "fbp"]:
        shutil.copy(project.bin / "python3", project.venv / "bin" / name)
    assert project.run("fbp").returncode == 0
    assert not project.calls("-m venv")


def test_two_scripts_at_once_install_once(project: Project) -> None:
    both = [project.start("fbp", str(i), PIP="sleep 0.3") for i in range(2)]
    for i, process in enumerate(both):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out == f"<{i}>\n"
    assert len(project.calls("pip install")) == 1


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_real_thing(tmp_path: Path) -> None:
    root = tmp_path / "a project"
    leave_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "runs")
    shutil.copytree(ROOT, root, ignore=leave_out)

    def seconds(command: Path) -> float:
        start = time.perf_counter()
        subprocess.run([command, "--help"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    seconds(root / "scripts" / "fbp")
    by_script, by_itself = [
        min(seconds(root / folder / "fbp") for _ in range(3)) for folder in ("scripts", ".venv/bin")
    ]
    assert by_script < by_itself + 1
