"""The command line and Python against the real service: the same words, tables and exit codes as here."""

import gzip
import io
import json
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from lines import Line, closed
from web_tools import RECORDED, record
from werkzeug.serving import WSGIRequestHandler, make_server

from mlaas_condor import Request, Service, run, settings, workflow
from mlaas_condor.client import calling, downloading, listening, remoterun
from mlaas_condor.errors import InputChanged, RequestError, RunFailed, RunNotFound, WrongState
from mlaas_condor.run import RunFolder
from mlaas_condor.server.acting.submissions import Submitted

VERBS = ["status", "watch", "logs", "model", "cancel", "resume", "delete"]


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


@contextmanager
def served(app):
    """Serve an application on loopback, behind a line that can be cut; give the line."""
    server = make_server("127.0.0.1", 0, closed(app), threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    line = Line(server.server_port)
    try:
        yield line
    finally:
        line.close()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    for module in (calling, downloading):
        monkeypatch.setattr(module, "WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(calling, "_LONGEST_WAIT", 0.01)
    monkeypatch.setattr(listening, "_WAIT", 0.01)
    monkeypatch.setattr(remoterun, "_POLL_SECONDS", 0.05)


@pytest.fixture
def line(app):
    """The service for one user."""
    with served(app) as line:
        yield line


@pytest.fixture
def remote(line, monkeypatch):
    """The same, named in the environment."""
    monkeypatch.setenv("MLAAS_CONDOR_SERVER", line.url)
    return line


@pytest.fixture
def me(app, line):
    """Who the one user is."""
    return Service(line.url).me()["owner"]


@pytest.fixture
def runs(app, me):
    """Three recorded runs of the one user, and the same of this machine."""
    here = settings.load().runs
    completed(app, me, "completed_1")
    for name in ("failed_1", "cancelled_1"):
        record(app, name, me)
    for name in ("completed_1", "failed_1", "cancelled_1"):
        shutil.copytree(RECORDED / name, here / name)


@pytest.fixture
def without_pool(app):
    """Have a recorded run brought back by whatever is submitted, as no pool is there."""
    service = app.extensions["mlaas_condor"]
    asked = []

    class Submissions:
        def __getattr__(self, name):
            return getattr(service.submissions, name)

        def submit(self, identity, owner, job, folder, key, request_id):
            name = next((each[0] for each in asked if each[1] == key), f"tiny_{len(asked) + 1}")
            asked.append((name, key, dict(job), folder))
            repeated = len({each[1] for each in asked}) < len(asked)
            if not repeated:
                planned = workflow.plan(Request.of(job, folder.path), settings.load())
                planned.plan.write(completed(app, owner, name).plan)
            return Submitted(name=name, job_id=7, warnings=("mind the gap",), repeated=repeated)

    app.extensions["mlaas_condor"] = replace(service, submissions=Submissions())
    return asked


def completed(app, owner, name, **belongs):
    """Give somebody the recorded run that is completed, by any name, with a large bundle."""
    record(app, "completed_1", owner, as_name=name, **belongs)
    folder = RunFolder(app.extensions["mlaas_condor"].settings_of(owner).runs / name)
    (folder.output("report") / "completed_1.tar.gz").unlink()
    folder.bundle.write_bytes(gzip.compress(bytes(range(256)) * 8000, 0))
    run.mark(folder.output("report"), 0, [folder.bundle])
    return folder


def uploads(line):
    return [each for each in line.seen if each.startswith("PUT /api/v1/folders/")]


# --- looking


def plainly(text):
    """Return what was printed, but for where the model is, and for what is at the end of lines."""
    lines = [line.rstrip() for line in text.splitlines() if not line.startswith(("model:", "bundle"))]
    return [line for line in lines if line]


@pytest.mark.parametrize("name", ["completed_1", "failed_1", "cancelled_1"])
def test_the_status_is_that_of_this_machine(command, runs, line, name):
    here = command("--server", "local", "status", name)
    there = command("--server", line.url, "status", name)
    assert there[0] == here[0] == 0 and plainly(there[1]) == plainly(here[1])
    here, there = (
        json.loads(command("--server", where, "status", name, "--json")[1]) for where in ("local", line.url)
    )
    assert there.keys() == here.keys() and there["stages"] == here["stages"]
    assert there["failures"] == here["failures"] and there["notes"] == here["notes"]


def test_the_list_is_that_of_this_machine(command, runs, line):
    for arguments in (["list"], ["status"], ["list", "--json"]):
        here = command("--server", "local", *arguments)
        there = command("--server", line.url, *arguments)
        assert there[0] == here[0] == 0
        if "--json" not in arguments:
            assert sorted(plainly(there[1])) == sorted(plainly(here[1]))
    here, there = ({each["name"]: each for each in json.loads(answer[1])} for answer in (here, there))
    assert there.keys() == here.keys()
    for name in here:
        assert there[name].keys() == here[name].keys() and there[name]["stages"] == here[name]["stages"]


def test_a_long_list_comes_in_parts(command, app, me, remote, monkeypatch):
    from mlaas_condor.client import service as client

    monkeypatch.setattr(client, "_PAGE", 2)
    for i in range(1, 6):
        record(app, "failed_1", me, as_name=f"tiny_{i}")
    assert {each["name"] for each in json.loads(command("list", "--json")[1])} == {
        f"tiny_{i}" for i in range(1, 6)
    }
    assert len([each for each in remote.seen if each.startswith("GET /api/v1/runs?")]) == 3


def test_an_empty_list_says_where_it_looked(command, remote):
    code, out, err = command("list")
    assert (code, err) == (0, "") and f"no runs at {remote.url}" in out
    assert json.loads(command("list", "--json")[1]) == []


@pytest.mark.parametrize(
    "arguments", [[], ["--stage", "train"], ["--stage", "specs", "--task", "0"], ["--stderr"]]
)
def test_logs_are_those_of_this_machine(command, runs, line, arguments):
    for name in ("completed_1", "failed_1"):
        here = command("--server", "local", "logs", name, *arguments)
        assert command("--server", line.url, "logs", name, *arguments) == here
        here = json.loads(command("--server", "local", "logs", name, *arguments, "--json")[1])
        assert json.loads(command("--server", line.url, "logs", name, *arguments, "--json")[1]) == here


def test_a_long_log_comes_whole(command, app, me, remote):
    text = "".join(f"é {i}\n" for i in range(900_000))
    completed(app, me, "completed_1").stdout("train", 0).write_text(text)
    assert command("logs", "completed_1", "--stage", "train")[1] == text


def test_logs_can_be_followed_to_the_end_of_the_run(command, runs, remote):
    for name, arguments in (("completed_1", ["--stage", "train"]), ("failed_1", ["--stage", "preprocess"])):
        followed = command("logs", name, *arguments, "-f", "--stderr")
        assert followed == command("logs", name, *arguments, "--stderr")
    assert command("logs", "failed_1", "-f", "--stderr")[1] != ""


def test_logs_go_on_where_the_connection_was_lost(command, app, me, remote):
    text = "".join(f"line {i}\n" for i in range(50_000))
    completed(app, me, "completed_1").stdout("train", 0).write_text(text)
    remote.cuts = [
        (b"GET /api/v1/runs/completed_1/logs", 100_000),
        (b"GET /api/v1/runs/completed_1/logs", 200_000),
    ]
    assert command("logs", "completed_1", "--stage", "train", "-f") == (0, text, "")
    assert remote.cuts == []


def test_a_wrong_stage_is_told(command, runs, remote):
    code, out, err = command("logs", "completed_1", "--stage", "trian")
    assert code in (2, 6, 11) and out == "" and "specs, merge, preprocess, train, report" in err


def test_watching_ends_as_the_run_did(command, runs, remote):
    code, out, err = command("watch", "completed_1")
    assert (
        (code, err) == (0, "")
        and "completed" in out
        and f"bundle {remote.url}/api/v1/runs/completed_1/model" in out
    )
    code, out, err = command("watch", "failed_1")
    here = command("--server", "local", "watch", "failed_1")
    assert (code, err) == (7, here[2])


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_run_is_5(command, remote, verb):
    code, out, err = command(verb, "nothing_1")
    assert code == 5 and out == "" and "no run 'nothing_1'" in err


@pytest.mark.parametrize("verb", VERBS)
def test_names_that_are_none_do_no_harm(command, remote, verb):
    for name in ("../../../etc", "a/b", "ä ?x=1#", "."):
        code, out, err = command(verb, name)
        assert code in (2, 5) and out == "" and "Traceback" not in err, (name, err)


def test_what_is_over_cannot_be_cancelled_or_gone_on_with(command, runs, remote):
    assert command("cancel", "completed_1")[0] == 6
    code, _, err = command("resume", "completed_1")
    assert code == 6 and "completed_1 is completed" in err


def test_a_run_is_deleted_when_one_says_so(command, runs, remote, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert command("delete", "failed_1")[0] == 1
    assert command("status", "failed_1")[0] == 0
    assert command("delete", "failed_1", "--yes") == (0, "deleted failed_1\n", "")
    assert command("status", "failed_1")[0] == 5
    # An answer that was lost is asked for again; that it is gone then is no fault.
    remote.cuts = [(b"DELETE", 0)]
    assert command("delete", "cancelled_1", "--yes")[:2] == (0, "deleted cancelled_1\n")


# --- the model


@pytest.fixture
def bundle(app, me):
    """The bundle of a run."""
    return completed(app, me, "completed_1").bundle


def test_the_model_comes_to_a_file_or_into_a_folder(command, bundle, remote, tmp_path):
    assert command("model", "completed_1") == (0, f"{remote.url}/api/v1/runs/completed_1/model\n", "")
    assert command("model", "completed_1", "-o", tmp_path) == (0, f"{tmp_path}/completed_1.tar.gz\n", "")
    assert (tmp_path / "completed_1.tar.gz").read_bytes() == bundle.read_bytes()
    found = json.loads(command("model", "completed_1", "-o", tmp_path / "m.tar.gz", "--json")[1])
    assert found["bundle"] == str(tmp_path / "m.tar.gz") and "test" in found["metrics"]
    code, _, err = command("model", "completed_1", "-o", tmp_path / "none" / "m")
    assert code == 9 and "No such file or directory" in err


def test_a_download_goes_on_in_the_next_command(command, bundle, remote, tmp_path):
    remote.cuts = [(b"GET /api/v1/runs/completed_1/model", 500_000)]
    remote.cuts += [(b"GET /api/v1/runs/completed_1/model", 0)] * 20
    code, out, _ = command("model", "completed_1", "-o", tmp_path / "m")
    assert code == 3 and out == "" and not (tmp_path / "m").exists()
    (part,) = tmp_path.glob(".m.*.part")
    assert 0 < part.stat().st_size < bundle.stat().st_size
    remote.cuts.clear()
    told = []
    Service(remote.url).open_run("completed_1").fetch(tmp_path / "m", lambda *step: told.append(step))
    assert (tmp_path / "m").read_bytes() == bundle.read_bytes()
    assert told[0][0] > 0, "it began where it had stopped"


def test_a_bundle_that_is_damaged_is_not_kept(command, bundle, remote, tmp_path):
    bundle.write_bytes(bundle.read_bytes()[:-2000] + bytes(2000))
    code, _, err = command("model", "completed_1", "-o", tmp_path / "m")
    assert code == 1 and "came damaged" in err
    assert [each.name for each in tmp_path.iterdir()] == ["home"]


def test_a_run_without_a_model_says_so(command, runs, remote, tmp_path):
    code, out, err = command("model", "failed_1", "-o", tmp_path)
    assert code == 6 and out == "" and "failed_1 has no model: it is failed" in err


# --- plans and submissions


def test_a_plan_is_that_of_this_machine(command, request_folder, line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    here = command("--server", "local", "plan", request_folder)
    there = command("--server", line.url, "plan", request_folder)
    assert there[0] == 0 and there[2] == here[2] == ""
    ours, theirs = (answer[1].splitlines() for answer in (here, there))
    assert [each.split() for each in theirs[3:-2]] == [each.split() for each in ours[3:-2]]
    assert [each.split()[1:] for each in theirs[:3]] == [each.split()[1:] for each in ours[:3]]
    assert f"runs are kept at {line.url}" in theirs[-2]
    assert "\ndata/signal.root " in there[1]
    here = json.loads(command("--server", "local", "plan", request_folder, "--json")[1])
    there = json.loads(command("--server", line.url, "plan", request_folder, "--json")[1])
    assert there.keys() == here.keys() and there["plan"] == here["plan"] and there["recipe"] == here["recipe"]
    assert there["submit_files"].keys() == here["submit_files"].keys()


def test_a_plan_can_show_the_submit_files(command, request_folder, remote):
    out = command("submit", "--dry-run", request_folder)[1]
    assert "request_memory" in out and "JOB specs" in out


def test_what_the_service_has_is_not_sent_again(command, request_folder, remote, change):
    for _ in range(2):
        assert command("plan", request_folder)[0] == 0
    change("params", epochs=3)
    change(memory="700mb")
    assert "3 epochs" in command("plan", request_folder)[1]
    assert len(uploads(remote)) == 1
    (request_folder / "model.py").write_text((request_folder / "model.py").read_text() + "\n")
    assert command("plan", request_folder)[0] == 0
    assert len(uploads(remote)) == 2


def test_bad_requests_are_2_with_every_problem(command, change, request_folder, remote):
    change(memory="3xb")
    change("params", nevtts=1)
    code, out, err = command("submit", request_folder)
    assert code == 2 and out == "" and "error: 2 problems, nothing was submitted" in err
    assert "'3xb' is not a size" in err and "unknown key 'nevtts'" in err
    assert remote.seen == [], "which is found out here"
    change(memory="3gb")
    change("params", nevtts=None, branch="evnts", identifier=["nu"])
    here = command("--server", "local", "plan", request_folder)
    code, out, err = command("plan", request_folder)
    assert code == 2 and out == "" and "evnts" in err and err.count("\n") == here[2].count("\n")


def test_a_request_from_all_over_the_machine_is_planned(command, request_folder, remote, tmp_path, change):
    out = tmp_path / "else where"
    out.mkdir()
    for name in ("signal", "background"):
        shutil.move(request_folder / "data" / f"{name}.root", out / f"{name}, new.root")
    (tmp_path / "models").mkdir()
    shutil.move(request_folder / "model.py", tmp_path / "models" / "model.py")
    change(model="../models/model.py")
    (request_folder / "files.txt").write_text(
        f"{out}/signal*.root\n../else where/background, new.root:events\n"
    )
    code, shown, err = command("plan", request_folder)
    assert (code, err) == (0, "") and "100 events of tree events" in shown and "model.py (keras)" in shown


def test_no_pool_is_3(command, request_folder, remote):
    code, out, err = command("submit", request_folder)
    assert code == 3 and out == "" and "trying again" in err


def test_a_submission_says_what_it_says_here(command, request_folder, remote, without_pool, change):
    change(host_folder="/x")
    code, out, err = command("submit", request_folder)
    assert code == 0
    assert out.splitlines()[0].startswith("submitted tiny_1  ") and " events, about " in out
    assert out.splitlines()[1].startswith("next: ") and out.rstrip().endswith("watch tiny_1")
    assert "warning: mind the gap" in err and "warning: job.json: 'host_folder' is not needed" in err
    ((_, key, job, folder),) = without_pool
    assert len(key) >= 32 and job["files"] == ["data/signal.root", "data/background.root"]
    assert "host_folder" not in job and {each.path for each in folder.entries()} >= {
        "model.py",
        "data/signal.root",
    }


def test_it_names_the_service_where_that_was_given(command, request_folder, line, without_pool):
    out = command("--server", line.url, "submit", request_folder)[1]
    assert f"--server {line.url} watch tiny_1" in out


def test_submissions_as_json_and_to_the_end(command, request_folder, remote, without_pool):
    found = json.loads(command("submit", request_folder, "--json")[1])
    assert found == {
        "run": "tiny_1", "directory": f"{remote.url}/api/v1/runs/tiny_1", "bundle": None,
    }  # fmt: skip
    found = json.loads(command("submit", request_folder, "--watch", "--json")[1])
    assert found["bundle"] == f"{remote.url}/api/v1/runs/tiny_2/model"
    code, out, _ = command("run", request_folder)
    assert code == 0 and "submitted tiny_3" in out and "test AUC" in out


@pytest.mark.parametrize("cut", [-1, 0, 40])
def test_an_answer_that_was_lost_submits_nothing_twice(command, request_folder, remote, without_pool, cut):
    remote.cuts = [(b"POST /api/v1/runs", cut)]
    code, out, _ = command("submit", request_folder)
    assert code == 0 and out.startswith("submitted tiny_1 ")
    assert {key for _, key, _, _ in without_pool} == {without_pool[0][1]}
    assert len(json.loads(command("list", "--json")[1])) == 1


def test_an_upload_that_was_cut_off_is_made_again(command, request_folder, remote, app):
    remote.cuts = [(b"PUT", -1), (b"PUT", 0)]
    assert command("plan", request_folder)[0] == 0
    assert len(uploads(remote)) == 3


def test_a_file_that_changes_meanwhile_is_told(request_folder, remote, monkeypatch):
    from mlaas_condor.archives import sending

    before = sending.Archive.of

    def change_then(files):
        (request_folder / "model.py").write_text((request_folder / "model.py").read_text() + "# changed\n")
        return before(files)

    monkeypatch.setattr(sending.Archive, "of", change_then)
    with pytest.raises(InputChanged, match="submit again"):
        Service(remote.url).plan(request_folder)


def test_a_service_that_takes_less_is_asked_before(command, make_app, request_folder):
    (request_folder / "data" / "large.txt").write_bytes(bytes(2**21))
    (request_folder / "files.txt").write_text("data/signal.root\ndata/background.root\ndata/large.txt\n")
    (request_folder / "labels.txt").write_text("1\n0\n0\n")
    with served(make_app(limits={"upload": "1mb"})) as line:
        code, _, err = command("--server", line.url, "plan", request_folder)
        assert code == 11 and "takes 0.000977 GB at a time" in err and uploads(line) == []
    with served(make_app(limits={"upload_files": 2})) as line:
        code, _, err = command("--server", line.url, "plan", request_folder)
        assert code == 11 and "takes 2 files at a time, this request has 4" in err and uploads(line) == []


def test_a_proxy_stays_here(command, request_folder, remote, tmp_path, change):
    code, _, err = command("plan", request_folder, "--proxy", tmp_path / "x509")
    assert code == 2 and "mlaas-condor proxy delegate" in err
    change(x509_proxy=str(tmp_path / "x509"))
    code, _, err = command("plan", request_folder)
    assert code == 0 and "warning: job.json: x509_proxy stays on this machine" in err


# --- who is it


@pytest.fixture
def line_of_many(shared_app):
    with served(shared_app) as line:
        yield line


def test_everybody_sees_what_is_theirs(command, line_of_many, shared_app, issuer, tmp_path, monkeypatch):
    owners = {}
    for name in ("jane", "john"):
        (tmp_path / name).write_text(issuer.token(name, groups=["/cms/higgs"]))
        owners[name] = Service(line_of_many.url, issuer.token(name)).me()["owner"]
    completed(shared_app, owners["jane"], "tth_1", readers=["/cms/higgs"])
    record(shared_app, "failed_1", owners["jane"], as_name="own_1")
    record(shared_app, "failed_1", owners["john"], as_name="tth_1")

    def state(who, *arguments):
        code, out, _ = command(
            "--server", line_of_many.url, "--token-file", tmp_path / who, *arguments, "--json"
        )
        return json.loads(out)["state"] if code == 0 else code

    assert state("jane", "status", "tth_1") == "completed" and state("john", "status", "tth_1") == "failed"
    assert state("john", "status", "own_1") == 5
    monkeypatch.setenv("MLAAS_CONDOR_SERVER", line_of_many.url)
    monkeypatch.setenv("MLAAS_CONDOR_TOKEN", (tmp_path / "john").read_text())
    theirs = ["--owner", owners["jane"]]
    assert json.loads(command(*theirs, "status", "tth_1", "--json")[1])["state"] == "completed"
    assert command(*theirs, "status", "own_1")[0] == 5
    assert command(*theirs, "model", "tth_1", "-o", tmp_path / "m.tar.gz")[0] == 0
    code, _, err = command(*theirs, "delete", "tth_1", "--yes")
    assert code == 11 and "shared with you to read" in err
    code, _, err = command(*theirs, "submit", tmp_path)
    assert code == 2 and "--owner: what you submit is yours" in err


def test_a_token_that_is_missing_or_wrong_is_29(command, line_of_many, monkeypatch):
    for token in ("", "nobodys"):
        monkeypatch.setenv("BEARER_TOKEN", token)
        code, out, err = command("--server", line_of_many.url, "list")
        assert code == 29 and out == "" and "does not know who you are" in err and "--token-file" in err
        assert "nobodys" not in err


def test_a_watch_outlives_its_token(shared_app, line_of_many, issuer):
    found = ["old", issuer.token("jane")]
    service = Service(line_of_many.url, lambda: found.pop(0) if len(found) > 1 else found[0])
    assert service.list_runs() == []


def test_a_token_that_may_not_is_11(command, line_of_many, issuer, monkeypatch, request_folder):
    monkeypatch.setenv("MLAAS_CONDOR_SERVER", line_of_many.url)
    monkeypatch.setenv("MLAAS_CONDOR_TOKEN", issuer.token("jane", scope="compute.read"))
    assert command("list")[0] == 0
    code, _, err = command("submit", request_folder)
    assert code == 11 and "compute.create" in err


def test_a_proxy_is_delegated_to_the_same_service(command, line_of_many, issuer, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "unit" / "grid"))
    from credential_tools import DAY, Authority, proxy_by_hand, save

    authority = Authority(tmp_path / "authority")
    proxy = save(proxy_by_hand(authority.credential("/DC=test/CN=Jane"), seconds=DAY), tmp_path / "x509")
    folder = settings.user_file().parent
    folder.mkdir(parents=True)
    (tmp_path / "token").write_text(issuer.token("jane"))
    (folder / "config.toml").write_text(
        f'server = "ours"\n[servers.ours]\nurl = "{line_of_many.url}"\ntoken_file = "{tmp_path}/token"\n'
    )
    for named in (
        [],
        ["--server", "ours"],
        ["--server", line_of_many.url, "--token-file", tmp_path / "token"],
    ):
        code, out, err = command("proxy", "delegate", *named, "--proxy", proxy, "--json")
        assert (code, err) == (0, "")
        assert (
            json.loads(out)["server"] == line_of_many.url
            and json.loads(out)["identity"] == "/DC=test/CN=Jane"
        )
    assert "Authorization" not in line_of_many.seen[0]
    code, _, err = command("proxy", "delegate", "--server", "local", "--proxy", proxy)
    assert code == 2 and "--server" in err


# --- which place


@pytest.mark.parametrize(
    "arguments",
    [
        ["pool", "status"], ["inspect", "a.root"], ["run", "--local"], ["proxy", "renew", "--all"],
    ],
)  # fmt: skip
def test_what_is_about_this_machine_refuses_a_service(command, arguments):
    code, out, err = command("--server", "https://mlaas.example.org", *arguments)
    assert code == 2 and out == "" and "--server: `" in err and "this machine" in err


def test_but_goes_on_where_one_is_only_configured(command, request_folder, monkeypatch):
    monkeypatch.setenv("MLAAS_CONDOR_SERVER", "https://mlaas.example.org")
    assert command("inspect", request_folder / "data" / "signal.root")[0] == 0
    assert json.loads(command("settings", "--json")[1])["server"] == {
        "value": "https://mlaas.example.org", "origin": "MLAAS_CONDOR_SERVER",
    }  # fmt: skip
    assert command("--home", request_folder, "list")[0] == 0, "--home means this machine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--server", "https://x.example.org", "--home", "/x", "list"], "--home: is about this machine"),
        (["--server", "https://x.example.org", "--pool", "site", "list"], "--pool: is about this machine"),
        (["--owner", "jane", "list"], "--owner: is for a service"),
        (["--token-file", "/x", "list"], "--token-file: is for a service"),
        (["--server", "infn", "list"], "'infn' is no address, and no profile"),
        (["--server", "http://x.example.org", "list"], "is not https"),
    ],
)
def test_options_that_do_not_go_together_are_told(command, arguments, told):
    code, out, err = command(*arguments)
    assert code == 2 and out == "" and told in err


