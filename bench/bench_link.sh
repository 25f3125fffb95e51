#!/bin/sh
# bench_link.sh TRILITH SOURCE [MBIT…] — how near the predictions of communication come: two ranks on two hosts (network namespaces, as root)
# with a link of so many Mbit/s (100, 400), each --shard; a table of seconds a step, as predicted before the first step by the roofline and the
# measured link, as predicted again at the pace of the first steps, and as seen. Nothing else should run meanwhile. SHARDS="zero1 zero2": these.
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
echo '| link, Mbit/s | --shard | under way: first | again | seen | exposed: first | again | seen | again ÷ seen | hidden: again | seen | again ÷ seen |'
echo '|---|---|---|---|---|---|---|---|---|---|---|---|'
# Exposed seconds and those under way, from plan.json.
told() { # OBJECT FILE
    tr -d ' \n' <"$2" | sed -n "s/.*\"$1\":{\(.*\)/\1/p" | sed 's/[^c]*"comm":{\([^}]*\)}.*/\1/; s/.*"exposed_seconds":\([0-9.e+-]*\),"hidden_seconds":\([0-9.e+-]*\).*/\1 \2/' |
        awk '{ print $1, $1 + $2 }'
}
for megabits in "$@"; do
    hosts_rate "${megabits}mbit"
    for shard in ${SHARDS:-none zero1 zero2 zero3}; do
        hosts_mpirun -n 2 --map-by node "$trilith" train --data "$work/text" --model "$work/model.json" --tokenizer bytes --batch 16 --seq 256 --leaves 2 \
            --steps 16 --threads 1 --sample-tokens 0 --val-samples 0 --check-every 0 --checkpoint-every 0 --quiet --shard $shard \
            --out "$work/$megabits-$shard" >/dev/null 2>"$work/err" || fail "$megabits Mbit/s, $shard"
        # Medians over the steps after those from which the second prediction was made.
        sed -n '7,$s/.*"exposed_seconds":\([0-9.e+-]*\),"hidden_seconds":\([0-9.e+-]*\),.*/\1 \2/p' "$work/$megabits-$shard/metrics.jsonl" >"$work/steps"
        seen=$(awk '{ print $1 }' "$work/steps" | sort -g | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }')
        under=$(awk '{ print $1 + $2 }' "$work/steps" | sort -g | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }')
        echo "$megabits $shard $seen $under $(told predicted "$work/$megabits-$shard/plan.json") $(told predicted_again "$work/$megabits-$shard/plan.json")" |
            awk '{ printf "| %s | %s | %.2f s | %.2f s | %.2f s | %.2f s | %.2f s | %.2f s | %.2f | %.2f s | %.2f s | %.2f |\n",
                $1, $2, $6, $8, $4, $5, $7, $3, $7 / $3, $8 - $7, $4 - $3, ($8 - $7) / ($4 - $3) }'
        [ -z "${KEEP:-}" ] || cp -r "$work/$megabits-$shard" "$KEEP"
    done
done
finish
