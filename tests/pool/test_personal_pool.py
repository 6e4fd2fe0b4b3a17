"""The personal pool on a real HTCondor: start, use, crash, stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlaas_condor import settings
from mlaas_condor.batch import personal, pool
from mlaas_condor.errors import PoolUnreachable, WrongState

pytestmark = pytest.mark.pool


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Give back what `pool.use` sets in this process; the cache is shared with all tests."""
    before = {name: os.environ.get(name) for name in ("CONDOR_CONFIG", "PATH")}
    os.environ.pop("CONDOR_CONFIG", None)
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def in_folder(folder):
    return settings.load(home=str(folder), pool="personal")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A pool with two simulated V100, for tests that leave it running."""
    own = in_folder(tmp_path_factory.mktemp("shared"))
    info = pool.up(own, cpus=4, simulate_gpus="2,2")
    assert info.running
    yield own
    pool.down(own, force=True)


@pytest.fixture
def own(tmp_path):
    """A pool of one test, not started yet."""
    own = in_folder(tmp_path)
    yield own
    pool.down(own, force=True)


def submit(folder, arguments="true", count=1, **more):
    """Queue jobs of /bin/sh; return cluster number and schedd."""
    import htcondor2

    job = {
        "executable": "/bin/sh",
        "arguments": f"\"-c '{arguments}'\"",
        "should_transfer_files": "NO",
        "initialdir": str(folder),
        "output": "out",
        "error": "err",
        "log": "log",
    }
    schedd = htcondor2.Schedd()
    return schedd.submit(htcondor2.Submit(job | more), count=count).cluster(), schedd


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.1)


def is_alive(pid):
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def states(schedd, cluster):
    return [ad["JobStatus"] for ad in schedd.query(f"ClusterId == {cluster}", projection=["JobStatus"])]


def listening(pids):
    """Return the local addresses on which processes listen."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = str(link.readlink())
            except OSError:
                continue  # closed meanwhile
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"):
        rows = (
            [line.split() for line in Path(table).read_text().splitlines()[1:]]
            if Path(table).exists()
            else []
        )
        # State 0A is LISTEN; a UDP socket without a peer is 07.
        found += [row[1].split(":")[0] for row in rows if row[9] in inodes and row[3] in ("0A", "07")]
    return found


def test_up_twice_is_one_pool(shared):
    folder = pool.folder(shared)
    master = personal.master_pid(folder)
    said = []
    start = time.monotonic()
    info = pool.up(shared, say=said.append)
    assert time.monotonic() - start < 2
    assert info.running
    assert personal.master_pid(folder) == master
    assert list(personal.processes(folder).values()).count("condor_master") == 1
    assert said == [f"The personal pool in {folder} is already running."]


def test_at_once_is_one_pool(own):
    program = (
        "import sys; from mlaas_condor import settings; from mlaas_condor.batch import pool;"
        "print(pool.up(settings.load(home=sys.argv[1], pool='personal')).running)"
    )
    command = [sys.executable, "-c", program, str(own.home)]
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [starter.communicate(timeout=60)[0] for starter in starters] == ["True\n"] * 3
    assert list(personal.processes(pool.folder(own)).values()).count("condor_master") == 1


def test_other_wishes_while_it_runs_are_refused(shared):
    with pytest.raises(WrongState, match="already running, with 4 CPUs and simulated GPUs 2,2"):
        pool.up(shared, cpus=7)
    with pytest.raises(WrongState, match="pool down"):
        pool.up(shared, simulate_gpus="4,1")
    assert pool.up(shared, cpus=4, simulate_gpus="2,2").running


def test_listens_on_loopback_only(shared):
    addresses = listening(personal.processes(pool.folder(shared)))
    assert addresses
    # 127.0.0.1 as the kernel writes it.
    assert set(addresses) == {"0100007F"}


def test_status(shared):
    info = pool.status(shared)
    assert (info.kind, info.running, info.cpus, info.gpus) == ("personal", True, 4, 2)
    assert info.config == str(pool.folder(shared) / "condor_config")
    assert info.memory_mb > 500
    assert int(info.version.split(".")[0]) >= 10
    assert info.schedd


def test_use_is_cheap_and_idempotent(shared):
    found = pool.use(shared)
    assert found == pool.find(shared) == pool.Pool("personal", str(pool.folder(shared) / "condor_config"))
    path = os.environ["PATH"]
    start = time.monotonic()
    pool.use(shared)
    assert time.monotonic() - start < 0.5
    assert os.environ["PATH"] == path
    assert subprocess.run(["condor_q", "-totals"], capture_output=True).returncode == 0


