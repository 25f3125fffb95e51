#!/bin/sh
# check_tokenizer.sh TRILITH SOURCE — the command as a user meets it: what train writes, encode and decode take there and back; wrong
# input is one sentence and exit status 2, and nothing is written over.
set -u
trilith=$1
vectors=$2/tests/vectors/tokenizer
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
fail() {
    printf 'FAILED: %s\n' "$1"
    cat "$work/err" 2>/dev/null
    exit 1
}
refused() { # WORD ARGUMENT…
    word=$1
    shift
    "$trilith" tokenizer "$@" >"$work/out" 2>"$work/err" </dev/null
    [ $? -eq 2 ] && [ ! -s "$work/out" ] && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q -e "$word" "$work/err" || fail "not refused: $*"
}

"$trilith" tokenizer train --data "$vectors/text.txt" --vocab 1200 --special '<|endoftext|>' '<|fim|>' --out "$work/tok" --json \
    >"$work/out" 2>"$work/err" || fail train
grep -q '"vocab": *1200' "$work/out" || fail 'train --json lacks its vocabulary'
[ -s "$work/tok/tokenizer_config.json" ] || fail 'no tokenizer_config.json'
for model in "$work/tok" "$work/tok/tokenizer.json" "$vectors/gpt2.json" "$vectors/llama3.json" bytes; do
    for special in --special --no-special; do
        "$trilith" tokenizer encode --model "$model" --text "$vectors/text.txt" $special --json >"$work/ids" 2>"$work/err" || fail encode
        "$trilith" tokenizer decode --model "$model" --tokens "$work/ids" >"$work/text" 2>"$work/err" || fail decode
        cmp -s "$work/text" "$vectors/text.txt" || fail "there and back is not the same: $model $special"
        "$trilith" tokenizer encode --model "$model" --text "$vectors/text.txt" $special >"$work/words" || fail 'encode, plain'
        "$trilith" tokenizer decode --model "$model" --tokens "$work/words" --json >"$work/text" || fail 'decode --json'
    done
done
printf 'x<|endoftext|>' >"$work/special.txt"
"$trilith" tokenizer encode --model bytes --text "$work/special.txt" --special | grep -qx '120 256' || fail 'special token not found'
"$trilith" tokenizer encode --model bytes --text "$work/special.txt" | grep -q 256 && fail 'special token found without --special'
[ "$("$trilith" tokenizer decode --model bytes 120 256 --skip-special)" = x ] || fail '--skip-special'

before=$(cksum "$work/tok/tokenizer.json")
refused 'exists' train --data "$vectors/text.txt" --out "$work/tok"
[ "$before" = "$(cksum "$work/tok/tokenizer.json")" ] || fail 'a tokenizer was written over'
refused 'nowhere.txt' train --data "$work/nowhere.txt" --out "$work/other"
refused '316' train --data "$vectors/text.txt" --vocab 300 --special $(seq -f 's%g' 1 60) --out "$work/other"
refused 'data' train --out "$work/other"
[ -e "$work/other" ] && fail 'a refused training left a folder'
refused 'nowhere.json' encode --model "$work/nowhere.json" --text "$vectors/text.txt"
refused 'nowhere.txt' encode --model bytes --text "$work/nowhere.txt"
refused '999' decode --model bytes 72 999
refused 'token id' decode --model bytes 12x
refused 'operands' decode --model bytes
printf '{"model": {"type": "Unigram", "vocab": []}}' >"$work/unigram.json"
refused 'decoder' encode --model "$work/unigram.json" --text "$vectors/text.txt"
echo ok
