#!/usr/bin/env bash
# Installs, builds and runs every test, then those of hostile input under ASan and UBSan, and those of
# threads under TSan (two more builds, left out with --quick; tests/sanitize.sh runs everything under
# them). The last line is "N passed, N failed"; the exit code is not 0 when any failed.
set -uo pipefail
cd "$(dirname "$0")/.."
sanitize=true
case "${1:-}" in
  '') ;;
  --quick) sanitize=false ;;
  *) echo "usage: tests/run.sh [--quick]" >&2; exit 2 ;;
esac

passed=0
failed=0
fail_step() { echo "FAILED: $1"; failed=$((failed + 1)); }
say() { printf '\n== %s (%ss) ==\n' "$1" "$SECONDS"; }

# Adds the counts of a JUnit file: <testsuite ... tests= failures= errors= skipped= ...>.
count() {
  [ -f "$1" ] || { fail_step "$2 wrote no results"; return; }
  read -r ok bad skipped < <(python3 - "$1" <<'PY'
import sys, xml.etree.ElementTree as tree
cases = list(tree.parse(sys.argv[1]).getroot().iter("testcase"))
bad = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
skip = [c for c in cases if c.find("skipped") is not None or c.get("status") in ("notrun", "disabled")]
for what, some in [("FAILED", bad), ("skipped", skip)]:
    for c in some:  # ctest writes the name as the class too, with the parameter after a #
        names = dict.fromkeys([c.get("classname"), c.get("name")])
        print(f"{what}:", " ".join(names).split("  # ")[0], file=sys.stderr)
print(len(cases) - len(bad) - len(skip), len(bad), len(skip))
PY
)
  passed=$((passed + ok)); failed=$((failed + bad))
  echo "$2: $ok passed, $bad failed, $skipped skipped"
}

run_ctest() {  # preset, name, further ctest arguments
  local preset=$1 name=$2; shift 2
  rm -f "build/$preset/$name.xml"
  ctest --test-dir "build/$preset" -j2 --output-on-failure --output-junit "$name.xml" "$@" \
    > "build/$preset/$name.log" 2>&1 || tail -n 80 "build/$preset/$name.log"
  count "build/$preset/$name.xml" "$name"
}

say "packages"
deploy/install.sh deploy/packages.txt tests/packages.txt || { echo "0 passed, 1 failed"; exit 1; }
# Not part of the product: Python clients that the end-to-end tests drive the daemon with.
if [ ! -x build/venv/bin/pytest ] || [ tests/requirements.txt -nt build/venv/ready ]; then
  mkdir -p build && /usr/bin/python3 -m venv build/venv &&
    build/venv/bin/pip install -q --disable-pip-version-check -r tests/requirements.txt &&
    touch build/venv/ready || { echo "0 passed, 1 failed"; exit 1; }
fi

say "build"
deploy/build.sh release > build/release-build.log 2>&1 ||
  { tail -n 60 build/release-build.log; echo "0 passed, 1 failed"; exit 1; }
grep '^building' build/release-build.log

say "unit, property and golden tests"
run_ctest release unit

say "rules and end-to-end tests"
rm -f build/e2e.xml
build/venv/bin/pytest -q --maxfail=20 --junitxml=build/e2e.xml tests/arch tests/e2e 2>&1 | tail -n 40
count build/e2e.xml end-to-end

if $sanitize; then
  for preset in asan tsan; do
    say "$preset"
    if deploy/build.sh "$preset" "sanitized_tests" > "build/$preset-build.log" 2>&1; then
      run_ctest "$preset" "$preset" -L sanitized
    else
      tail -n 60 "build/$preset-build.log"
      fail_step "$preset build"
    fi
  done
fi

say "done"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
