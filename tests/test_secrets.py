"""What is private is in no output: kinds of secrets, planted where a machine may hold them."""

import msgspec
import pytest

from gpucheck import privacy, snapshot_file
from gpucheck.fleet import formats as fleet_formats
from gpucheck.fleet.form import FleetFormat
from gpucheck.fleet.judging import judge
from gpucheck.fleet.reading import Answer
from gpucheck.fleet.report import report_of
from gpucheck.fleet.rules import Fleet
from gpucheck.privacy import Owner, redact
from gpucheck.render import RENDERERS, Format, Look, one_line, render
from gpucheck.report import examine
from gpucheck.snapshot import (
    Bench,
    GpuProcess,
    KernelLine,
    Python,
    Replica,
    Snapshot,
    StartupFile,
    StartupFiles,
    StartupSetting,
    Training,
    TrainingFailure,
    Unknown,
    Xid,
)
from machines import gpu, machine, path_entry, with_variables
from seen_facts import seen

ADA = Owner(home="/home/ada7", user="ada7", host="rack12.acme.example")
KINDS = {
    "user": "ada7",
    "user glued": "/scratch/ada7_x/lib",
    "host": "rack12",
    "home": "/home/ada7",
    "other home": "/home/grace",
    "GitHub token": "ghp_0123456789abcdefABCDEF0123456789abcd",
    "header": "Authorization: Bearer abcdef0123456789",
    "password in a URL": "https://ada7:hunter22@pypi.acme.example/simple",
    "token in a URL": "https://glpat-AbCdEf0123456789@git.acme.example",
    "IPv4": "10.20.30.40",
    "IPv6": "fd00:1234:5678:9abc::17",
    "MAC": "52:54:00:ab:cd:ef",
    "AWS key": "AKIAIOSFODNN7EXAMPLE",
    "variable": "API_KEY=s3cr3tvalue99",
    "comment": "# ask Zyxomma for the licence",
}
#: The part of each that must be nowhere.
SECRETS = (
    *("ada7", "rack12", "grace", "0123456789abcdef", "hunter22", "AbCdEf0123456789"),
    *("10.20.30.40", "fd00:1234", "52:54:00:ab", "AKIAIOSFODNN7", "s3cr3tvalue99", "Zyxomma"),
    *("GPU-8f3ae711", "1650923004711", "Bluebird", "rack13"),
)


