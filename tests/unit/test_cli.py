"""The command line: exit codes, what goes to which stream, and what a plan shows."""

import json

import pytest
from typer.testing import CliRunner

from mlaas_condor import settings
from mlaas_condor.cli.main import app


def test_help_names_all_commands(command):
    code, out, err = command("--help")
    assert code == 0 and err == ""
    for name in (
        "submit",
        "plan",
        "run",
        "schema",
        "status",
        "watch",
        "logs",
        "model",
        "cancel",
        "resume",
        "list",
    ):
        assert f" {name} " in out
    assert " delete " in out and " pool " in out


@pytest.mark.parametrize("name", [each.name or each.callback.__name__ for each in app.registered_commands])
def test_every_command_has_help(command, name):
    code, out, _ = command(name, "--help")
    assert code == 0 and "Usage" in out


def test_version(command):
    code, out, _ = command("--version")
    assert code == 0 and out.startswith("mlaas-condor ")


def test_no_command_shows_help_and_a_wrong_one_fails(command):
    assert "Usage" in "".join(map(str, command()))
    assert command("nonsense")[0] == 2


@pytest.mark.parametrize("verb", [["plan"], ["submit"], ["submit", "--dry-run"], ["run"], ["run", "--local"]])
def test_bad_request_is_2_with_every_problem_on_stderr(command, change, request_folder, verb):
    change(memory="3xb")
    change("params", nevtts=1)
    code, out, err = command(*verb, request_folder)
    assert code == 2 and out == ""
    assert "error: 2 problems, nothing was submitted" in err
    assert "'3xb' is not a size" in err and "unknown key 'nevtts'" in err
    assert not settings.load().home.exists()


def test_missing_job_file_is_2(command, tmp_path):
    code, out, err = command("plan", tmp_path / "job.json")
    assert code == 2 and out == "" and "no such file" in err


def test_no_pool_is_3_and_leaves_nothing_behind(command, request_folder):
    code, out, err = command("--pool", "personal", "submit", request_folder)
    assert code == 3 and out == ""
    assert "mlaas-condor pool up" in err
    assert not settings.load().runs.exists()


@pytest.mark.parametrize("verb", ["status", "watch", "logs", "model", "cancel", "resume", "delete"])
def test_unknown_run_is_5(command, verb):
    code, out, err = command(verb, "nothing_1")
    assert code == 5 and out == "" and "no run 'nothing_1'" in err


def test_bad_setting_is_2(command, request_folder):
    code, _, err = command("--pool", "theirs", "plan", request_folder)
    assert code == 2 and "settings: pool: 'theirs'" in err


def test_plan_shows_inputs_jobs_and_what_they_ask_for(command, request_folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    code, out, err = command("plan", request_folder)
    assert code == 0 and err == ""
    for words in (
        "signal.root",
        "background.root",
        "100 events of tree events",
        "4 chunks",
        "model.py (keras)",
    ):
        assert words in out
    for stage in ("specs", "merge", "preprocess", "train", "report"):
        assert f"\n{stage} " in out
    assert not settings.load().home.exists()


def test_dry_run_is_the_plan_with_its_files(command, request_folder):
    dry = command("submit", "--dry-run", request_folder)
    assert dry == command("plan", request_folder, "--files")
    assert not settings.load().home.exists()


def test_plan_can_show_the_submit_files(command, request_folder):
    out = command("plan", request_folder, "--files")[1]
    assert "request_memory" in out and "JOB specs" in out and "#!/bin/sh" in out
    assert "My.MLaaSTask          = $(task)" in out and "[ -s" in out  # no markup, no folding


def test_plan_as_json_is_json_and_nothing_else(command, request_folder, change):
    change(host_folder="/x")
    code, out, err = command("plan", request_folder, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["dataset"]["flat"] and found["plan"]["size"]["events"] == 100
    assert set(found["submit_files"]) >= {"run.dag", "train.sub"} and found["framework"] == "keras"
    assert any("host_folder" in each for each in found["warnings"])
    assert err == "" or "warning" in err


def test_warnings_go_to_stderr(command, request_folder, change):
    change(host_folder="/x")
    code, out, err = command("plan", request_folder)
    assert code == 0 and "host_folder" not in out and "warning: job.json: 'host_folder'" in err


def test_schema_is_json(command):
    code, out, err = command("schema")
    assert code == 0 and err == ""
    assert json.loads(out)["title"] == "mlaas-condor job.json"


def test_list_without_runs(command):
    code, out, _ = command("list")
    assert code == 0 and "no runs in" in out
    assert json.loads(command("list", "--json")[1]) == []
    assert json.loads(command("status", "--json")[1]) == []


def test_home_option_decides_where_runs_are(command, tmp_path):
    assert str(tmp_path / "elsewhere") in command("--home", tmp_path / "elsewhere", "list")[1]


def test_no_colours_where_it_is_no_terminal(request_folder):
    done = CliRunner().invoke(app, ["plan", str(request_folder)])
    assert done.exit_code == 0 and "\x1b" not in done.output


def test_brackets_in_names_are_no_markup(command, request_folder, mktree, tmp_path):
    mktree("request/data/[bold]x[/i].root", 20, seed=5)
    (request_folder / "files.txt").write_text("data/[bold]x[/i].root\ndata/background.root\n")
    (request_folder / "labels.txt").write_text("[red]\n<b>\n")
    code, out, _ = command("plan", request_folder)
    assert code == 0
    assert "data/[bold]x[/i].root" in out and "[red]" in out
    home = tmp_path / "h[/bold]ome"
    assert str(home) in command("--home", home, "list")[1]


def test_tables_are_never_cut(command, request_folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = command("plan", request_folder)
    line = next(line for line in out.splitlines() if "signal.root" in line)
    assert str(request_folder / "data" / "signal.root") in line
    assert line.split()[1:4] == ["1", "40", "40"]