def test_a_service_that_is_not_there_is_3(command):
    code, out, err = command("--server", "https://no-such-host.invalid", "list")
    assert code == 3 and out == "" and "is not known: is the name right" in err


# --- from Python


def test_python_does_what_the_commands_do(runs, line, request_folder, without_pool, tmp_path):
    service = Service(line.url, token="")
    assert service.url == line.url and service.url in repr(service)
    assert {each.name for each in service.list_runs()} == {"completed_1", "failed_1", "cancelled_1"}
    done = service.open_run("completed_1")
    assert done.wait(timeout=60).state == "completed" and "completed" in repr(done)
    assert "<table" in done._repr_html_()
    assert done.metrics()["test"]["auc"] and len(done.history()) > 0
    assert done.fetch(tmp_path) == tmp_path / "completed_1.tar.gz"
    assert "".join(done.follow_logs("specs")) == done.logs("specs")
    failed = service.open_run("failed_1")
    with pytest.raises(RunFailed, match="failed_1 is failed"):
        failed.wait()
    assert failed.metrics() is None and failed.history() == []
    with pytest.raises(WrongState):
        failed.model()
    with pytest.raises(RunNotFound):
        service.open_run("nothing_1")
    job = json.loads((request_folder / "job.json").read_text())
    with pytest.raises(RequestError, match="no such file"):
        service.submit(job)
    planned = service.plan(request_folder / "job.json")
    assert planned.plan.size.events == 100 and planned.framework == "keras"
    submitted = service.submit(str(request_folder))
    assert submitted.status().state == "completed" and submitted.size().events == 100
