#!/bin/sh
# bench_link.sh TRILITH SOURCE [MBIT…] — how near the prediction of exposed communication comes: two ranks on two hosts (network namespaces, as
# root) with a link of so many Mbit/s (100, 400), each --shard; a table of predicted and seen seconds a step. Nothing else should run meanwhile.
. "$2/tests/program.sh"
. "$source/tests/hosts/netns.sh"
. "$source/tests/hosts/runs.sh"
hosts_or_skip
mpi_or_skip
shift 2
[ $# -gt 0 ] || set -- 100 400
hosts_up 2 || exit 1
make_text "$work/text" 4000
cat >"$work/model.json" <<'END'
{"model_type":"llama","vocab_size":257,"hidden_size":256,"intermediate_size":688,"num_hidden_layers":4,"num_attention_heads":4,
"num_key_value_heads":4,"max_position_embeddings":256,"tie_word_embeddings":true}
END
echo '| link, Mbit/s | --shard | under way a step, predicted | seen | ratio | exposed, predicted | seen | ratio |'
echo '|---|---|---|---|---|---|---|---|'
for megabits in "$@"; do
    hosts_rate "${megabits}mbit"
    for shard in none zero1 zero2 zero3; do
        hosts_mpirun -n 2 --map-by node "$trilith" train --data "$work/text" --model "$work/model.json" --tokenizer bytes --batch 16 --seq 256 --leaves 2 \
            --steps 12 --threads 1 --sample-tokens 0 --val-samples 0 --check-every 0 --checkpoint-every 0 --quiet --shard $shard \
            --out "$work/$megabits-$shard" >/dev/null 2>"$work/err" || fail "$megabits Mbit/s, $shard"
        # Medians over the steps after the second, beside plan.json's.
        sed -n '3,$s/.*"exposed_seconds":\([0-9.e+-]*\),"hidden_seconds":\([0-9.e+-]*\),.*/\1 \2/p' "$work/$megabits-$shard/metrics.jsonl" |
            awk '{ print $1, $1 + $2 }' | sort -g >"$work/seen"
        tr -d ' \n' <"$work/$megabits-$shard/plan.json" |
            sed 's/.*"predicted":{.*"comm":{[^}]*"exposed_seconds":\([0-9.e+-]*\),"hidden_seconds":\([0-9.e+-]*\).*/\1 \2/' >"$work/predicted"
        awk -v m="$megabits" -v s=$shard 'NR == FNR { p = $1; q = $1 + $2; next } { n++; x[n] = $1; y[n] = $2 }
            END { i = int((n + 1) / 2); printf "| %d | %s | %.3f s | %.3f s | %.2f | %.3f s | %.3f s | %.2f |\n", m, s, q, y[i], y[i] / q, p, x[i], x[i] / p }' \
            "$work/predicted" "$work/seen"
    done
done
finish
