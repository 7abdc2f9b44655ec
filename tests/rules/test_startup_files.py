import msgspec
import pytest
from env_machines import (
    ENV,
    UNREAD,
    asked,
    environment,
    library_path,
    missing_home,
    several,
    startup,
)

from gpucheck.probes import startup_files as reader
from gpucheck.report import examine
from gpucheck.rules import startup_files as rules
from gpucheck.snapshot import HomeVariable, StartupFile
from machines import (
    CUDA_12,
    CUDA_13,
    commands,
    machine,
    not_checked,
    passes,
    path_entry,
    symptoms,
    with_variables,
)
from seen_facts import seen

LINE_RULES = (rules.export_is_mangled, rules.append_is_unguarded)
BOTH = machine(toolkits={"installed": (CUDA_13, CUDA_12)})


def test_start_up_files_that_disagree_are_a_warning():
    m = several(
        BOTH,
        bashrc="export CUDA_HOME=/usr/local/cuda-13.0\n",
        profile="# mine\nexport CUDA_HOME=/usr/local/cuda-12.4\n",
    )

    [found] = symptoms(rules.startup_files_disagree, m)

    assert "/home/u/.bashrc:1" in found.saw
    assert "/home/u/.profile:2" in found.saw


def test_start_up_files_that_put_different_toolkits_on_path_disagree():
    m = several(
        BOTH,
        bashrc="export PATH=/usr/local/cuda/bin:$PATH\n",
        profile="export PATH=/usr/local/cuda-12.4/bin:$PATH\n",
    )

    [found] = symptoms(rules.startup_files_disagree, m)

    assert found.subject == "PATH"


def test_a_file_that_reads_the_other_does_not_disagree_with_it():
    m = several(
        BOTH,
        bashrc="export CUDA_HOME=/usr/local/cuda-13.0\n",
        profile=". ~/.bashrc\nexport CUDA_HOME=/usr/local/cuda-12.4\n",
    )

    assert passes(rules.startup_files_disagree, m)


@pytest.mark.parametrize(
    "other",
    [
        "export CUDA_HOME=/usr/local/cuda\n",  # the same by a link
        "if [ -d /x ]; then export CUDA_HOME=/usr/local/cuda-12.4; fi\n",
        "export PATH=/usr/local/cuda-12.4/bin:$PATH\n",  # another variable
    ],
)
def test_start_up_files_that_mean_one_toolkit_agree(other):
    m = several(BOTH, bashrc="export CUDA_HOME=/usr/local/cuda-13.0\n", profile=other)

    assert passes(rules.startup_files_disagree, m)


def test_files_of_different_shells_do_not_disagree():
    m = several(
        BOTH,
        bashrc="export CUDA_HOME=/usr/local/cuda-13.0\n",
        zshrc="export CUDA_HOME=/usr/local/cuda-12.4\n",
    )

    assert passes(rules.startup_files_disagree, m)


def test_a_stock_debian_disagrees_with_nobody():
    m = several(
        bashrc="PATH=/usr/local/sbin:/usr/bin\nexport PATH\n", profile='PATH="$HOME/bin:$PATH"\n'
    )

    for rule in (rules.startup_files_disagree, rules.shell_is_stale):
        assert passes(rule, m)


def test_a_shell_older_than_its_start_up_file_is_a_warning():
    m = startup("export CUDA_HOME=/usr/local/cuda-12.4\n")

    [found] = symptoms(rules.shell_is_stale, m)

    assert found.saw == (
        "/home/u/.bashrc:1 sets CUDA_HOME to /usr/local/cuda-12.4; "
        "in this shell it is /usr/local/cuda"
    )
    assert commands(found) == (". /home/u/.bashrc",)