def planted(secret: str) -> Snapshot:
    """A machine that holds *secret* in eight kinds of places."""
    line = f"export PATH=/usr/local/cuda/bin:$PATH; curl -H '{secret}' # {secret}"
    return machine(
        with_variables(
            CC=f"gcc -DX='{secret}'",
            XLA_FLAGS=f"--dump={secret} --xla_gpu_cuda_data_dir=/usr/local/cuda",
            NVCC_APPEND_FLAGS=f"-DKEY='{secret}'",
            CONDA_DEFAULT_ENV="Bluebird",
            LOADEDMODULES=f"cuda/12.4:{secret}:Bluebird/1",
            MASTER_ADDR="10.20.30.40",
        ),
        host={"name": "rack12.acme.example", "groups": ("ada7", "video")},
        environment={"path": (path_entry("/home/ada7/bin"), path_entry("/home/grace/bin"))},
        startup_files=StartupFiles(
            files=(
                StartupFile(
                    path="/home/ada7/.bashrc",
                    settings=(
                        StartupSetting(
                            line=3, variable="PATH", text=line, value="/usr/local/cuda/bin:"
                        ),
                    ),
                ),
            )
        ),
        pytorch={"python": Python(path="/home/ada7/Venv/bin/python", chosen_by="VIRTUAL_ENV")},
        toolkits={"first_nvcc": Unknown(f"/home/ada7/nvcc said: {secret}")}
        if "=" not in secret and "#" not in secret
        else {},
        nvml={
            "gpus": (
                gpu(
                    0,
                    uuid="GPU-8f3ae711-1111-2222-3333-444455556666",
                    serial="1650923004711",
                    processes=(GpuProcess(pid=7, name=f"train-{secret}", used_bytes=1 << 30),),
                ),
                gpu(1),
            )
        },
        kernel_log={
            "xids": (
                Xid(
                    bus_id="0000:00:06.0",
                    number=31,
                    count=1,
                    text=f"pid=7, name={secret}, Ch 00000008 for Zyxomma",
                    processes=(secret,),
                ),
            ),
            "oom_kills": (KernelLine(text=f"Killed process 7 ({secret})", process=secret),),
        },
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_snapshot_holds_a_secret(kind: str):
    text = snapshot_file.as_json(redact(planted(KINDS[kind]), ADA))

    assert [secret for secret in SECRETS if secret.lower() in text.lower()] == []


@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize("kind", KINDS)
def test_no_report_of_a_redacted_snapshot_holds_a_secret(kind: str, form: Format):
    text = render(examine(redact(planted(KINDS[kind]), ADA)), form, Look(verbose=True))

    assert [secret for secret in SECRETS if secret.lower() in text.lower()] == []


def test_what_rules_read_is_kept():
    redacted = redact(planted("x"), ADA)

    assert redacted.environment.variable("XLA_FLAGS") == "--xla_gpu_cuda_data_dir=/usr/local/cuda"
    assert redacted.environment.variable("CC") == "gcc"
    assert isinstance(redacted.environment.variable("LOADEDMODULES"), str)
    assert str(redacted.environment.variable("LOADEDMODULES")).startswith("cuda/12.4:")
    assert isinstance(redacted.startup_files.files, tuple)
    [setting] = seen(redacted.startup_files.files[0].settings)
    assert setting.text == "export PATH=/usr/local/cuda/bin:$PATH"


def test_a_kernel_line_keeps_nvidias_words():
    line = "GPU 0000:17:00.0: RmInitAdapter failed! (0x61:0x56:1697)"
    missing = "Direct firmware load for nvidia/550.76/gsp_ga10x.bin failed with error -2"
    log = {"adapter_reasons": (KernelLine(text=line), KernelLine(text=missing))}

    redacted = redact(machine(kernel_log=log), ADA).kernel_log

    assert isinstance(redacted.adapter_reasons, tuple)
    assert [each.text for each in redacted.adapter_reasons] == [line, missing]


def test_a_serial_number_has_another_token_on_another_machine(monkeypatch: pytest.MonkeyPatch):
    from gpucheck import privacy

    def token() -> str:
        encoded = msgspec.json.encode(redact(planted("x"), ADA)).decode()
        return encoded[encoded.index("serial-") :][:15]

    here = token()
    monkeypatch.setattr(privacy, "_key", lambda: b"another machine's id, 32 bytes..")

    assert token() != here


def test_a_version_is_no_address():
    versions = "nvidia-cudnn-cu13 9.19.0.56 in /opt/cudnn-9.19.0.56/lib"
    redacted = redact(with_variables(LD_LIBRARY_PATH="/opt/9.19.0.56/lib", CUDNN_PATH=versions))

    assert redacted.environment.variable("LD_LIBRARY_PATH") == "/opt/9.19.0.56/lib"


def held(text: str) -> list[str]:
    """The secrets that *text* holds."""
    return [secret for secret in SECRETS if secret.lower() in text.lower()]


@pytest.fixture
def ada(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy, "owner", lambda: ADA)


@pytest.mark.parametrize("form", [form for form in Format if not RENDERERS[form].identifies])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("ada")
def test_no_report_for_others_of_a_machine_as_it_is_holds_a_secret(kind: str, form: Format):
    report = examine(planted(KINDS[kind]))

    assert held(render(report, form, Look(verbose=True))) == []
    assert held(one_line(report, "node", form)) == []


@pytest.mark.parametrize("form", list(FleetFormat))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("ada")
def test_no_report_on_a_fleet_holds_a_secret(kind: str, form: FleetFormat):
    content = snapshot_file.as_json(planted(KINDS[kind])).encode()
    results = tuple(judge(Answer(node=name, content=content)) for name in ("n1", "n2"))

    assert results[0].verdict != "unreadable"
    assert held(fleet_formats.render(report_of(Fleet(results=results)), form)) == []


def trained(secret: str) -> Snapshot:
    """The machine after a training with another host that failed, and after a bench."""
    machine = planted(secret)
    replicas = tuple(
        Replica(position=at, gpu=at, host=host)
        for at, host in enumerate(("rack12.acme.example", "rack13.acme.example"))
    )
    failure = TrainingFailure(
        kind="error",
        phase="training",
        host="rack13.acme.example",
        message=f"RuntimeError: {secret} in /home/ada7/train.py on rack13.acme.example",
    )
    return msgspec.structs.replace(
        machine,
        training=Training(
            strategy="ddp", device="cuda", gpus_wanted="all", replicas=replicas, failure=failure
        ),
        bench=Bench(device="cuda", figures=Unknown(f"/home/ada7/venv: {secret}")),
    )


#: An error's message holds no comment of a start-up file.
SAID = [kind for kind in KINDS if kind != "comment"]


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.usefixtures("ada")
def test_no_facts_of_a_training_or_a_bench_hold_a_secret(kind: str):
    machine = trained(KINDS[kind])

    assert held(snapshot_file.as_json(privacy.redact(machine))) == []


@pytest.mark.parametrize("form", [form for form in Format if not RENDERERS[form].identifies])
@pytest.mark.parametrize("kind", SAID)
@pytest.mark.usefixtures("ada")
def test_no_report_on_a_training_holds_a_secret(kind: str, form: Format):
    report = examine(trained(KINDS[kind]))

    assert held(render(report, form, Look(verbose=True))) == []
