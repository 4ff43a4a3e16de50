#!/usr/bin/env bash
# The same commit gives the same release: tests/run reproducible [TARGET ...]
#
# Builds what is committed twice with deploy/release.sh, in two folders and with two homes of Cargo, and compares the binaries
# and their SBOMs byte by byte. Then no path of this machine is in them, the binary runs, a musl one needs no library, and the
# SBOM names every crate that is linked. TARGET is this machine's own and its musl sibling, where that is installed.
# Takes two release builds for each, from nothing: many minutes, and about 2 GB in target/reproducible.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\nreproducible: %s\n' "$*" >&2; }
die() { say "FAILED: $*"; exit 1; }

work=$PWD/target/reproducible
export SYNCLINE_RELEASE_TOOLS=$PWD/target/tools
host=$(rustc -vV | sed -n 's/^host: //p')
targets=("$@")
if [ $# = 0 ]; then
  targets=("$host")
  musl=${host/%-gnu/-musl}
  if [ "$musl" != "$host" ] && [ -d "$(rustc --print target-libdir --target "$musl")" ]; then targets+=("$musl"); fi
fi
git diff --quiet HEAD || say "what is not committed is not built"
export SOURCE_DATE_EPOCH; SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)

build() { # FOLDER TARGET
  mkdir -p "$1"
  git archive HEAD | tar -x -C "$1"
  (cd "$1" && deploy/release.sh "$2" "out/$2" >/dev/null)
}

crates() { # of an SBOM, as `cargo tree` writes them
  python3 -c '
import json, sys
bom = json.load(open(sys.argv[1]))
print(*(one["name"] + " v" + one["version"] for one in bom["components"]), sep="\n")' "$1" | sort -u
}

linked() { # FOLDER TARGET
  (cd "$1" && cargo tree --locked --prefix none --edges normal --target "$2" -p syncline --format '{p}') |
    cut -d' ' -f1,2 | grep -v '^syncline v' | sort -u
}

rm -rf "$work"; mkdir -p "$work"
home=${CARGO_HOME:-$HOME/.cargo}
mkdir -p "$work/home"; ln -s "$home/registry" "$work/home/registry"
for target in "${targets[@]}"; do
  one=$work/one two=$work/two/in-a-folder-of-a-longer-name
  say "$target, the first time"
  build "$one" "$target"
  rm -rf "$one/target" # nobody has room for everything twice
  say "$target, the second time, elsewhere"
  (export CARGO_HOME=$work/home TZ=Asia/Tokyo LC_ALL=C; build "$two" "$target")
  rm -rf "$two/target"

  for file in syncline syncline.cdx.json; do
    cmp "$one/out/$target/$file" "$two/out/$target/$file" || die "$file of $target differs; both are in $work"
    for path in "$work" "$home" "$HOME/" "$PWD"; do
      if grep -qaF "$path" "$one/out/$target/$file"; then die "$file of $target names $path"; fi
    done
  done
  binary=$one/out/$target/syncline sbom=$one/out/$target/syncline.cdx.json
  "$binary" --version
  case $target in *-musl) if ldd "$binary" 2>/dev/null | grep -q '=>'; then die "$binary needs libraries"; fi ;; esac
  # Cargo tells the SBOM of crates that features could bring as well: more than is linked, never less.
  unnamed=$(comm -13 <(crates "$sbom") <(linked "$one" "$target"))
  [ -z "$unnamed" ] || die "the SBOM of $target does not name" $unnamed
  say "$target: twice the same, $(stat -c %s "$binary") bytes, $(crates "$sbom" | wc -l) crates"
  cat "$one/out/$target/SHA256SUMS"
done
rm -rf "$work"
say "passed"
