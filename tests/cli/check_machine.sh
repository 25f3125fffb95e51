#!/bin/sh
# check_machine.sh TRILITH SOURCE — doctor, bench and report run, print what is documented, and refuse in one sentence.
. "$2/tests/program.sh"
has() { grep -q -e "$1" "$work/out" || fail "no '$1' in what was printed"; }
one_line() {
    [ "$(wc -l <"$work/out")" -eq 1 ] || fail "$1 prints other than one line"
    [ ! -s "$work/err" ] || fail "$1 says something on standard error"
}

run doctor --seconds 0.02 || fail 'doctor fails'
has 'f32 peak  *[0-9.]* GFLOP/s measured'
has 'bf16 peak  *[0-9.]* GFLOP/s measured'
has 'memory read  *[0-9.]* GB/s measured'
has 'jansson'
run doctor --json --seconds 0.02 || fail 'doctor --json fails'
one_line 'doctor --json'
for member in version machine kernels limits libraries advice f32_flops bf16_flops read_bytes_per_second gemm gemm_bf16; do has "\"$member\":"; done
TRILITH_ISA=ref run doctor --seconds 0 || fail 'doctor with ref fails'
has 'kernels, ref'
TRILITH_ISA=sse9 run doctor && fail 'doctor takes an instruction set that does not exist'

run bench --seconds 0.01 --batch 2 --seq 48 --width 64 --heads 4 --kv-heads 2 --vocabulary 97 || fail 'bench fails'
for name in 'mlp up dW' 'attention backward' 'softmax loss' adamw; do has "^$name "; done
grep -q 'nan\|inf' "$work/out" && fail 'bench prints a number that is none'
run bench --seconds 0 --dtype bf16 --only mlp --batch 2 --seq 48 --width 64 --heads 4 --vocabulary 97 || fail 'bench --dtype bf16 fails'
has ' in bf16, reads '
run bench --json --seconds 0 --only add --batch 1 --seq 8 --width 32 --heads 2 --vocabulary 64 || fail 'bench --json fails'
one_line 'bench --json'
has '"operators":\[{"name":"add","shape":\[256\]'
run bench --width 100 --heads 3
[ $? -eq 2 ] || fail 'bench takes heads that do not divide'
grep -q 'does not divide' "$work/err" || fail 'bench does not say that heads do not divide'
run bench --only nothing-is-called-so --seconds 0 --width 32 --heads 2 --seq 8 --vocabulary 64
[ $? -eq 2 ] || fail 'bench takes a name that no operator has'

mkdir "$work/run"
run report --json "$work/run" || fail 'report of an empty folder fails'
one_line 'report --json'
has '"report":'
grep -q 'No step has been recorded yet' "$work/run/report.html" || fail 'an empty run does not say so'
run report "$work/none"
[ $? -eq 2 ] || fail 'report takes a folder that does not exist'

finish
