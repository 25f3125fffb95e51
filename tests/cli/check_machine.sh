#!/bin/sh
# check_machine.sh TRILITH SOURCE — doctor, bench and report run, print what is documented, and refuse in one sentence.
set -u
trilith=$1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failures=0

say() {
    failures=$((failures + 1))
    printf 'FAILED: %s\n' "$1"
    sed 's/^/  stdout: /' "$work/out" | head -5
    sed 's/^/  stderr: /' "$work/err" | head -5
}
call() { timeout 120 "$trilith" "$@" >"$work/out" 2>"$work/err" </dev/null; }
has() { grep -q -e "$1" "$work/out" || say "no '$1' in what was printed"; }
one_line() {
    [ "$(wc -l <"$work/out")" -eq 1 ] || say "$1 prints other than one line"
    [ ! -s "$work/err" ] || say "$1 says something on standard error"
}

call doctor --seconds 0.02 || say 'doctor fails'
has 'f32 peak  *[0-9.]* GFLOP/s measured'
has 'bf16 peak  *[0-9.]* GFLOP/s measured'
has 'memory read  *[0-9.]* GB/s measured'
has 'jansson'
call doctor --json --seconds 0.02 || say 'doctor --json fails'
one_line 'doctor --json'
for member in version machine kernels limits libraries advice f32_flops bf16_flops read_bytes_per_second gemm gemm_bf16; do has "\"$member\":"; done
TRILITH_ISA=ref call doctor --seconds 0 || say 'doctor with ref fails'
has 'kernels, ref'
TRILITH_ISA=sse9 call doctor && say 'doctor takes an instruction set that does not exist'

call bench --seconds 0.01 --batch 2 --seq 48 --width 64 --heads 4 --kv-heads 2 --vocabulary 97 || say 'bench fails'
for name in 'mlp up dW' 'attention backward' 'softmax loss' adamw; do has "^$name "; done
grep -q 'nan\|inf' "$work/out" && say 'bench prints a number that is none'
call bench --seconds 0 --dtype bf16 --only mlp --batch 2 --seq 48 --width 64 --heads 4 --vocabulary 97 || say 'bench --dtype bf16 fails'
has ' in bf16, reads '
call bench --json --seconds 0 --only add --batch 1 --seq 8 --width 32 --heads 2 --vocabulary 64 || say 'bench --json fails'
one_line 'bench --json'
has '"operators":\[{"name":"add","shape":\[256\]'
call bench --width 100 --heads 3
[ $? -eq 2 ] || say 'bench takes heads that do not divide'
grep -q 'does not divide' "$work/err" || say 'bench does not say that heads do not divide'
call bench --only nothing-is-called-so --seconds 0 --width 32 --heads 2 --seq 8 --vocabulary 64
[ $? -eq 2 ] || say 'bench takes a name that no operator has'

mkdir "$work/run"
call report --json "$work/run" || say 'report of an empty folder fails'
one_line 'report --json'
has '"report":'
grep -q 'No step has been recorded yet' "$work/run/report.html" || say 'an empty run does not say so'
call report "$work/none"
[ $? -eq 2 ] || say 'report takes a folder that does not exist'

[ $failures -eq 0 ] || exit 1
echo 'doctor, bench and report do as they say'