def test_personal_pool_is_not_taken_for_the_sites(shared, tmp_path):
    pool.use(shared)
    other = settings.load(home=str(tmp_path))
    config = str(pool.folder(shared) / "condor_config")
    assert os.environ["CONDOR_CONFIG"] == config
    assert pool.find(other).config != config


def test_job_runs_as_the_owner_of_the_files(shared, tmp_path):
    pool.use(shared)
    start = time.monotonic()
    cluster, schedd = submit(tmp_path, "echo $OMP_NUM_THREADS; echo made > made")
    wait_until(lambda: not states(schedd, cluster))
    assert time.monotonic() - start < 15
    assert (tmp_path / "out").read_text() == "1\n"
    assert (tmp_path / "made").stat().st_uid == os.getuid()


def test_jobs_find_no_programs_of_the_release(shared, tmp_path):
    pool.use(shared)
    cluster, schedd = submit(tmp_path, "command -v python3 perl ps || true", getenv="PATH")
    wait_until(lambda: not states(schedd, cluster))
    assert "htcondor/usr" not in (tmp_path / "out").read_text()


def test_commands_speak_to_the_pool(shared, tmp_path):
    """condor_tail is what the logs of running jobs are read by."""
    pool.use(shared)
    more = {"should_transfer_files": "YES", "transfer_executable": "false"}
    cluster, schedd = submit(tmp_path, "echo hello; sleep 60", **more)
    wait_until(lambda: states(schedd, cluster) == [2])

    def tail():
        return subprocess.run(["condor_tail", f"{cluster}.0"], capture_output=True, text=True).stdout

    wait_until(lambda: "hello" in tail())
    assert pool.status(shared).cpus_busy >= 1
    subprocess.run(["condor_rm", str(cluster)], check=True, capture_output=True)
    wait_until(lambda: not states(schedd, cluster))


def test_dag_runs(shared, tmp_path):
    import htcondor2

    pool.use(shared)
    (tmp_path / "job.sub").write_text(
        "executable = /bin/sh\narguments = \"-c 'touch made.$(NODE)'\"\nlog = log\nqueue\n"
    )
    (tmp_path / "run.dag").write_text(
        'JOB a job.sub\nVARS a NODE="a"\nJOB b job.sub\nVARS b NODE="b"\nPARENT a CHILD b\n'
    )
    dag = tmp_path / "run.dag"
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        cluster = htcondor2.Schedd().submit(htcondor2.Submit.from_dag(str(dag), {"force": True})).cluster()
    finally:
        os.chdir(here)
    schedd = htcondor2.Schedd()
    wait_until(lambda: not states(schedd, cluster), 60)
    assert "EXITING WITH STATUS 0" in (tmp_path / "run.dag.dagman.out").read_text()


def test_simulated_gpus_match(shared, tmp_path):
    pool.use(shared)
    cluster, schedd = submit(tmp_path, "echo $CUDA_VISIBLE_DEVICES", request_gpus="1")
    wait_until(lambda: not states(schedd, cluster))
    assert (tmp_path / "out").read_text().startswith("GPU-")
    # A V100 has 24 GB in the simulation.
    much, _ = submit(tmp_path, request_gpus="1", gpus_minimum_memory="40000")
    time.sleep(4)
    assert states(schedd, much) == [1]
    assert pool.status(shared).jobs_idle >= 1
    subprocess.run(["condor_rm", str(much)], check=True, capture_output=True)


def test_down_is_refused_while_jobs_run(shared, tmp_path):
    pool.use(shared)
    cluster, schedd = submit(tmp_path, "sleep 60")
    wait_until(lambda: states(schedd, cluster) == [2])
    with pytest.raises(WrongState, match="--force"):
        pool.down(shared)
    assert pool.status(shared).running
    subprocess.run(["condor_rm", str(cluster)], check=True, capture_output=True)


def test_down_leaves_no_process_and_keeps_the_queue(own, tmp_path):
    pool.up(own)
    pool.use(own)
    folder = pool.folder(own)
    cluster, schedd = submit(tmp_path, "trap : TERM INT QUIT; while true; do sleep 1; done")
    wait_until(lambda: states(schedd, cluster) == [2])
    wait_until(lambda: "sh" in personal.processes(folder).values())
    before = personal.processes(folder)
    assert "condor_starter" in before.values()
    said = []
    start = time.monotonic()
    pool.down(own, force=True, say=said.append)
    assert time.monotonic() - start < 20
    assert personal.processes(folder) == {}
    assert not [pid for pid in before if is_alive(pid)]
    assert "1 jobs wait in its queue" in said[-1]

    info = pool.status(own)
    assert not info.running
    assert info.cpus == 0
    with pytest.raises(PoolUnreachable, match="mlaas-condor pool up"):
        pool.use(own)
    pool.down(own, say=said.append)
    assert said[-1] == f"No personal pool is running in {folder}."

    assert pool.up(own).running
    pool.use(own)
    import htcondor2

    assert states(htcondor2.Schedd(), cluster) in ([1], [2])


