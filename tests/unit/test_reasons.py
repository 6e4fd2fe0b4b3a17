"""Exit codes and hold codes: each has its words, its advice, and its row in the documentation."""

import inspect
from pathlib import Path

import pytest

from mlaas_condor import errors
from mlaas_condor.batch import reasons

ALL = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, errors.MlaasError) and each is not errors.StageError
]
NOWHERE = Path("/nowhere")
STAGE_ERRORS = [each for each in ALL if issubclass(each, errors.StageError)]


@pytest.fixture
def stderr(tmp_path):
    """Write what a job said to standard error."""

    def write(text):
        path = tmp_path / "train.0.err"
        path.write_text(text)
        return path

    return write


def explain(code, signal, path):
    return reasons.of_exit(code, signal, path, "luca_1", "train", 0)


def test_exit_codes_are_unique():
    codes = [each.exit_code for each in ALL]
    assert len(codes) == len(set(codes))
    assert 0 not in codes and all(code < 126 for code in codes)  # shells use those from 126 on


def test_a_job_that_holds_itself_says_why_and_how_to_go_on(stderr):
    path = stderr("specs: root://host//a.root: host does not accept /tmp/x509up_u1: has expired\n")
    what, advice = reasons.of_hold(3, 29, "policy", path, "luca_1", "specs", 0)
    assert what.startswith("root://host//a.root: host does not accept /tmp/x509up_u1: has expired")
    assert advice == "mlaas-condor proxy renew luca_1"
    assert reasons.of_hold(3, 0, "policy", path, "luca_1", "specs", 0)[0].startswith("a policy of the pool")


def test_advice_for_a_proxy_is_a_command_that_works_in_the_state_the_job_is_in(stderr):
    path = stderr("specs: the proxy has expired\n")
    for codes in ((3, 29), (4, 0)):
        advice = reasons.of_hold(*codes, "", path, "luca_1", "specs", 0)[1]
        assert advice == "mlaas-condor proxy renew luca_1"  # it is alive
    advice = reasons.of_exit(29, None, path, "luca_1", "specs", 0)[1]
    assert "proxy renew" not in advice and advice.endswith("then mlaas-condor resume luca_1")


def test_a_job_that_could_not_import_us_is_no_full_disk():
    text = "Transfer output files failure … file /execute/dir_1/scratch/output/merge: (errno 2) No such file"
    what, advice = reasons.of_hold(12, 2, text, NOWHERE, "luca_1", "merge", 0)
    assert "with mlaas-condor in it?" in what and "set 'python'" in advice
    assert (
        "is the disk of the access point full?"
        in reasons.of_hold(12, 28, "No space", NOWHERE, "a", "merge", 0)[0]
    )


def test_stage_errors_have_codes_of_their_own_range():
    assert all(20 <= each.exit_code <= 29 for each in STAGE_ERRORS)
    assert all(not 20 <= each.exit_code <= 29 for each in ALL if each not in STAGE_ERRORS)


@pytest.mark.parametrize("kind", STAGE_ERRORS, ids=lambda kind: kind.__name__)
def test_every_stage_error_has_advice_and_its_own_words(kind, stderr):
    what, advice = explain(kind.exit_code, None, stderr("noise\ntrain: it went wrong\nmore noise\n"))
    assert what == "it went wrong"
    assert advice == reasons._ADVICE[kind].format(run="luca_1", **reasons._ASK[True])
    assert "{" not in advice


@pytest.mark.parametrize("kind", STAGE_ERRORS, ids=lambda kind: kind.__name__)
def test_without_a_word_the_meaning_is_told(kind, tmp_path):
    assert explain(kind.exit_code, None, tmp_path / "none")[0] == (kind.__doc__ or "").splitlines()[0]


def test_code_that_is_not_ours_shows_the_last_line_and_the_log(stderr):
    what, advice = explain(1, None, stderr("Traceback\nValueError: no\n\n"))
    assert what == "ValueError: no"
    assert advice.startswith("mlaas-condor logs luca_1 --stage train --task 0")
    assert explain(99, None, stderr(""))[0] == "ended with exit code 99"


def test_signal_is_told_and_9_means_memory(stderr):
    assert explain(None, 9, stderr("x"))[0] == "was killed by signal 9, often for lack of memory"
    assert explain(None, 11, stderr("x"))[0] == "was killed by signal 11"


@pytest.mark.parametrize("code", [*reasons._HOLDS, 9999])
def test_every_hold_has_words_and_a_next_step(code):
    what, advice = reasons.of_hold(code, 0, "HTCondor's\n  own words", NOWHERE, "luca_1", "train", 3)
    assert "(HTCondor's own words)" in what and advice and "{" not in advice
    assert "(" not in reasons.of_hold(code, 0, "", NOWHERE, "luca_1", "train", 3)[0]


def test_table_has_every_error_with_its_meaning():
    rows = {name: (code, meaning) for code, name, meaning in reasons.table()}
    assert set(rows) == {each.__name__ for each in ALL}
    for each in ALL:
        assert rows[each.__name__] == (each.exit_code, (each.__doc__ or "").splitlines()[0])
        assert rows[each.__name__][1].endswith((".", "was planned."))
    assert [row[0] for row in reasons.table()] == sorted(row[0] for row in reasons.table())


def test_tree_at_the_top_of_the_module_tells_the_truth():
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("├──", "").replace("└──", "").replace("│", "").split()
        kind = getattr(errors, words[0], None) if words else None
        if isinstance(kind, type) and len(words) > 1 and words[1].isdecimal():
            assert int(words[1]) == kind.exit_code
            if len(words) > 2 and words[2].isdecimal():
                assert int(words[2]) == kind.http_status
    assert all(each.__name__ in (errors.__doc__ or "") for each in ALL)


@pytest.mark.parametrize("kind", [errors.OutOfMemory, errors.StorageFull])
def test_advice_names_what_helps_that_stage(kind, tmp_path):
    def advice(stage):
        return reasons.of_exit(kind.exit_code, None, tmp_path / "none", "luca_1", stage, 0)[1]

    assert "in job.json" in advice("train")
    assert "in job.json" not in advice("preprocess") and "chunk_size" in advice("preprocess")
