"""Which folders feed the loader's cache, and which file names each."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucheck.probes.loader_conf import folders
from gpucheck.snapshot import LoaderFolder


def test_folders_are_found_through_includes_and_links_with_the_file_that_names_them(tmp_path: Path):
    conf = tmp_path / "etc/ld.so.conf.d"
    conf.mkdir(parents=True)
    (tmp_path / "etc/ld.so.conf").write_text("include /etc/ld.so.conf.d/*.conf\n/opt/other\n")
    (conf / "000_cuda.conf").write_text("# CUDA\n/usr/local/cuda/lib64\n/usr/local/gone/lib64\n")
    library = tmp_path / "usr/local/cuda-13.0/lib64"
    library.mkdir(parents=True)
    (library / "libcudart.so.13").write_bytes(b"")
    (tmp_path / "usr/local/cuda").symlink_to("cuda-13.0")

    cuda, gone, other = folders(tmp_path)  # type: ignore[misc]
    assert cuda == LoaderFolder(
        directory=str(library), file="/etc/ld.so.conf.d/000_cuda.conf", has_cudart=True
    )
    assert not gone.has_cudart
    assert other.file == "/etc/ld.so.conf"


def test_an_ld_so_conf_that_includes_itself_comes_to_an_end(tmp_path: Path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ld.so.conf").write_text("include ld.so.conf\ninclude /etc/ld.so.conf\n")

    assert folders(tmp_path) == ()


@given(
    st.text(),
    st.sampled_from(["", ".", "./", "..", "/", "**", "***", "[", "*/*", "etc/x.conf", "x\0y"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_no_ld_so_conf_raises(tmp_path: Path, text: str, pattern: str):
    (tmp_path / "etc").mkdir(exist_ok=True)
    (tmp_path / "etc/ld.so.conf").write_text(f"include {pattern}\n{text}", encoding="utf-8")

    assert isinstance(folders(tmp_path), tuple)
