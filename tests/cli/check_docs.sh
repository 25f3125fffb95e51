#!/bin/sh
# check_docs.sh TRILITH SOURCE — the documents, --help, the man page and what is printed agree: every option that a document names exists, every
# command is in the man page, every command with --json has its section in docs/cli.md, and every member that it prints stands there.
. "$2/tests/program.sh"
names() { sed -n '/^usage/,$s/^  \([a-z]*\)  *[a-z].*/\1/p'; }

# ---- commands, as "tokenizer encode" ----
"$trilith" --help | names >"$work/first"
while read -r command; do
    subs=
    grep -q 'COMMAND --help' <<END && subs=$("$trilith" "$command" --help | names)
$("$trilith" "$command" --help)
END
    if [ -z "$subs" ]; then echo "$command"; else for sub in $subs; do echo "$command $sub"; done; fi
done <"$work/first" >"$work/commands"
[ "$(wc -l <"$work/commands")" -ge 10 ] || fail 'fewer commands were found in --help than there are'
"$trilith" help --man >"$work/man"
while read -r command; do
    # shellcheck disable=SC2086
    "$trilith" $command --help >"$work/help" || fail "$command --help"
    grep -qx ".SS trilith $command" "$work/man" || fail "the man page lacks trilith $command"
    grep -o -e '--\(\[no-\]\)\{0,1\}[a-z][a-z0-9-]*' "$work/help"
done <"$work/commands" | sed 's/^--\[no-\]\(.*\)/--\1\n--no-\1/' | sort -u >"$work/options"
if command -v groff >/dev/null 2>&1; then
    groff -man -Tutf8 -ww -z "$work/man" 2>"$work/err"
    [ ! -s "$work/err" ] || fail 'groff finds fault with the man page'
fi

# ---- options that the documents name ----
for flag in --help --version --man --name --no-name; do echo $flag; done >>"$work/options"
sed -n 's/^  [a-z |]*//p' "$source/dev" | grep -o -e '--[a-z][a-z-]*' >>"$work/options"
for document in README.md docs/cli.md docs/run-folder.md docs/architecture.md docs/depth.md; do
    # Lines of other programs' commands are theirs.
    grep -v 'cmake\|mpirun\|pkg-config\|python3\|git ' "$source/$document" | grep -o -e '\(^\|[ `(]\)--[a-z][a-z0-9-]*' | grep -o -e '--.*' | sort -u |
        while read -r option; do
            grep -qx -e "$option" "$work/options" || echo "$document names $option, which no command has"
        done
done >"$work/unknown"
[ ! -s "$work/unknown" ] || { fail 'options that do not exist'; cat "$work/unknown"; }

# ---- what --json prints ----
section() { # COMMAND: its part of docs/cli.md
    awk -v command="$1" '
        /^## / {
            on = 0
            title = $0; sub(/^## /, "", title); sub(/ --json$/, "", title)
            n = split(title, word, " "); m = split(word[n], last, "|")
            for (i = 1; i <= m; i++) { name = last[i]; for (j = n - 1; j > 0; j--) name = word[j] " " name; if (name == command) on = 1 }
        }
        on' "$source/docs/cli.md"
}
while read -r command; do
    # shellcheck disable=SC2086
    "$trilith" $command --help | grep -q -e '^  --json' || continue
    [ -n "$(section "$command")" ] || fail "docs/cli.md has no section for $command --json"
done <"$work/commands"

make_text "$work/text" 300
run train --data "$work/text" --out "$work/run" --model tiny --tokenizer bytes --steps 1 --batch 1 --seq 64 --quiet || fail train
# members COMMAND ARGUMENT…: the top members of what it prints are each in its section, in backquotes.
members() {
    command=$1
    shift
    # shellcheck disable=SC2086
    call $command "$@" --json >"$work/json" || { fail "$command --json"; return; }
    section "$command" >"$work/section"
    # Nested values and strings are taken away from the inside, until the names of the top remain.
    sed -e 's/\\.//g' -e 's/:"[^"]*"/:0/g' -e ':a' -e 's/\[[^][{}]*\]/0/g' -e 's/:{[^][{}]*}/:0/g' -e 's/\([[,]\){[^][{}]*}/\10/g' -e 'ta' "$work/json" |
        grep -o '"[^"]*":' | tr -d '":' >"$work/members"
    [ -s "$work/members" ] || fail "$command --json has no members"
    while read -r member; do
        grep -q "\`$member\`" "$work/section" || echo "$command --json prints $member, of which docs/cli.md does not speak"
    done <"$work/members" >"$work/unknown"
    [ ! -s "$work/unknown" ] || { fail "members that are not documented"; cat "$work/unknown"; }
}
head -c 100 "$work/text" >"$work/few"
members generate --model "$work/run" --prompt a --max-tokens 2
members score --model "$work/run" --text "$work/few"
members inspect "$work/run"
members inspect "$source/tests/vectors/gguf-models/qwen3-moe.gguf"
members inspect "$source/tests/vectors/gguf/blocks.gguf"
members doctor --seconds 0
members bench --seconds 0 --only add --batch 1 --seq 8 --width 32 --heads 2 --vocabulary 64
members bench --model "$work/run" --prefill 8 --decode 2 --repeat 1
members report "$work/run"
members 'tokenizer train' --data "$work/text" --vocab 300 --out "$work/tok"
members 'tokenizer encode' --model "$work/tok" --text "$work/few"
members 'tokenizer decode' --model "$work/tok" 97 98

finish
