# program.sh — for checks that run the program: `. "$2/tests/program.sh"`, with its path and the source's as $1 and $2.
#
#   $trilith $source          both absolute; $work: a folder of the check's own, removed at the end
#   call ARGUMENT…            the program, bounded in time, what it says on standard error in $work/err
#   run ARGUMENT…             the same, with standard output in $work/out
#   fail SENTENCE             counts a failure, and shows what was said on standard error
#   refuses PATTERN ARGUMENT… exit status 2, nothing on standard output, one sentence, which begins with trilith and matches
#   make_text FILE LINES
#   await_lines FILE LINES    until a file that something writes has so many, a minute at most
#   finish                    last of all: how many failed
set -u
trilith=$(realpath "$1")
source=$(realpath "$2")
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failures=0
fail() {
    failures=$((failures + 1))
    printf 'FAILED: %s\n' "$1"
    [ ! -s "$work/err" ] || sed 's/^/  stderr: /' "$work/err" | head -n 8
}
call() { timeout 100 "$trilith" "$@" 2>"$work/err" </dev/null; }
run() { call "$@" >"$work/out"; }
# refused PATTERN STATUS WHAT: whether what has just run was refused as it should be.
refused() {
    if [ "$2" -ne 2 ]; then fail "$3: exit status $2, expected 2"
    elif [ -s "$work/out" ]; then fail "$3: it wrote to standard output"
    elif [ "$(wc -l <"$work/err")" -ne 1 ]; then fail "$3: one line on standard error was expected"
    elif ! grep -q '^trilith' "$work/err"; then fail "$3: the sentence does not begin with trilith"
    elif ! grep -q -e "$1" "$work/err"; then fail "$3: the sentence does not match '$1'"
    fi
}
refuses() {
    pattern=$1
    shift
    run "$@"
    refused "$pattern" $? "trilith $*"
}
make_text() {
    awk -v n="$2" 'BEGIN { for (i = 0; i < n; i++) printf "The heaven and the earth number %d were finished, and all the host of them.\n", i }' >"$1"
}
await_lines() { # FILE LINES: until it has so many, a minute at most
    awaited=0
    while [ "$(cat "$1" 2>/dev/null | wc -l)" -lt "$2" ] && [ $awaited -lt 1200 ]; do
        sleep 0.05
        awaited=$((awaited + 1))
    done
}
finish() {
    printf '%d failed\n' $failures
    [ $failures -eq 0 ]
}
