# check_includes.sh — includes point only to the left: base → io, kernels, comm, observe → text → tasks → model → plan → infer → train → cli.
# usage: sh check_includes.sh PROGRAM SOURCE_DIR
cd "$2/src" || exit 1
rank() {
    case $1 in
    base) echo 0 ;; io | kernels | comm | observe) echo 1 ;; text) echo 2 ;; tasks) echo 3 ;; model) echo 4 ;; plan) echo 5 ;;
    infer) echo 6 ;; train) echo 7 ;; eval | scale) echo 8 ;; serve) echo 9 ;; cli) echo 10 ;; *) echo 99 ;;
    esac
}
bad=0
for line in $(grep -rnoE '^#include "[a-z]+/' --include='*.[ch]' --include='*.inc' . | sed 's/#include "//; s/\/$//'); do
    file=${line%%:*}
    to=${line##*:}
    from=${file#./}
    from=${from%%/*}
    [ "$from" = "$to" ] && continue
    a=$(rank "$from") b=$(rank "$to")
    # Rooms of one rank do not see each other, but observe measures with kernels and writes through io.
    if [ "$b" -gt "$a" ] || { [ "$b" -eq "$a" ] && [ "$from" != observe ]; }; then
        echo "$file includes a header of room '$to', which stands to its right"
        bad=1
    fi
done
[ "$bad" -eq 0 ] && echo "includes point to the left"
exit $bad