def test_a_stale_shell_is_one_complaint():
    m = startup(
        "export CUDA_HOME=/usr/local/cuda\nexport PATH=$CUDA_HOME/bin:$PATH\n",
        base=environment(cuda_home=None, path=(path_entry("/usr/bin"),)),
    )

    report = examine(m, rules=ENV)

    assert {f.code for f in report.roots} == {"ENV027"}
    assert "ENV001" in {f.code for f in report.findings}


@pytest.mark.parametrize(
    "text",
    [
        "export CUDA_HOME=/usr/local/cuda\n",
        "export CUDA_HOME=/usr/local/cuda/\n",
        "export CUDA_HOME=/opt/old\nexport CUDA_HOME=/usr/local/cuda\n",
        "export PATH=/usr/local/cuda/bin:$PATH\n",
        "export PATH=/usr/local/cuda-13.0/bin:$PATH\n",
        "CUDA_HOME=/opt/other make\n",
        "# export CUDA_HOME=/opt/other\n",
    ],
)
def test_a_shell_that_has_what_its_files_set_is_not_stale(text):
    assert passes(rules.shell_is_stale, startup(text))


@pytest.mark.parametrize(
    "text",
    [
        "export CUDA_HOME=$(dirname $(dirname $(which nvcc)))\n",
        "export CUDA_HOME=$MY_CUDA\n",
        "[ -d /opt/cuda ] && export CUDA_HOME=/opt/cuda\n",
        "use() { export CUDA_HOME=/opt/cuda-$1; }\n",
    ],
)
def test_a_value_that_only_running_would_tell_is_not_checked(text):
    m = startup(text)

    assert not symptoms(rules.shell_is_stale, m)
    assert not_checked(rules.shell_is_stale, m)


def test_a_file_of_another_shell_makes_none_stale():
    assert passes(rules.shell_is_stale, startup("export CUDA_HOME=/opt/x\n", path="/home/u/.zshrc"))


def test_a_loaded_module_outranks_the_start_up_file():
    m = startup(
        "export CUDA_HOME=/usr/local/cuda-12.4\n", base=with_variables(LOADEDMODULES="gcc:cuda/13")
    )

    assert passes(rules.shell_is_stale, m)


def test_nobody_logs_into_a_container():
    m = startup("export CUDA_HOME=/opt/x\n", path="/home/u/.profile", base=asked())

    assert passes(rules.shell_is_stale, m)


@pytest.mark.parametrize(
    "line",
    [
        "exportCUDA_HOME=/usr/local/cuda",
        "export CUDA_HOME = /usr/local/cuda",
        "export CUDA_HOME= /usr/local/cuda",
        "export CUDA_HOME =/usr/local/cuda",
        "export CUDA_HOME=“/usr/local/cuda”",
        "CUDA_HOME = /usr/local/cuda",
        "export $CUDA_HOME=/usr/local/cuda",
        "setenv CUDA_HOME /usr/local/cuda",
        "export PATH=/usr/local/cuda/bin: $PATH",
        "Export CUDA_HOME=/usr/local/cuda",
    ],
)
def test_a_mangled_export_is_an_error_with_its_file_and_line(line):
    [found] = symptoms(rules.export_is_mangled, startup(f"# mine\n{line}\n"))

    assert found.subject == "/home/u/.bashrc:2"
    assert line in found.saw


def test_a_mangled_export_explains_the_missing_variable():
    m = startup(
        "exportCUDA_HOME=/usr/local/cuda\n",
        base=environment(cuda_home=None, path=(path_entry("/usr/bin"),)),
    )

    report = examine(m, rules=ENV)

    assert [f.code for f in report.roots] == ["ENV028"]


def test_a_home_that_is_appended_to_itself_is_an_error():
    m = startup("export CUDA_HOME=$CUDA_HOME:/usr/local/cuda\n")

    [found] = symptoms(rules.home_is_appended, m)

    assert found.subject == "/home/u/.bashrc:1"


