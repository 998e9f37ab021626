#!/usr/bin/env bash
# Tests and measures forebay on this machine's GPU, from the bundle that tests/gpu/bundle.sh makes:
#
#   run.sh [--standin] [--out DIR]
#
# Needs an NVIDIA driver, and a Python environment with torch (FOREBAY_PYTHON, or the first python3 that has it) whose packages also
# have CUDA's libraries. No Rust and no network. Takes less than nine minutes, and leaves at most eight files in DIR, by default
# `results`: summary.md, env.txt, tests.txt, selftest.txt, throughput.json, losses.json, ncu.csv.gz, sanitizer.txt.
#
# --standin rehearses it on the stand-in for CUDA: tests/standin/run.sh .../run.sh --standin
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
standin='' out=results
while [ $# -gt 0 ]; do
  case $1 in
    --standin) standin=1 ;;
    --out) out=${2:?run.sh: --out needs a folder}; shift ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/{summary.md,env.txt,tests.txt,selftest.txt,throughput.json,losses.json,ncu.csv.gz,sanitizer.txt}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bin=$here/bin
# A step that is begun late ends at the deadline, and the summary takes a second.
deadline=$((SECONDS + 525))
# shellcheck source=tests/gpu/steps.sh
. "$here/steps.sh"

python=${FOREBAY_PYTHON:-}
for candidate in python3 python /opt/conda/bin/python /venv/bin/python "$HOME"/venv/bin/python; do
  [ -z "$python" ] || break
  if "$candidate" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2> /dev/null; then
    python=$(command -v "$candidate")
  fi
done
python=${python:-python3}
if [ -z "$standin" ] && [ -z "${FOREBAY_CUDA_LIBS:-}" ]; then
  # The environment's packages, with NVIDIA's libraries in nvidia/*/lib.
  packages=$("$python" -c 'import importlib.util as u, os; print(os.path.dirname(os.path.dirname(u.find_spec("torch").origin)))' 2> /dev/null)
  [ -z "$packages" ] || export FOREBAY_CUDA_LIBS=$packages
fi
# The programs would take settings from the user's environment, or wait for the other ranks of a launcher.
for name in $(compgen -e FOREBAY_); do
  case $name in FOREBAY_CUDA_LIBS | FOREBAY_PYTHON | FOREBAY_STANDIN_*) ;; *) unset "$name" ;; esac
done
unset LOCAL_RANK RANK WORLD_SIZE JOB_COMPLETION_INDEX MASTER_ADDR MASTER_PORT
export FOREBAY_GOLDENS=$here/goldens FOREBAY_BIN_DIR=$bin FOREBAY_TEST_DEVICE=cuda:0 RUST_BACKTRACE=1
# Not the user's, so that plans are measured in every run, and nothing is left but the files in DIR.
export FOREBAY_CONV_PLAN_CACHE=$work/plans

if [ -z "$standin" ]; then
  kernels=cuda:0/ mixing=cuda:0/ mixed=05_mixup/cuda:0/ training=cuda:0/
  golden="cuda:0/08 cuda:0/09 cuda:0/10 cuda:0/11"
  mix_selftest='' selftest='' torch="--device cuda:0 --seconds 100"
  shapes="--batch 32,64,256,512 --size 224,160 --steps 20 --warm-up 5"
  bench="--model resnet50" f32="--batch 64 --size 224 --steps 10 --warm-up 3" one="--batch 256 --size 224" images=4096
  few="--batch 32,256 --size 224 --steps 10 --warm-up 4"
  end_to_end='{"classes": 10, "per_class": 400, "steps": 33, "train": ["--model", "resnet50", "--recipe", "a3", "--batch", "256",
    "--microbatches", "1", "--image-size", "160", "--epochs", "10", "--warmup-epochs", "1"]}'
else
  kernels=cuda:0/lamb mixing=cuda:0/the mixed=05_mixup/cuda:0/ training=cuda:0/the_same
  golden="cuda:0/09"
  mix_selftest="--images 4 --size 32" selftest="--compare resnet20 --model resnet20 --batch 2 --image-size 16 --steps 1"
  torch="--device cpu --tiny" shapes="--batch 2,3 --size 16 --steps 1 --warm-up 1"
  bench="--model resnet20 --classes 10" f32="--batch 2 --size 16 --steps 1" one="--batch 2 --size 16" images=8
  few="--batch 2 --size 16 --steps 1 --warm-up 3"
  end_to_end='{"classes": 2, "per_class": 10, "steps": 5, "train": ["--model", "resnet20", "--recipe", "a3", "--batch", "4",
    "--microbatches", "1", "--image-size", "16", "--epochs", "1", "--warmup-epochs", "0"]}'
fi

