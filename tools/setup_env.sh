#!/usr/bin/env bash
# Set up .venv: pinned dependencies, then the package in editable mode. Safe to interrupt and repeat.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
fail() { echo "error: $1" >&2; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
  || fail "Python >= 3.10 is needed; name one with make PYTHON=/path/to/python3 ..."
"$python" -c 'import venv, ensurepip' 2>/dev/null \
  || fail "Python's venv is missing; on Debian: apt-get install python3-venv"
"$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' \
  || fail "Python's headers are missing, mmcv compiles with them; on Debian: apt-get install python3-dev"
command -v g++ >/dev/null || fail "a C++ compiler is missing; on Debian: apt-get install g++"

[ -x .venv/bin/pip ] || "$python" -m venv --clear .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@" 2> >(grep -v "is ignored: it is neither" >&2); }
pin() { sed -n "s/^$1==\([^ ]*\).*/\1/p" constraints.txt; }
has() { [ "$(.venv/bin/python -c "from importlib.metadata import version; print(version('$1'))" 2>/dev/null)" = "$(pin "$1")" ]; }

echo "[1/3] torch and build tools (a few GB, 1 to 5 minutes)"
has torch && has torchvision && has setuptools && has ninja \
  || pip install -q -c constraints.txt setuptools wheel ninja numpy torch torchvision
echo "[2/3] mmcv: it compiles once, about 6 to 10 minutes on 2 cores"
has onedl-mmcv \
  || PATH="$PWD/.venv/bin:$PATH" MAX_JOBS=$(nproc) CFLAGS=-g0 \
     pip install -q -c constraints.txt --no-build-isolation onedl-mmcv
echo "[3/3] the other packages and prunet_det (about 1 minute)"
pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
# mmcv asks for opencv-python, mmdet's imaug for the headless one. Both own cv2, and the former needs
# libGL, which a server lacks: keep the headless one.
if .venv/bin/python -c "from importlib.metadata import version; version('opencv-python')" 2>/dev/null; then
  pip uninstall -q -y opencv-python opencv-python-headless
  pip install -q --no-deps -c constraints.txt opencv-python-headless
fi
.venv/bin/python tools/doctor.py
touch .venv/.ready
