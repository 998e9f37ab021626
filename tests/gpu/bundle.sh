#!/usr/bin/env bash
# Packs what tests forebay on a machine with a GPU that has neither Rust nor a network:
#
#   tests/gpu/bundle.sh [--profile PROFILE] [--standin] [OUT]
#
# OUT is a .tar.xz file, by default forebay-gpu.tar.xz, or a folder. It has programs and test executables with CUDA, golden suites
# (those of FOREBAY_GOLDENS, by default the repository's own), 20 microbatches of generated images with the CPU's losses, predictions
# of the speed, and run.sh. The machine needs Rust, python3 and binutils, and no CUDA.
#
# --profile is Cargo's, by default release. --standin packs what rehearses run.sh on the stand-in for CUDA: smaller microbatches.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
profile=release standin='' result=forebay-gpu.tar.xz
while [ $# -gt 0 ]; do
  case $1 in
    --profile) profile=${2:?bundle.sh: --profile needs the name of a profile}; shift ;;
    --standin) standin=1 ;;
    -*) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    *) result=$1 ;;
  esac
  shift
done
result=$(realpath -m "$result")
work=$(mktemp -d)
trap '[ -z "${server:-}" ] || kill "$server" 2> /dev/null; rm -rf "$work"' EXIT
case $result in
  *.tar.xz) bundle=$work/forebay-gpu ;;
  *)
    bundle=$result
    # Nothing but an earlier bundle is replaced.
    if [ -e "$bundle" ] && ! [ -e "$bundle/steps.sh" ] && ! rmdir "$bundle" 2> /dev/null; then
      echo "bundle.sh: $bundle exists and is not a bundle: name a .tar.xz file, or another folder" >&2
      exit 2
    fi
    rm -rf "$bundle"
    ;;
esac
mkdir -p "$bundle"/{bin,tests,goldens,replay}

cd "$root"
echo "building by the profile $profile" >&2
cargo test --workspace --locked --profile "$profile" --features forebay-tests/cuda,forebay-trainer/cuda --no-run \
  --test mixing --test golden --test training --test kernels --message-format=json 2> "$work/cargo.log" \
  > "$work/cargo.json" || { cat "$work/cargo.log" >&2; exit 1; }
# The executables that Cargo names: the tests, and the one program that is all of them.
python3 - "$work/cargo.json" > "$work/executables" << 'PYTHON'
import json, sys
for line in open(sys.argv[1], encoding="utf-8"):
    line = json.loads(line)
    if line.get("executable") and (line["target"]["kind"] == ["test"] or line["target"]["name"] == "quickstart"):
        print(line["target"]["name"], line["executable"])
PYTHON
while read -r name path; do
  case $name in
    quickstart) strip -o "$bundle/bin/quickstart.bin" "$path" ;;
    *) strip -o "$bundle/tests/$name" "$path" ;;
  esac
done < "$work/executables"
for file in bin/quickstart.bin tests/{kernels,mixing,golden,training}; do
  [ -x "$bundle/$file" ] || { echo "bundle.sh: Cargo built no $file" >&2; exit 1; }
done
for name in forebay forebay-trainer quickstart; do
  program=$name
  [ "$name" != quickstart ] || program=
  # shellcheck disable=SC2016 # for the script that is written
  printf '#!/bin/sh\nexec "$(dirname "$0")/quickstart.bin" %s "$@"\n' "$program" > "$bundle/bin/$name"
  chmod +x "$bundle/bin/$name"
done

cp "$here"/{run.sh,steps.sh,torch_bench.py,losses.py,end_to_end.py,summary.py} "$bundle"
python3 tests/kernels/floors.py --json "$bundle/predictions.json"
git describe --always --dirty > "$bundle/version.txt" 2> /dev/null || echo "of unknown version" > "$bundle/version.txt"
goldens=${FOREBAY_GOLDENS:-tests/goldens}
for suite in 05_mixup 08_optim 09_loss 10_model 11_droppath; do
  [ ! -d "$goldens/$suite" ] || cp -r "$goldens/$suite" "$bundle/goldens"
done

echo "training on the CPU" >&2
if [ -n "$standin" ]; then
  classes=2 per_class=8 steps=3
  flags=(--model resnet20 --image-size 16 --batch 4)
else
  classes=10 per_class=40 steps=20
  flags=(--model resnet50 --image-size 96 --batch 16)
fi
# From the first step on at a rate at which the loss falls; the initial weights follow from the seed.
flags+=(--recipe a3 --microbatches 1 --epochs 4 --warmup-epochs 0 --lr 0.005 --seed 0 --stop-after "$steps")
"$bundle/bin/forebay" sample-data "$work/data" --classes $classes --per-class $per_class --val-per-class 1 > /dev/null
"$bundle/bin/forebay" index "$work/data/train" > /dev/null
mkfifo "$work/said"
exec 3<> "$work/said"
RUST_LOG=warn "$bundle/bin/forebay" serve --listen 127.0.0.1:0 --dataset "train=$work/data/train" > "$work/said" &
server=$!
read -r -t 60 _ _ address <&3 || { echo "bundle.sh: the server did not start" >&2; exit 1; }
"$bundle/bin/forebay-trainer" train --endpoint "http://$address" --dataset train --device cpu --output "$work/run" \
  --dump "$bundle/replay/microbatches" "${flags[@]}" > "$work/train.log" || { cat "$work/train.log" >&2; exit 1; }
cp "$work/run/log.jsonl" "$bundle/replay/cpu.jsonl"
printf '%s\n' "${flags[@]}" > "$bundle/replay/flags"

case $result in
  *.tar.xz) tar -C "$work" -c forebay-gpu | xz -T0 -6 > "$result" ;;
esac
du -sh "$result" >&2