# A command of a bundle's step that is more than one program. Called by `step` as `run.sh` would call itself.
environment() {
  date -u
  uname -srm
  ldd --version 2>&1 | head -n 1
  echo "forebay $(cat "$here/version.txt"), $(nproc) cores, $(awk '/MemTotal/ {print int($2 / 1048576) " GiB"}' /proc/meminfo)"
  echo "python: $python, FOREBAY_CUDA_LIBS=${FOREBAY_CUDA_LIBS:-}"
  "$python" -c 'import sys, torch; print("torch", torch.__version__, "CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version(), sys.version)' 2>&1 | tail -n 1
  for tool in nvidia-smi ncu nsys compute-sanitizer; do command -v "$tool" || echo "no $tool"; done
  nvidia-smi 2>&1
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit,memory.total --format=csv 2>&1
  return 0
}
libraries() {
  "$bin/$1" gpu-selftest --help | grep -q -- --libraries || { echo "$1 gpu-selftest has no --libraries"; return 77; }
  "$bin/$1" gpu-selftest --libraries
}
# A filter that selects no test is a failure.
tests() {
  "$here/tests/$1" "$2" | tee "$work/tests.log"
  [ "${PIPESTATUS[0]}" = 0 ] || return 1
  grep -qE '^test result: ok\. [1-9]' "$work/tests.log" || { echo "no test of $1 is named like $2"; return 1; }
}
throughput() {
  # shellcheck disable=SC2086 # lists of flags
  "$bin/forebay-trainer" bench --device cuda:0 --precision bf16 $bench $shapes --json "$work/bench.json"
}
throughput_f32() {
  # shellcheck disable=SC2086
  "$bin/forebay-trainer" bench --device cuda:0 --precision f32 $bench $f32 --json "$work/bench_f32.json"
}
# What each way to train is worth: the default of bf16, and others beside it.
variants() {
  local name flags
  while IFS=: read -r name flags; do
    # shellcheck disable=SC2086
    "$bin/forebay-trainer" bench --device cuda:0 $bench $few $flags --json "$work/variant-$name.json" || return 1
  done << 'END'
bf16:--precision bf16
bf16 without CUDA graphs:--precision bf16 --cuda-graphs=false
bf16 by the legacy API:--precision bf16 --conv-api legacy
bf16 with statistics by convolutions:--precision bf16 --norms fused
f16:--precision f16
f16 with fused norms:--precision f16 --norms fused
END
}
losses() {
  mapfile -t flags < "$here/replay/flags"
  "$bin/forebay-trainer" train --replay "$here/replay/microbatches" --device cuda:0 --output "$work/replay" "${flags[@]}" &&
    "$python" "$here/losses.py" "$here/replay/cpu.jsonl" "$work/replay/log.jsonl" "$out/losses.json"
}
# The server's pipeline, mixing on the CPU and on the GPU.
pipeline() {
  for device in cpu cuda:0; do
    "$bin/forebay" bench --device "$device" --dataset "$work/end_to_end/data/train" --recipe a2 --images "$images" --json \
      > "$work/pipeline-$device.json" || return 1
    cat "$work/pipeline-$device.json"
  done
}
# The kernels of a few steps with their times: by ncu if it may read the GPU's counters, otherwise by nsys.
kernel_times() {
  # shellcheck disable=SC2206
  local command=("$bin/forebay-trainer" bench --device cuda:0 $bench $one --cuda-graphs=false --steps 1 --warm-up 1)
  if command -v ncu > /dev/null &&
    timeout 60 ncu --target-processes all --metrics gpu__time_duration.sum --csv --log-file "$work/kernels.csv" "${command[@]}" &&
    grep -q gpu__time_duration "$work/kernels.csv"; then
    echo "by ncu"
  elif command -v nsys > /dev/null && nsys profile --trace cuda --output "$work/trace" --force-overwrite true "${command[@]}" &&
    nsys stats --report cuda_gpu_trace --format csv --output - "$work/trace.nsys-rep" > "$work/kernels.csv"; then
    echo "by nsys"
  else
    echo "there is neither an ncu that may read the GPU's counters nor an nsys"
    return 77
  fi
  gzip -9c "$work/kernels.csv" > "$out/ncu.csv.gz"
}
sanitizer() {
  command -v compute-sanitizer > /dev/null || { echo "there is no compute-sanitizer"; return 77; }
  compute-sanitizer --tool "$1" --error-exitcode 9 --target-processes all "$here/tests/kernels" "$kernels" --test-threads 1
}
export -f environment libraries tests throughput throughput_f32 variants losses pipeline kernel_times sanitizer
export here out work bin python kernels bench shapes f32 few one images
calls() { step "$1" "$2" "$3" bash -c '"$@"' _ "${@:4}"; }

calls environment 20 env.txt environment
calls "libraries of forebay" 20 env.txt libraries forebay
calls "libraries of forebay-trainer" 20 env.txt libraries forebay-trainer
# shellcheck disable=SC2086
step "forebay gpu-selftest" 40 selftest.txt "$bin/forebay" gpu-selftest $mix_selftest
calls "kernels" 60 tests.txt tests kernels "$kernels"
calls "mixing" 60 tests.txt tests mixing "$mixing"
calls "golden 05" 30 tests.txt tests golden "$mixed"
# shellcheck disable=SC2086
step "forebay-trainer gpu-selftest" 90 selftest.txt "$bin/forebay-trainer" gpu-selftest $selftest
calls "training" 90 tests.txt tests training "$training"
for suite in $golden; do
  # The repository's own goldens lack some suites.
  if compgen -G "$here/goldens/${suite#cuda:0/}_*" > /dev/null; then
    calls "golden ${suite#cuda:0/}" 30 tests.txt tests golden "$suite"
  fi
done
calls "throughput, bf16" 90 selftest.txt throughput
calls "throughput, f32" 30 selftest.txt throughput_f32
calls "variants" 60 selftest.txt variants
# shellcheck disable=SC2086
step "throughput of torch" 130 selftest.txt "$python" "$here/torch_bench.py" $torch $shapes --json "$work/torch.json"
calls "losses" 60 tests.txt losses
step "end to end" 60 tests.txt "$python" "$here/end_to_end.py" "$bin" cuda:0 "$work/end_to_end" "$end_to_end" "$work/end_to_end.json"
calls "pipeline" 40 selftest.txt pipeline
calls "kernel times" 80 selftest.txt kernel_times
for tool in racecheck synccheck memcheck; do
  calls "compute-sanitizer $tool" 45 sanitizer.txt sanitizer "$tool"
done
"$python" "$here/summary.py" "$work" "$out" "$here/predictions.json" "$here/version.txt"
echo "$out/summary.md"
! grep -qE $'\t(FAILED|TIMED OUT|NOT RUN)' "$work/status.tsv"
