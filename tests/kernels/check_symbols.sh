#!/bin/sh
# check_symbols.sh PROGRAM SOURCE — law L1: what reaches a result imports nothing from libm but exactly rounded functions.
# Reads the undefined symbols of the library's objects of the rooms below; PROGRAM's folder holds libtrilith.a.
set -eu
program=$1
build=$(dirname "$program")
library=$build/libtrilith.a
[ -f "$library" ] || { echo "no $library: build the library first"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The rooms whose numbers are part of the contract, by their objects' paths in the build folder.
rooms='base|kernels|model|train|infer'
find "$build/CMakeFiles" -name '*.o' | grep -E "\.dir/src/($rooms)/" >"$work/objects" || true
[ "$(wc -l <"$work/objects")" -ge 10 ] || { echo "found no objects of $rooms under $build/CMakeFiles"; exit 1; }

# Every name that libm exports is suspect: sin, sinf, sinl, __sinf_finite and vectorised forms _ZGV…; long double too.
functions='a?(cos|sin|tan)h?|atan2|exp|exp2|exp10|expm1|log|log2|log10|log1p|pow|powr|cbrt|hypot|erfc?|[lt]gamma|gamma
sincos|j[01n]|y[01n]|drem|remquo|(sin|cos|tan)pi|rsqrt|compoundn|rootn|pown|scalb|significand|lgamma_r|gamma_r'
functions=$(echo "$functions" | tr '\n' '|' | sed 's/|$//')
pattern="^(__)?($functions)(f|l|f32|f64|f128|f32x|f64x)?(_finite)?\$|^_ZGV|^c(exp|log|pow|sqrt|sin|cos|tan)[fl]?\$"

scan() { # the suspect symbols in the objects listed in file $1
    while read -r object; do
        nm -u "$object" | awk '{print $NF}' | sed 's/@.*//' | grep -E "$pattern" | sed "s|^|$object: |" || true
    done <"$1"
}

# The check can fail: an object that calls expf is caught, one that calls fmaf and sqrt is not.
printf 'float expf(float); float f(float x); float f(float x) { return expf(x); }\n' >"$work/bad.c"
printf 'float fmaf(float, float, float); double floor(double); double f(float x);\ndouble f(float x) { return floor(fmaf(x, x, x)); }\n' >"$work/good.c"
for kind in bad good; do
    ${CC:-cc} -O0 -fno-builtin -c "$work/$kind.c" -o "$work/$kind.o"
    echo "$work/$kind.o" >"$work/$kind.list"
done
[ -n "$(scan "$work/bad.list")" ] || { echo "the scan did not see expf"; exit 1; }
[ -z "$(scan "$work/good.list")" ] || { echo "the scan took fmaf or floor for a suspect"; exit 1; }

scan "$work/objects" >"$work/found"
if [ -s "$work/found" ]; then
    echo "these objects import functions that are not exactly rounded; use base/elementary.h:"
    cat "$work/found"
    exit 1
fi
echo "$(wc -l <"$work/objects") objects import nothing of libm that is not exactly rounded"
