#!/bin/sh
# Puts the command gpucheck on PATH: by pipx or uv where there is one, else in an environment of its
# own with a link in ~/.local/bin. Asks nothing, and says where the command is.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

if command -v pipx >/dev/null 2>&1; then
    pipx install --force --quiet "$here" >&2
    bin=$(pipx environment --value PIPX_BIN_DIR 2>/dev/null || echo "$HOME/.local/bin")
elif command -v uv >/dev/null 2>&1; then
    uv tool install --force --quiet "$here" >&2
    bin=$(uv tool dir --bin 2>/dev/null || echo "$HOME/.local/bin")
else
    home=${XDG_DATA_HOME:-$HOME/.local/share}/gpucheck
    bin=$HOME/.local/bin
    "$python" -m venv "$home/venv" || {
        echo "install: no virtual environment could be made (Debian and Ubuntu: apt install python3-venv)" >&2
        exit 1
    }
    "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade "$here" >&2
    mkdir -p "$bin"
    ln -sf "$home/venv/bin/gpucheck" "$bin/gpucheck"
fi
echo "gpucheck is installed: $bin/gpucheck"
case ":$PATH:" in
    *":$bin:"*) ;;
    *) echo "$bin is not on your PATH: call it by that name, or open a new login shell" ;;
esac
