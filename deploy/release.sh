#!/usr/bin/env bash
# A release: the binary, the list of what it is made of (an SBOM, CycloneDX as JSON), and their checksums.
#
#   deploy/release.sh [TARGET [FOLDER]]     deploy/release.sh x86_64-unknown-linux-musl
#
# TARGET is this machine's own by default. A musl target gives a binary that needs no library beside it; it takes
# `rustup target add TARGET` and, on Debian, the package musl-tools. FOLDER is dist/TARGET by default.
#
# The same commit, Rust toolchain and C compiler give the same bytes, in whichever folder and on whichever day they are built;
# `tests/run reproducible` shows it. The Dockerfile builds with this script too. What writes the SBOM is installed in target/tools, or
# in SYNCLINE_RELEASE_TOOLS.
set -euo pipefail

cyclonedx=0.5.9

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top"
target=${1:-$(rustc -vV | sed -n 's/^host: //p')}
folder=${2:-dist/$target}
build=$(realpath -m "${CARGO_TARGET_DIR:-target}")
home=$(realpath -m "${CARGO_HOME:-$HOME/.cargo}")
tools=${SYNCLINE_RELEASE_TOOLS:-$build/tools}

# Paths would tell where it was built, in messages of panics above all. Of two prefixes that fit, rustc takes the last.
rust=() c=()
for prefix in "$home=cargo" "$top=." "$build=target"; do
  rust+=("--remap-path-prefix=$prefix") c+=("-ffile-prefix-map=$prefix")
done
export RUSTFLAGS="${rust[*]}" CFLAGS="${c[*]}" CARGO_INCREMENTAL=0
# The time an SBOM bears: that of the commit.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

# Does nothing when that version is there.
env -u RUSTFLAGS -u CFLAGS CARGO_TARGET_DIR="$tools/target" \
  cargo install --quiet --locked --root "$tools" --version "=$cyclonedx" cargo-cyclonedx
rm -rf "$tools/target"

# Written beside each Cargo.toml that makes a binary.
"$tools/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --no-build-deps --target "$target"

mkdir -p "$folder"
sed "s|file://$top|file://.|g" syncline_bin.cdx.json >"$folder/syncline.cdx.json"
rm -f ./*_bin.cdx.json ./*/*_bin.cdx.json

cargo build --release --locked --bin syncline --target "$target"
install -m 755 "$build/$target/release/syncline" "$folder/syncline"
(cd "$folder" && sha256sum syncline syncline.cdx.json | tee SHA256SUMS)