@pytest.mark.parametrize("whom", ["master", "all"])
def test_crash_is_recovered_with_the_queue_kept(own, shared, tmp_path, whom):
    pool.up(own)
    pool.use(own)
    folder = pool.folder(own)
    # The log of the job is not in the folder of the pool, as that of a run is not.
    cluster, schedd = submit(tmp_path, "sleep 300")
    held, _ = submit(tmp_path, hold="true")
    wait_until(lambda: states(schedd, cluster) == [2])
    neighbour = personal.processes(pool.folder(shared))
    master = personal.master_pid(folder)
    victims = [master] if whom == "master" else list(personal.processes(folder))
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: personal.master_pid(folder) is None, 5)
    start = time.monotonic()
    assert not pool.status(own).running
    if whom == "all":
        with pytest.raises(PoolUnreachable):
            pool.use(own)
        assert time.monotonic() - start < 8

    info = pool.up(own)
    assert info.running
    assert personal.master_pid(folder) not in (None, master)
    assert list(personal.processes(folder).values()).count("condor_schedd") == 1
    # The neighbour of the same user was left alone.
    assert set(personal.processes(pool.folder(shared))) >= set(neighbour)
    pool.use(own)
    import htcondor2

    schedd = htcondor2.Schedd()
    assert states(schedd, held) == [5]
    # The state is "running" at once, from before the crash; the log says when it is true.
    executing = f"001 ({cluster:03d}."
    wait_until(lambda: (tmp_path / "log").read_text().count(executing) == 2, 60)


def test_schedd_that_hangs_is_unreachable_within_seconds(own):
    pool.up(own)
    names = {name: pid for pid, name in personal.processes(pool.folder(own)).items()}
    os.kill(names["condor_schedd"], signal.SIGSTOP)
    start = time.monotonic()
    try:
        with pytest.raises(PoolUnreachable, match="no answer within 5 s"):
            pool.use(own)
    finally:
        os.kill(names["condor_schedd"], signal.SIGCONT)
    assert time.monotonic() - start < 8


def test_never_started(tmp_path):
    own = in_folder(tmp_path)
    assert not pool.status(own).running
    with pytest.raises(PoolUnreachable, match=r"never started.*mlaas-condor pool up"):
        pool.use(own)
    pool.down(own)
    assert not (tmp_path / "pool").exists()


def test_site_is_not_ours_to_start_or_stop(own, tmp_path, monkeypatch):
    config = tmp_path / "condor_config"
    config.write_text(f"LOCAL_DIR = {tmp_path}\nCONDOR_HOST = 127.0.0.1\nCONDOR_IDS = 0.0\n")
    monkeypatch.setenv("CONDOR_CONFIG", str(config))
    site = settings.load(home=str(own.home), pool="auto")
    assert pool.find(site) == pool.Pool("site", str(config))
    assert pool.find(own).kind == "personal"
    said = []
    assert not pool.up(site, say=said.append).running
    assert "nothing to start" in said[0]
    with pytest.raises(WrongState, match="not ours to stop"):
        pool.down(site)
    with pytest.raises(PoolUnreachable, match="pool up --personal"):
        pool.use(site)


def test_command_line(own):
    program = "from mlaas_condor.cli.pool import app; app()"
    variables = os.environ | {
        "MLAAS_CONDOR_HOME": str(own.home),
        "MLAAS_CONDOR_POOL": "personal",
        "COLUMNS": "200",
    }
    variables.pop("CONDOR_CONFIG", None)

    def run(*arguments):
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout

    assert "not running" in run("status")
    assert "5, 0 busy" in run("up", "--cpus", "5")
    info = json.loads(run("status", "--json"))
    assert (info["running"], info["cpus"], info["kind"]) == (True, 5, "personal")
    assert "5, 0 busy" in run("status")
    asked = f"{run('env')}condor_q -totals"
    assert (
        "Total for"
        in subprocess.run(["sh", "-c", asked], env=variables, capture_output=True, text=True).stdout
    )
    run("down")
    assert json.loads(run("status", "--json"))["running"] is False
