#!/usr/bin/env bash
# Makes .venv and installs the pinned set of one target into it: `bash deploy/setup.sh cpu|gpu`.
# uv does the installing (13 s against pip's 3 min); it does not read pip's configuration, so whatever
# indexes and wheel folders this machine's pip knows are handed to it.
set -euo pipefail
target=${1:-cpu}
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "fettle needs Python 3.11; '$python' is $("$python" -V 2>&1). Name one with PYTHON=/path/to/python3.11 make demo" >&2
    exit 2
}
command -v c++ >/dev/null || command -v g++ >/dev/null || {
    echo "fettle needs a C++ compiler (g++ or clang++) for DeepSpeed's and torch's run-time builds" >&2
    exit 2
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
[ -x .venv/bin/uv ] || said=$(.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 2>&1) || {
    printf '%s\nuv could not be installed from this machine%s Python index (above)\n' "$said" "'s" >&2
    exit 1
}

flags=()
default_index=$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)
[ -n "$default_index" ] && flags+=(--default-index "$default_index")
for url in $(.venv/bin/python -m pip config get global.extra-index-url 2>/dev/null || true) ${PIP_EXTRA_INDEX_URL:-}; do
    case $url in file://*) [ -d "${url#file://}" ] || continue ;; esac
    flags+=(--extra-index-url "$url")
done
for folder in $(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true) ${PIP_FIND_LINKS:-}; do
    flags+=(--find-links "$folder")
done
# Every file is checked against its hash, so which index it came from does not matter.
flags+=(--index-strategy unsafe-best-match --no-deps --require-hashes)
# Compiled once here: else each of the many processes of a run compiles thousands of files (16 s to an endpoint, not 41).
install=(.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python "${flags[@]}" -r "requirements/$target.txt")

# The CPU build of torch is on PyTorch's own index unless pip's own places hold it.
if [ "$target" = cpu ] && ! .venv/bin/uv pip install --quiet --dry-run --python .venv/bin/python "${flags[@]}" \
        -r <(grep -A1 '^torch==' requirements/cpu.txt) 2>/dev/null; then
    install+=(--torch-backend cpu)
fi
echo "installing the $target set into .venv"
"${install[@]}"
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
.venv/bin/python -m compileall -q platform/fettle # as above, where Python itself writes none
mkdir -p .venv/share/fettle && sed -n 's/^\([a-z0-9._-]*==[^ ]*\).*/\1/p' "requirements/$target.txt" >.venv/share/fettle/set.txt # `fettle doctor` compares

# What would be built or looked up at the first use, inside a worker or an engine: once, here, side by side.
echo "building DeepSpeed's CPU op and letting vLLM look at the bundled model"
if [ "$target" = cpu ]; then
    export DS_ACCELERATOR=cpu CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1
    log=.venv/setup.log
    .venv/bin/python -c "from fettle.train.zero import prebuild; prebuild()" >"$log" 2>&1 &
    .venv/bin/python -c "from fettle.engine import start_engine; from fettle.models.base import BUNDLED; start_engine(BUNDLED['tiny']).close()" >>"$log" 2>&1 || true
    wait $! || { tail -20 "$log" >&2; echo "DeepSpeed's CPU op did not build; log: $log" >&2; exit 1; }
fi
