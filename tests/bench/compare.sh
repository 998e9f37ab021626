#!/bin/sh
# Compares forebay with its peers on the same files, and prints one table. Linux only.
#     tests/bench/compare.sh [IMAGEFOLDER] [--images 512] [--rounds 5] [--json FILE]
# The default folder is FOREBAY_DATA/imagenet-sample/train. Needs Rust, a C compiler, python3, libjpeg-turbo with its
# headers (libjpeg62-turbo-dev), and once PyPI: the peers are installed in the virtual environment
# FOREBAY_PEERS_VENV. FFCV also needs pkg-config, libopencv-dev and libturbojpeg0-dev. A peer that cannot be
# installed is omitted from the table, with the reason.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
case ${1:-} in
'' | -*) set -- "${FOREBAY_DATA:?pass an ImageFolder or set FOREBAY_DATA}/imagenet-sample/train" "$@" ;;
esac

venv=${FOREBAY_PEERS_VENV:-$HOME/.cache/forebay/peers}
[ -x "$venv/bin/python" ] || { mkdir -p "$venv" && python3 -m venv "$venv"; }
while read -r packages; do
    stamp=$venv/$(echo "$packages" | cksum | tr ' ' -)
    [ ! -e "$stamp" ] || continue
    # shellcheck disable=SC2086
    if "$venv/bin/pip" install --quiet $packages; then touch "$stamp"; else echo "cannot install: $packages" >&2; fi
done <"$here/peers/packages.txt"

target=${CARGO_TARGET_DIR:-$here/../../target}
cargo build --quiet --release --locked --manifest-path "$here/../../Cargo.toml" -p forebay-server
CARGO_TARGET_DIR=$target/turbo cargo build --quiet --release --locked --manifest-path "$here/turbo/Cargo.toml"
exec "$venv/bin/python" "$here/compare.py" --forebay "$target/release/forebay" --turbo "$target/turbo/release/turbo" "$@"
