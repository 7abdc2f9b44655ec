import pytest
from env_machines import ENV, environment

from gpucheck.probes import startup_files as reader
from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules.session import exports_are_left_out
from machines import HEALTHY, is_applicable, machine, passes, path_entry, symptoms

BASHRC = reader.parse("\n\nexport PATH=/usr/local/cuda/bin:$PATH\n", "/home/ada/.bashrc")
PLAIN = (path_entry("/usr/bin"), path_entry("/bin"))


def under(session, path=PLAIN, **startup_files):
    return machine(
        environment(session=session, path=path), startup_files={"files": (), **startup_files}
    )


def test_sudo_leaves_out_what_the_users_own_file_puts_on_path():
    [found] = symptoms(exports_are_left_out, under("sudo", invoking_user=(BASHRC,)))

    assert "/home/ada/.bashrc:3" in found.saw
    assert found.severity is Severity.WARNING
    assert "without sudo" in found.remedy.text


@pytest.mark.parametrize("session", ["cron", "systemd"])
def test_cron_and_systemd_read_no_start_up_file(session):
    [found] = symptoms(exports_are_left_out, under(session, files=(BASHRC,)))

    assert "/home/ada/.bashrc:3" in found.saw


def test_what_sudo_leaves_out_explains_the_missing_compiler():
    report = examine(under("sudo", invoking_user=(BASHRC,)), rules=ENV)

    assert [f.code for f in report.roots] == ["ENV033"]
    assert "ENV007" in {f.code for f in report.findings}


def test_sudo_that_keeps_path_is_fine():
    m = under("sudo", path=HEALTHY.environment.path, invoking_user=(BASHRC,))

    assert passes(exports_are_left_out, m)


def test_a_users_own_shell_raises_no_question():
    assert not is_applicable(exports_are_left_out, under(None))


def test_sudo_on_a_machine_without_a_toolkit_is_fine():
    m = machine(under("sudo", invoking_user=()), toolkits={"installed": ()})

    assert passes(exports_are_left_out, m)
