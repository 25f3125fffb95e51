#!/bin/sh
# check_install.sh TRILITH SOURCE — what `cmake --install` puts down is enough: the program runs from there, the man page is there, and the
# example of docs/ compiles against the installed header and library alone (the header as C++ too) and writes what the program writes.
set -u
build=$(dirname "$1")
source=$2
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
prefix=$work/usr
fail() {
    printf 'FAILED: %s\n' "$1"
    [ ! -s "$work/log" ] || sed 's/^/  /' "$work/log" | tail -n 20
    exit 1
}

cmake --install "$build" --prefix "$prefix" >"$work/log" 2>&1 || fail 'cmake --install'
for file in bin/trilith lib/libtrilith.a lib/pkgconfig/trilith.pc include/trilith.h share/man/man1/trilith.1; do
    [ -s "$prefix/$file" ] || fail "nothing was installed as $file"
done
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
[ "$(pkg-config --modversion trilith)" = "$("$prefix/bin/trilith" --version | sed 's/.* //')" ] || fail 'pkg-config names another version than --version'

sanitize=
if grep -q 'TRILITH_ASAN:BOOL=ON' "$build/CMakeCache.txt"; then sanitize=-fsanitize=address,undefined; fi
if grep -q 'TRILITH_TSAN:BOOL=ON' "$build/CMakeCache.txt"; then sanitize=-fsanitize=thread; fi
cc=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
# shellcheck disable=SC2046,SC2086
"$cc" -std=c11 -pedantic -Wall -Wextra -Wshadow -Werror $sanitize $(pkg-config --cflags trilith) "$source/docs/example.c" \
    -o "$work/example" $(pkg-config --libs trilith) >"$work/log" 2>&1 || fail 'docs/example.c does not compile against what was installed'

printf '#include <trilith.h>\nint main() { tl_engine *e = nullptr; tl_engine_close(e); return tl_version()[0] == 0; }\n' >"$work/header.cc"
found=
for cxx in c++ g++ clang++; do
    command -v $cxx >/dev/null 2>&1 || continue
    found=$cxx
    $cxx -std=c++17 -pedantic -Wall -Wextra -Werror -fsyntax-only -I"$prefix/include" "$work/header.cc" >"$work/log" 2>&1 ||
        fail "trilith.h is not C++ for $cxx"
    break
done
[ -n "$found" ] || echo 'no C++ compiler is here: trilith.h was compiled as C alone'

awk 'BEGIN { for (i = 0; i < 200; i++) printf "The heaven and the earth number %d were finished, and all the host of them.\n", i }' >"$work/text"
"$prefix/bin/trilith" train --data "$work/text" --out "$work/run" --model tiny --tokenizer bytes --steps 1 --batch 1 --seq 64 --quiet \
    >"$work/log" 2>&1 || fail 'train'
"$prefix/bin/trilith" generate --model "$work/run" --prompt 'The earth' --max-tokens 40 --seed 7 >"$work/expected" 2>"$work/log" || fail 'generate'
"$work/example" "$work/run" 'The earth' >"$work/got" 2>"$work/log" || fail 'the example fails'
cmp "$work/expected" "$work/got" || fail 'the example writes another text than trilith generate'
"$work/example" "$work/absent" x >"$work/got" 2>"$work/log" && fail 'the example opens a folder that does not exist'
grep -q "there is no model '$work/absent'" "$work/log" || fail 'the example does not say what is wrong'
echo 'what is installed is enough'
