"""The text of a job's script, what is refused before there is one, and how a process finds its place under Slurm."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from phalanx.errors import InputError
from phalanx.launch.slurm import Job, launch, script
from phalanx.runtime import process_group, rendezvous
from tests.train.runs import Corpus, make_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def options(text: str) -> dict[str, str]:
    """What the #SBATCH lines say, as Slurm reads them."""
    lines = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert all(len(line) == 1 for line in lines)
    return dict(line[0].removeprefix("--").partition("=")[::2] for line in lines)


def run_with(text: str, code: int, state: str, folder: Path) -> tuple[int, str]:
    """The script's exit code and what it told Slurm, when training ends with `code` and the job is then in `state`."""
    bodies = {
        "srun": f"echo >> {folder}/starts; exit {code}",
        "squeue": f"echo {state}",
        "scontrol": f'echo "$@" > {folder}/told',
    }
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"}
    ended = subprocess.run(["bash"], input=text, text=True, env=environment, check=False).returncode
    told = folder / "told"
    return ended, told.read_text().strip() if told.exists() else ""


def test_asks_for_what_was_asked():
    job = Job(64, 8, True, 4, "1-0", name="big", options=("partition=gpu", "exclusive", "comment=it's a test"))
    said = options(script("gpt2-8.3b", ["layout.tp=8"], Path("runs/a b"), job))
    assert said == {
        "job-name": "big", "nodes": "64", "ntasks-per-node": "8", "gpus-per-node": "8", "cpus-per-task": "4",
        "time": "1-0", "partition": "gpu", "exclusive": "", "comment": "it's a test", "chdir": str(Path.cwd()),
        "output": f"{Path.cwd()}/runs/a b/slurm-%j.log", "signal": "TERM@300", "requeue": "", "open-mode": "append",
    }  # fmt: skip


def test_asks_for_no_gpus_and_no_time_where_none_were_named():
    assert options(script("gpt-tiny", [], Path("runs/x"), Job(1, 2, False))).keys() & {"gpus-per-node", "time"} == set()


def test_starts_the_same_command(tmp_path):
    words = ["data.train=my books", "layout.tp=2"]
    text = script("gpt-tiny", words, tmp_path / "out", Job(1, 2, False))
    (tmp_path / "srun").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_CPUS_PER_TASK": "1"}
    subprocess.run(["bash"], input=text, text=True, env=environment, check=True)
    python = ["--kill-on-bad-exit=1", sys.executable, "-m", "phalanx"]
    assert (tmp_path / "words").read_text().splitlines() == [
        *python, "train", "gpt-tiny", *words, "--out", str(tmp_path / "out")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "state", "told"),
    [
        (143, "RUNNING", "requeue 7"),
        (143, "COMPLETING", ""),  # cancelled
        (143, "PENDING", ""),  # requeued by Slurm
        (0, "RUNNING", ""),
        (1, "RUNNING", ""),
        (2, "RUNNING", ""),
    ],
)
def test_queues_again_only_what_was_stopped(code, state, told, tmp_path):
    text = script("gpt-tiny", [], Path("runs/x"), Job(1, 2, False))
    assert run_with(text, code, state, tmp_path) == (code, told)


@pytest.mark.parametrize(("code", "starts"), [(1, 3), (139, 3), (0, 1), (2, 1), (143, 1)])
def test_starts_again_after_a_crash_only(code, starts, tmp_path):
    text = script("gpt-tiny", [], Path("runs/x"), Job(1, 2, False, restarts=2))
    assert run_with(text, code, "COMPLETING", tmp_path)[0] == code
    assert (tmp_path / "starts").read_text().count("\n") == starts


@pytest.mark.parametrize("time", ["6", "5:01", "0:05:01", "0-1", "0-0:06", "0-0:05:01", "90:00", "2-00:00:00"])
def test_understands_slurms_times(time):
    Job(1, 1, False, time=time, grace=300).check()


@pytest.mark.parametrize(
    ("job", "words", "says"),
    [
        (Job(3, 1, False), [], "layout.tp=2 .* does not fit 3 processes; start 2"),
        (Job(2, 4, True), ["layout.dp=2"], "layout.tp=2 .* dp=2 = 4 does not fit 8 processes"),
        (Job(1, 2, False), ["model.heads=1"], "layout.tp=2 does not divide model.heads=1"),
        (Job(1, 2, False, time="5"), [], "--time 5 leaves nothing .* 300 s"),
        (Job(1, 2, False, time="0-0:05"), [], "--time 0-0:05 leaves nothing"),
        (Job(1, 2, False, time="5h"), [], "--time 5h is no time"),
        (Job(1, 2, False, options=("nodes=4",)), [], "--sbatch nodes=4: the script says nodes itself"),
        (Job(1, 2, False, options=("--qos=long",)), [], "'--qos=long' is no option .* qos=long"),
        (Job(1, 2, False, options=("comment=a\nrm",)), [], "is no option of sbatch"),
        (Job(1, 2, False, name="a\nrm"), [], r"job-name 'a\\nrm' holds a character"),
    ],
)
def test_refuses_before_anything_is_written(job, words, says, corpus, tmp_path):
    with pytest.raises(InputError, match=says):
        launch("gpt-tiny", [*corpus.words("gpt"), "layout.tp=2", *words], tmp_path / "run", job, dry=False)
    assert not (tmp_path / "run").exists()


def test_says_why_slurm_refused_it(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    words, job = [*corpus.words("gpt"), "layout.tp=2"], Job(1, 2, False)
    with pytest.raises(InputError, match="no sbatch here"):
        launch("gpt-tiny", words, tmp_path / "run", job, dry=False)
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    with pytest.raises(InputError, match="is written, but Slurm refused it: invalid partition"):
        launch("gpt-tiny", words, tmp_path / "run", job, dry=False)


STEP = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "20007"}


@pytest.fixture
def environment(monkeypatch):
    """The variables that say a process's place, none of them set, and put back afterwards."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MASTER_ADDR", "first")
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_task_of_several_finds_its_place(environment):
    environment.setenv("SLURM_STEP_NUM_TASKS", "4")
    process_group.adopt_slurm()
    assert (rendezvous.rank(), rendezvous.world()) == (3, 4)


def test_torchrun_in_a_task_is_believed(environment):
    environment.setenv("SLURM_STEP_NUM_TASKS", "4")
    environment.setenv("RANK", "0")
    environment.setenv("WORLD_SIZE", "2")
    process_group.adopt_slurm()
    assert (rendezvous.rank(), rendezvous.world()) == (0, 2)


def test_a_job_script_without_srun_is_one_process(environment):
    """Its variables speak of the tasks that srun would start."""
    process_group.adopt_slurm()
    assert (rendezvous.rank(), rendezvous.world()) == (0, 1)
