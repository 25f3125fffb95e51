#!/bin/sh
# check_traffic.sh PROGRAM SOURCE — law L4 between ranks: what the plan says that a step will send and receive is what the communicator
# counted, to the byte, whoever owns what; and both stand in the run folder and on its page. Under zero1 and zero2 weights are still on their
# way when the next step begins, so that there all steps are counted together.
. "$2/tests/program.sh"
. "$source/tests/mpi.sh"

make_text "$work/text" 300
cat >"$work/experts.json" <<'END_OF_MODEL'
{"model_type":"mixtral","vocab_size":260,"hidden_size":32,"intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,
"num_key_value_heads":2,"num_local_experts":4,"num_experts_per_tok":2,"max_position_embeddings":64,"tie_word_embeddings":false,
"router_aux_loss_coef":0.02}
END_OF_MODEL

# The numbers of `key` in `object`, line by line.
number() { sed 's/ //g' "$1" | sed -n "s/.*\"$2\":{\([^}]*\)}.*/\1/p" | tr ',' '\n' | sed -n "s/^\"$3\"://p"; }

same_bytes() { # N OUT [option…]
    n=$1 out=$work/$2
    shift 2
    mpi "$n" "$trilith" train --data "$work/text" --tokenizer bytes --batch 8 --seq 64 \
        --steps 4 --val-fraction 0 --sample-tokens 0 --quiet --threads 1 --out "$out" "$@" >/dev/null 2>"$work/err" ||
        fail "$n ranks: train $*"
    tr -d ' \n' <"$out/plan.json" | sed 's/.*"predicted"//' >"$work/predicted"
    expected=$(number "$work/predicted" comm bytes) counted=$(number "$out/metrics.jsonl" comm bytes | tr '\n' ' ')
    echo "$counted" | awk -v a="$expected" -v each="$(echo "$*" | grep -c 'none\|zero3')" '
        { for (i = 1; i <= NF; i++) { sum += $i; same += $i == a } }
        END { exit !(NF == 4 && a > 0 && sum == 4 * a && (!each || same == 4)) }' ||
        fail "$n ranks, $*: in four steps $counted bytes, in each $expected were predicted"
}
for shard in none zero1 zero2 zero3; do
    same_bytes 3 tied-3-$shard --model tiny --shard $shard
done
# What an update sends is waited for in the next step, layer by layer, between its products.
for shard in zero1 zero2; do
    grep '"step":3[,}]' "$work/tied-3-$shard/trace.json" |
        awk '/"spread_weights"/ { n++; if (products) between++; products = 0 } n && /"cat":"matmul"/ { products++ } END { exit !(n > 2 && between > 1) }' ||
        fail "--shard $shard: a step does not compute while the weights of the last one come"
done
same_bytes 2 tied-2-none --model tiny
same_bytes 4 tied-4-zero3 --model tiny --shard zero3
# Several leaves a rank: gradients stream round by round. Experts, Muon and the average; a head of its own; micro-batches.
same_bytes 2 experts-zero2 --model "$work/experts.json" --leaves 4 --shard zero2
same_bytes 2 experts-zero3 --model "$work/experts.json" --leaves 8 --shard zero3
same_bytes 2 muon-zero1 --depth 3 --optimizer muon --ema 0.9 --micro-batch 2 --seq 128 --shard zero1
same_bytes 3 muon-zero3 --depth 3 --optimizer muon --ema 0.9 --micro-batch 2 --seq 128 --shard zero3
# The prediction is made again from the first steps: of the same bytes; and of one process alone it is what these computed, class by class: of one
# step to the digit (both are printed to six: 1e-5), of several no less than the least of each class and no more than the most.
again() { tr -d ' \n' <"$work/$1/plan.json" | sed 's/.*"predicted_again"//' >"$work/again"; }
again tied-2-none
tr -d ' \n' <"$work/tied-2-none/plan.json" | sed 's/.*"predicted"//' >"$work/predicted"
awk -v a="$(number "$work/again" comm bytes)" -v b="$(number "$work/predicted" comm bytes)" 'BEGIN { exit !(a > 0 && a == b) }' || fail 'there is no second prediction of the same bytes'
for steps in 2 5; do
    run train --data "$work/text" --tokenizer bytes --batch 8 --seq 64 --model tiny --steps $steps --val-fraction 0 --sample-tokens 0 --quiet --threads 1 \
        --out "$work/alone-$steps" || fail 'one process'
    again alone-$steps
    seconds=$(sed 's/[^}]*"step_seconds":\([0-9.e+-]*\).*/\1/' "$work/again")
    sed -n '2,$s/.*"seconds":{\([^}]*\)}.*/\1/p' "$work/alone-$steps/metrics.jsonl" | tr ',' '\n' |
        awk -F: -v s="$seconds" '/matmul|attention|norm|elementwise|embed|loss|optimizer/ {
                if (!($1 in least) || $2 < least[$1]) least[$1] = $2
                if ($2 > most[$1]) most[$1] = $2
            }
            END { for (c in least) { n++; a += least[c]; b += most[c] } exit !(n == 7 && s > a * (1 - 1e-5) && s < b * (1 + 1e-5)) }' ||
        fail "alone a step of $seconds s is predicted again from steps 2 to $steps, which computed otherwise"
done
grep -q 'Between ranks' "$work/tied-2-none/report.html" || fail 'the page does not tell of communication'
run inspect "$work/tied-3-zero1" || fail inspect
grep -q 'ranks *3 on 1 host .*shard zero1' "$work/out" || fail 'inspect does not tell of ranks'
grep -q 's of communication exposed' "$work/out" || fail 'inspect does not tell of exposed communication'
finish