def test_an_appended_home_explains_the_malformed_one():
    m = startup(
        "export CUDA_HOME=$CUDA_HOME:/usr/local/cuda\n", base=missing_home(":/usr/local/cuda")
    )

    report = examine(m, rules=ENV)

    assert [f.code for f in report.roots] == ["ENV029"]


@pytest.mark.parametrize(
    "line", ["export CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}", "export CUDA_HOME=$CUDA_HOME"]
)
def test_a_default_is_no_appending(line):
    assert passes(rules.home_is_appended, startup(f"{line}\n"))


EARLY_EXIT = "case $- in\n    *i*) ;;\n      *) return;;\nesac\n"


def test_exports_behind_the_early_exit_are_a_remark():
    m = startup(f"{EARLY_EXIT}export CUDA_HOME=/usr/local/cuda\n")

    [found] = symptoms(rules.exports_come_too_late, m)

    assert "ends at line 3" in found.saw
    assert "line 5" in found.saw


def test_exports_before_the_early_exit_are_fine():
    m = startup(f"export CUDA_HOME=/usr/local/cuda\n{EARLY_EXIT}")

    assert passes(rules.exports_come_too_late, m)


@pytest.mark.parametrize(
    "line",
    [
        "export LD_LIBRARY_PATH=/usr/local/cuda/lib64:$LD_LIBRARY_PATH",
        "export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:/usr/local/cuda/lib64",
        'export LD_LIBRARY_PATH="/usr/local/cuda/lib64:${LD_LIBRARY_PATH}"',
        "LD_LIBRARY_PATH+=:/usr/local/cuda/lib64",
        "export LD_LIBRARY_PATH=/x:${LD_LIBRARY_PATH:+${LD_LIBRARY_PATH}:}",
    ],
)
def test_an_unguarded_line_is_a_warning(line):
    [found] = symptoms(rules.append_is_unguarded, startup(f"{line}\n"))

    assert found.subject == "/home/u/.bashrc:1"


@pytest.mark.parametrize(
    "line",
    [
        "export LD_LIBRARY_PATH=/x${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}",
        "export LD_LIBRARY_PATH=/x${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}}",
        'export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+${LD_LIBRARY_PATH}:}/x"',
        "export LD_LIBRARY_PATH=/x:${LD_LIBRARY_PATH:-/usr/lib}",
        "export LD_LIBRARY_PATH=/x",
        "export LD_LIBRARY_PATH=/a; export LD_LIBRARY_PATH=/b:$LD_LIBRARY_PATH",
        '[ -n "$LD_LIBRARY_PATH" ] && export LD_LIBRARY_PATH=/x:$LD_LIBRARY_PATH',
    ],
)
def test_a_guarded_line_is_fine(line):
    assert passes(rules.append_is_unguarded, startup(f"{line}\n"))


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("exportCUDA_HOME=/usr/local/cuda", "export CUDA_HOME=/usr/local/cuda"),
        ("export CUDA_HOME = /opt/cuda", "export CUDA_HOME=/opt/cuda"),
        ("export CUDA_HOME= /usr/local/cuda", "export CUDA_HOME=/usr/local/cuda"),
        ("export CUDA_HOME=“/usr/local/cuda”", "export CUDA_HOME=/usr/local/cuda"),
        ("export PATH=/usr/local/cuda/bin: $PATH", "export PATH=/usr/local/cuda/bin:$PATH"),
        (
            "export LD_LIBRARY_PATH = /opt/cuda/lib64:$LD_LIBRARY_PATH",
            "export LD_LIBRARY_PATH=/opt/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}",
        ),
    ],
)
def test_the_text_shows_the_line_that_was_meant_and_the_command_opens_that_line(line, right):
    [found] = symptoms(rules.export_is_mangled, startup(f"# first\n{line}\n"))

    assert f"Write `{right}`, in /home/u/.bashrc:2" in found.remedy.text
    assert commands(found) == ("${EDITOR:-vi} +2 /home/u/.bashrc",)
    assert not examine(startup(f"{right}\n"), rules=LINE_RULES).findings


def test_gpuchecks_own_edit_is_the_other_way_to_correct_a_line():
    [found] = symptoms(rules.export_is_mangled, startup("exportCUDA_HOME=/usr/local/cuda\n"))

    [other] = found.remedy.alternatives
    assert [step.text for step in other.steps] == ["gpucheck env install --replace"]


def test_a_start_up_file_that_may_not_be_read_is_not_checked():
    files = (StartupFile(path="/home/u/.bashrc", settings=UNREAD),)
    m = machine(startup_files={"files": files})

    for rule in (
        rules.export_is_mangled,
        rules.append_is_unguarded,
        rules.exports_come_too_late,
    ):
        assert not_checked(rule, m)


def test_a_mangled_line_about_something_else_explains_nothing():
    m = startup("export LD_LIBRARY_PATH = /x\n", base=missing_home("/usr/local/cuda-11"))

    report = examine(m, rules=ENV)

    assert [f.code for f in report.roots] == ["ENV002", "ENV028"]


def test_a_file_of_the_system_is_changed_as_root():
    m = startup("exportCUDA_HOME=/usr/local/cuda\n", path="/etc/profile.d/cuda.sh")

    [found] = symptoms(rules.export_is_mangled, m)

    [step] = found.remedy.steps
    assert step.root
    assert step.text.endswith(" +1 /etc/profile.d/cuda.sh")
    assert not found.remedy.alternatives


# ENV034: gpucheck's own block


def with_block(home, exists, rest="", **sections):
    text = (
        "# >>> gpucheck >>>\n"
        f"if [ -d {home} ]; then\n    export CUDA_HOME={home}\nfi\n"
        f"# <<< gpucheck <<<\n{rest}"
    )
    file = reader.parse(text, "/home/u/.bashrc", "sh", "/home/u")
    block = msgspec.structs.replace(seen(file.block), exists=exists)
    file = msgspec.structs.replace(file, block=block)
    return machine(startup_files={"files": (file,)}, **sections)


def test_a_block_whose_toolkit_is_gone_is_a_warning_that_explains_the_missing_home():
    gone = HomeVariable(
        value="/usr/local/cuda-12.4", resolved=None, has_nvcc=False, has_cudart=False
    )
    m = with_block("/usr/local/cuda-12.4", exists=False, environment={"cuda_home": gone})

    report = examine(m, rules=ENV)

    assert [f.code for f in report.roots] == ["ENV034"]
    assert {f.code for f in report.findings} == {"ENV034", "ENV002"}
    assert report.findings[0].remedy.steps[0].text == "gpucheck env install"


def test_a_block_that_a_later_line_overrides_is_a_warning():
    m = with_block("/usr/local/cuda", exists=True, rest="export CUDA_HOME=/usr/local/cuda-11.8\n")

    [found] = symptoms(rules.own_block_has_no_effect, m)

    assert "line 6 overrides it" in found.saw
    assert commands(found) == ("gpucheck env install --replace",)


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "export CUDA_HOME=/usr/local/cuda-13.0\n",  # the same by another name
        "if false; then export CUDA_HOME=/opt/x; fi\n",
        "export EDITOR=vi\n",
    ],
)
def test_a_block_that_does_what_it_says_is_fine(rest):
    m = with_block("/usr/local/cuda", exists=True, rest=rest)

    assert passes(rules.own_block_has_no_effect, m)


def test_what_a_wrong_separator_joined_makes_no_shell_stale():
    joined = path_entry(
        "/a/lib /usr/local/cuda/lib64", resolved=None, joined=("/a/lib", "/usr/local/cuda/lib64")
    )
    m = startup(
        'export LD_LIBRARY_PATH="/a/lib:/usr/local/cuda/lib64"\n', base=library_path(joined)
    )

    assert passes(rules.shell_is_stale, m)
