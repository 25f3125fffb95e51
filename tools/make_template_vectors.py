"""Writes tests/vectors/templates.json: small templates, one construct each, and what jinja2 makes of them as transformers sets it up.

An entry is [template, text], or [template, null] where jinja2 raises. All are rendered with the variables below.
"""

import json
import os
import sys

import jinja2

import template_cases

HERE = os.path.dirname(os.path.abspath(__file__))
VARIABLES = {
    "s": "Hello World", "e": "", "n": None, "t": True, "f": False, "i": 7, "j": -3, "r": 2.5, "big": 1 << 40, "u": "Straße ÉCOLE ǆ Σας ΟΔΟΣ ﬁ İ",
    "l": [3, 1, 2], "le": [], "ls": ["b", "A", "c", "a"], "lm": [1, "a", None, True, 2.0, [1], {"k": 1}], "q": "it's \"q\"\n\t\\ \x7f\u00ad\u200b é 😀",
    "d": {"b": 1, "a": 2, "C": 3, "items": 9}, "de": {}, "nested": {"x": {"y": [10, 20, {"z": "deep"}]}},
    "users": [{"name": "ann", "age": 30, "tags": ["x"]}, {"name": "Bob", "age": 25, "tags": []}, {"name": "cy", "age": 30}],
    "lines": "one\n\ntwo\r\n  three  \n", "html": "<a href='x'>&amp; \"</a>", "num": " 42 ", "hexs": "0x1F", "flt": "1_0.5e1", "para": "a b  c\td\ne",
}
EXPRESSIONS = r"""
1 + 2 * 3 - 4 | 7 // 2 | -7 // 2 | 7 % 3 | -7 % 3 | 7 % -3 | 7.5 // 2 | -7.5 % 2 | 7.5 % -2 | 1 / 3 | 6 / 2 | 2 ** 10 | 2 ** -1 | 2 ** 0.5 | -2 ** 2
2 ** 3 ** 2 | 0.1 + 0.2 | 1e16 | 1e15 | 123456789012345678.0 | 1e-5 | 0.0001 | 1.5e300 * 1e10 | 5.0 | -0.0 | 1_000_000 | 0x1f | 0b101 | 0o17 | 1e3 | 1.5e-7
1 / 0 | 1 % 0 | 1 // 0 | 1.0 / 0 | 0 ** -1 | t + t | t * 3 | i - t | -t | +t | 3 * "ab" | "ab" * 2 | [1] * 3 | (1,) * 2 | "a" + "b" | [1] + [2] | (1,) + (2,)
"a" + 1 | 1 + "a" | [1] + (2,) | none + 1 | "a" ~ 1 ~ none ~ true ~ 1.0 ~ [1, "x"] | 1 ~ missing ~ 2 | missing + 1 | missing.x | missing["x"] | missing | missing ~ ""
1 < 2 < 3 | 1 < 3 < 2 | 1 == 1.0 | true == 1 | "a" < "b" | "a" < 1 | [1, 2] < [1, 3] | none == none | none < 1 | missing == missing2 | missing == none | 3 > 2 >= 2 != 1
1 in [1, 2] | 3 not in [1, 2] | "el" in s | 1 in "a" | "b" in d | 1 in d | none in lm | missing in l | 1 in missing | "" in "abc" | 1.0 in [1] | "x" in none
not 1 | not missing | not [] | 1 and 2 | 0 and 2 | 0 or 3 | "" or "x" | none or none | not 1 == 2 | not (1 and 0) | true and not false | 1 or 1/0
1 if true else 2 | 1 if false | "a" if e else "b" if n else "c" | (1 if false) is defined | [1 if t, 2]
l[0] | l[-1] | l[9] | l[9] is defined | l["0"] | l[1.0] | l[true] | s[0] | s[-1] | s[99] | u[3] | s.0 | l.1 | d.b | d["b"] | d.items | d["items"] | d.missing | d["missing"] is defined | d.get("b") | d.get("z") | d.get("z", 5)
nested.x.y[2].z | nested["x"]["y"][1] | nested.x.q.z | nested.q | nested.q.z | nested.x.y.2.z | none.x | none["x"] | i.x | i.x.y | 5[0] | true.x
l[1:] | l[:1] | l[::-1] | l[::2] | l[-2:] | l[5:] | l[2:0:-1] | s[1:4] | s[::-1] | s[-3:] | u[2:7] | u[::-1] | s[::0] | s[:none] | s["a":] | (1,2,3)[1:] | d[1:] | missing[1:] | l[:-1] | s[10:2:-3] | range(10)[2:8:3] | range(5)[-1] | l[-100:100]
() | (1,) | (1, 2) | [] | [1, [2, (3,)]] | {} | {"a": 1, 2: "b", none: [1]} | {"a": 1, "a": 2} | {[1]: 2} | {1: "a", 1.0: "b", true: "c"} | lm | d | q | [q] | {"k": q} | ["'", '"', "'\""] | [1.0, 1e100, -0.5] | [true, none] | "\x41\u00e9\n" | "a\qb" | 'it\'s' | "a" "b" 'c' | "\101" | "\t|" | "\é"
d.keys() | d.values() | d.items() | d | list | d.keys() | list | d.items() | list | de.items() | d.keys() | length | d | length | "b" in d.keys() | 1 in d.values() | ("b", 1) in d.items()
range(3) | range(3) | list | range(1, 10, 3) | list | range(5, 0, -2) | list | range(0) | list | range(1.5) | range(100001) | range(3) | length | range("a") | range(2, 1) | list | range(1, 4) | sum
dict(a=1, b=2) | dict({"x": 1}, y=2) | dict([["a", 1]]) | dict() | namespace(a=1).a | namespace(a=1).b | namespace(a=1).b is defined | namespace({"x": 3}).x | namespace(_a=1) | namespace(a=1)["a"]
s.upper() | s.lower() | s.title() | s.capitalize() | s.swapcase() | u.upper() | u.lower() | u.title() | u.capitalize() | u | upper | u | lower | u | title | u | capitalize | "they're bill's" | title | "they're bill's".title() | "a-b (c) [d {e <f" | title | "ΑΣ ΑΣΑ Σ".lower()
"  x ".strip() | "  x ".lstrip() | "  x ".rstrip() | "xxaxx".strip("x") | "abcba".strip("ab") | "abcba".lstrip("a") | "abc".strip("") | "\u2003x\u00a0".strip() | "ab".strip(none) | "a".strip(1) | "a".strip("x", "y") | "  x " | trim | "xax" | trim("x") | none | trim | 5 | trim
"a,b,,c".split(",") | "a,b,,c".split(",", 1) | " a  b ".split() | "a b c".split(none, 1) | " a  b  c ".split(none, 1) | "a,b".split("") | "".split() | "".split(",") | "a,b,c".rsplit(",", 1) | " a b  c ".rsplit(none, 1) | "a b c".split(maxsplit=1) | "aXbXc".split(sep="X") | "abc".split("abc") | "a--b--c".rsplit("--") | para.split()
s.startswith("He") | s.endswith("ld") | s.startswith(("x", "He")) | s.startswith("e", 1) | s.startswith("") | s.endswith("o", 0, 5) | s.startswith(1) | s.startswith(["H"]) | s.endswith("") | s.startswith("H", 99)
s.replace("l", "L") | s.replace("l", "L", 1) | s.replace("", "-") | "".replace("", "x") | s.replace("o", "") | s.replace("l", 1) | s | replace("l", "L") | s | replace("l", "L", 2) | 123 | replace("2", "x") | "aaa" | replace("aa", "b") | s | replace("o", 0) | "ab".replace("", "é", 2)
s.find("o") | s.find("z") | s.rfind("o") | s.index("W") | s.index("z") | s.count("l") | s.count("") | u.find("ÉC") | s.find("o", 5) | s.find("o", 5, 6) | s.rindex("l") | u.rfind("Σ") | s.find("", 11) | s.find("", 12) | s.count("l", 3, 4) | "aaaa".count("aa")
"abc".removeprefix("ab") | "abc".removesuffix("bc") | "abc".removeprefix("x") | lines.splitlines() | lines.splitlines(true) | "a-b-c".partition("-") | "a-b-c".rpartition("-") | "abc".partition("-") | "abc".rpartition("-") | "".splitlines() | "a\x0bb\u2028c".splitlines()
"12".isdigit() | "1a".isdigit() | "²".isdigit() | "²".isdecimal() | "½".isnumeric() | "abc".isalpha() | "é1".isalnum() | "".isalpha() | " \n".isspace() | "AB".isupper() | "aB".islower() | "ab1".islower() | "Ab Cd".istitle() | "é".isascii() | "٣".isdigit() | "1".isupper() | "ǅ".istitle() | "ª".islower()
"x".center(5) | "ab".center(5, "*") | "abc".center(6) | "ab".ljust(4) ~ "|" | "ab".rjust(4, "0") | "42".zfill(5) | "-42".zfill(5) | "abc".zfill(2) | "x" | center(4) ~ "|" | "é".center(4, "→")
"-".join(["a", "b"]) | "".join([]) | ",".join("abc") | ",".join([1]) | ", ".join(d) | l | join | l | join("-") | l | join(", ", attribute="x") | users | join(", ", attribute="name") | [1, none, true] | join | "abc" | join("-") | missing | join | none | join | l | join(1) | d | join(",")
s | length | l | count | none | length | 5 | length | missing | length | u | length | "😀é" | length | {} | length | (1, 2) | length
missing | default("x") | missing | d("x") | e | default("x") | e | default("x", true) | none | default("x") | none | default("x", true) | missing | default | 0 | d(1, boolean=true) | missing | default(default_value="k") | nested.q | default(3) | missing.x | default(1)
l | first | l | last | le | first | le | last | "abc" | first | "abc" | last | d | first | none | first | missing | first | missing | last | users | map(attribute="name") | first | users | map(attribute="name") | last | range(3) | last | d | last
l | sort | ls | sort | ls | sort(case_sensitive=true) | ls | sort(reverse=true) | ls | sort(true, true) | users | sort(attribute="age") | map(attribute="name") | list | users | sort(attribute="age,name") | map(attribute="name") | list | lm | sort | l | sort | reverse | list | "hello" | sort | d | sort
ls | unique | list | [1, 1.0, true, 2] | unique | list | ["a", "A", "b"] | unique | list | ["a", "A"] | unique(true) | list | users | unique(attribute="age") | map(attribute="name") | list | [[1]] | unique | list
l | reverse | list | "abc" | reverse | u | reverse | d | reverse | list | none | reverse | (1, 2) | reverse | list | l | map("string") | reverse | first | missing | reverse
d | dictsort | d | dictsort(true) | d | dictsort(by="value") | d | dictsort(reverse=true) | d | dictsort(false, "value", true) | none | dictsort | d | dictsort(by="x") | d | items | list | missing | items | list | none | items | list | l | items
l | min | l | max | ls | min | ls | max | le | min | users | max(attribute="age") | lm | max | l | sum | le | sum | users | sum(attribute="age") | [0.1, 0.2] | sum | [[1], [2]] | sum(start=[]) | ["a"] | sum | ls | min(case_sensitive=true) | l | sum(start=10)
l | map("string") | list | l | map("multiply") | list | users | map(attribute="tags") | list | users | map(attribute="zip", default="-") | list | users | map(attribute="tags.0") | list | ls | map("upper") | join | l | map | list | none | map("upper") | list | ls | map("replace", "a", "x") | list | l | map("default", 1) | list | missing | map("x") | list | l | map(attribute=0) | list
l | select | list | [0, 1, "", "a"] | select | list | l | select("odd") | list | l | reject("odd") | list | l | select(">", 1) | list | l | select("equalto", 2) | list | lm | select("string") | list | l | select("nope") | list | lm | select("none") | list | l | select("in", [1, 2]) | list | l | select("divisibleby", 3) | list
users | selectattr("age", "equalto", 30) | map(attribute="name") | list | users | rejectattr("tags") | map(attribute="name") | list | users | selectattr("tags", "defined") | list | length | users | selectattr("tags") | list | length | users | selectattr | list | users | selectattr("name", "in", ["ann"]) | list | length | users | selectattr("age", "gt", 26) | list | length | users | rejectattr("age", "==", 30) | map(attribute="name") | join
l | list | "abc" | list | d | list | none | list | 5 | list | missing | list | [1, 2, 3, 4, 5] | batch(2) | list | [1, 2, 3] | batch(2, "x") | list | [1, 2, 3, 4, 5] | slice(2) | list | [1, 2, 3, 4] | slice(3, "x") | list | l | slice(0) | list | le | batch(3) | list
num | int | hexs | int | hexs | int(0, 16) | hexs | int(base=0) | "x" | int | "x" | int(7) | "3.9" | int | 3.9 | int | -3.9 | int | none | int | true | int | "1_000" | int | flt | float | "x" | float | "nan" | float | "inf" | float | "-1e3" | float | "٣" | int | " 1 2 " | int | "" | int | l | int | missing | int | i | float | "1__0" | int | "5" | float
42.55 | round | 42.55 | round(1) | 42.55 | round(1, "floor") | 42.55 | round(1, "ceil") | 42 | round | 2.5 | round | 3.5 | round | -2.5 | round | 0.5 | round | 1234 | round(-2) | 1250 | round(-2) | 2.675 | round(2) | 1e300 | round(2) | 42 | round(2, "floor") | "x" | round | 42.5 | round | int | 7 | round(1, "nope") | 1.005 | round(2)
-5 | abs | -2.5 | abs | true | abs | "x" | abs | j | abs | (1, 2) | string | 1.0 | string | none | string | d | string | s | string | missing | string
html | e | html | escape | html | safe | (html | e) | e | html | forceescape | (html | safe) + "<" | "<" + (html | safe) | (html | e) ~ "<" | html | e | length | [html | e] | (html | safe) | upper | (html | safe).strip() | (html|e) is escaped | html is escaped
"a\nb\n\nc" | indent | "a\nb" | indent(2) | "a\nb" | indent(2, true) | "a\n\nb" | indent(2, blank=true) | "a\nb" | indent("> ") | "" | indent | "a\n" | indent ~ "|" | 5 | indent | lines | indent(1, first=true) | "x" | indent(width=3, first=true)
s | wordcount | u | wordcount | "a-b c_d 1" | wordcount | "foo bar baz qux" | truncate(9) | "foo bar baz qux" | truncate(9, true) | "foo bar baz qux" | truncate(11) | "foo bar baz qux" | truncate(11, false, "...", 0) | "foo" | truncate(2) | s | truncate(5, end="")
d | tojson | q | tojson | lm | tojson | u | tojson(ensure_ascii=true) | q | tojson(ensure_ascii=true) | d | tojson(indent=2) | nested | tojson(indent=4) | {} | tojson(indent=2) | [] | tojson(indent=2) | d | tojson(separators=(",", ":")) | d | tojson(sort_keys=true) | {1: 2, none: 3, true: 4, 1.5: 5} | tojson | [1e100, 0.1, -0.0, 1e16] | tojson | "inf" | float | tojson | missing | tojson | [missing] | tojson | (1, 2) | tojson | d | tojson(indent="--") | d | tojson(indent=0) | {(1, 2): 3} | tojson | range(2) | tojson | nested | tojson(indent=2, separators=(",", ": ")) | {"b": 1, "a": {"d": 1, "c": 2}} | tojson(sort_keys=true) | html | tojson | "</script>" | tojson | {1: 1, "a": 2} | tojson(sort_keys=true)
"%s and %s" | format(1, "x") | "%(a)s" | format(a=1) | "%d%%" | format(5) | "%5.2f|" | format(3.14159) | "%-5s|" | format("a") | "%05d" | format(-42) | "%x %X %o" | format(255, 255, 8) | "%+d % d" | format(1, 2) | "%e" | format(12345.678) | "%g %g" | format(1e-5, 1e20) | "%r" | format("a") | "%s" | format | "%s" % [1, 2] | "%s" % (1,) | "%s %s" % (1, 2) | "%s" % (1, 2) | "%d" % "x" | "%c" % "x" | "%c" % 65 | "%5s|" % "é" | "%.2s" % "abc" | "%*d" % (5, 42) | "%s" % none | "x" % () | "x" % 1 | "%q" % 1 | "%.3d" % 5 | "%i" % 3.9 | "%#x" % 255 | "%s%s" % d | "%(b)d" % d | "%.0f" % 2.5 | "%f" % 1e20
"{} {}".format(1, "x") | "{0}{1}{0}".format("a", "b") | "{a}".format(a=1) | "{:5}|".format("ab") | "{:>5}|".format("ab") | "{:^5}|".format("ab") | "{:*^7}".format("ab") | "{:5}|".format(42) | "{:<5}|".format(42) | "{:05d}".format(-42) | "{:,}".format(1234567) | "{:_}".format(1234567) | "{:x} {:#X} {:b} {:o}".format(255, 255, 5, 8) | "{:.2f}".format(3.14159) | "{:.3}".format(3.14159) | "{:e}".format(12345.678) | "{:g}".format(0.0001) | "{:%}".format(0.25) | "{:.1%}".format(0.256) | "{!r}".format("a") | "{!s:>4}".format(1) | "{{}}".format() | "{".format(1) | "}".format(1) | "{}".format() | "{0} {}".format(1, 2) | "{a.b}".format(a={"b": 1}) | "{a[b]}".format(a={"b": 1}) | "{0[1]}".format([1, 2]) | "{:{}}|".format("a", 4) | "{:+} {: }".format(1, 2) | "{:.2}".format("abc") | "{:d}".format(1.5) | "{:s}".format(1) | "{:q}".format(1) | "{}".format(none) | "{}".format([1, "a"]) | "{:>3}".format(none) | "{:,.2f}".format(1234567.891) | "{:010,}".format(1234) | "{:.0f}".format(0.5) | "{:<6}|".format(true) | "{:=+6}".format(3) | "{:5.1f}|".format(2.25) | "{:.3g}".format(1e10) | "{:G}".format(1e-10) | "{}".format(1e16) | "{:.4}".format(1234567.0) | "{:.10}".format(2.5) | "{:.100}".format(1.5) | "{:.500}".format(0.1) | "{:#.5}".format(99999.5) | "{:#.0g}".format(1.5) | "{:#}".format(1e22) | "{:=06}".format(1.5) | "{:^06}".format(7) | "{:01300,}".format(1.5) | "{:=05}".format("a") | "{:05}".format("a") | "%+.5d" % 42 | "%#.5x" % 255 | "%010.5d" % -42 | "%-10.5d|" % 42 | "%.500g" % 0.1
s is string | i is string | i is number | t is number | r is number | i is integer | t is integer | r is float | i is float | t is boolean | i is boolean | n is none | missing is none | missing is defined | s is defined | missing is undefined | d is mapping | l is mapping | l is sequence | s is sequence | d is sequence | i is sequence | missing is sequence | l is iterable | i is iterable | s is iterable | missing is iterable | (l | map("string")) is iterable | (l | map("string")) is sequence | range is callable | s.upper is callable | s is callable | t is true | i is true | f is false | n is false | 1 is true
3 is odd | 4 is even | j is odd | "x" is odd | 2.0 is even | 9 is divisibleby 3 | 9 is divisibleby(2) | 9 is divisibleby 0 | s is lower | "ab" is lower | "AB" is upper | 5 is upper | n is sameas none | i is sameas 7 | l is sameas l | l is sameas [3, 1, 2] | 1 is in [1, 2] | "a" is in "abc" | 5 is not in l | 1 is eq 1 | 1 is equalto 2 | 1 is ne 2 | 2 is gt 1 | 2 is lt 1 | 2 is ge 2 | 1 is le 0 | 2 is greaterthan 1 | "upper" is filter | "nope" is filter | "odd" is test | i is not none | i is not string and true | not i is string | 1 is foo | s is not | s is defined is defined
s | nope | s is nope | s.nope() | s.nope | s.encode | l.append(1) | d.update({}) | d.pop("b") | l.index(1) | l.index(9) | l.count(1) | l.copy() | d.copy() | (1, 2).index(2) | l.index(3, 1) | s() | l() | none() | missing() | range() | dict(1) | s.upper(1) | s.split(x=1) | s | upper(1) | l | join(z=1) | l | join("a", d="b") | upper
joiner is defined | cycler("a", "b").next() | cycler() | joiner()() ~ joiner("x")() | raise_exception("no: " ~ i) | raise_exception() | strftime_now("") | lipsum is defined | loop is defined | caller is defined | varargs is defined | true.__class__ | "".__class__ is defined | s["upper"]() | s["upper"] is defined | d["keys"] is defined | s | attr("upper") is defined | d | attr("b") | d | attr("b") is defined
big * 1024 | 9223372036854775807 | 9223372036854775807 + 0 | users | groupby("age") | users | groupby("age") | map("first") | list | users | groupby("tags", default=0) | ls | groupby(0) | map("last") | list | users | map(attribute="age") | map("string") | join("+")
"日本".center(6, "*") | "日本語"[1] | "日本語"[::-1] | "é" < "f" | "Z" < "a" | "é" in "café" | "ß".upper() | "ŉ".title() | "ﬃ".upper() | "İ".lower() | "ǆ".title() | "ᾳ".upper() | "\u0345" | upper
i | string | length | [1, 2] == (1, 2) | (1, 2) == (1, 2) | {"a": 1} == {"a": 1.0} | {"a": 1, "b": 2} == {"b": 2, "a": 1} | l == [3, 1, 2] | range(3) == range(0, 3) | d.keys() == 1 | 1 == "1" | none != missing
*a | 1 + | (1 | [1, | {1 | {1: | x y | 1 2 | s. | s[ | s[] | l[1,2] | d[("b")] | .5 | 5. | 1..2 | "abc | 'a\' | @ | a ? b | a && b | a = 1 | !a | f(a b) | f(a=1, 2) | f(**d, *l) | f(a=1, a=2) | 012 | 1__0 | 0x | x if | not | is defined | 1 is | s | | s |
dict(**d) | dict(*[[["a", 1]]]) | range(*[1, 4]) | list | "{}{}".format(*l) | "{a}".format(**{"a": 5}) | dict(**l) | dict(*5) | namespace(**d).b | range(*missing) | dict(**missing)
""".strip()
STATEMENTS = r"""
{% if t %}a{% endif %}
{% if f %}a{% elif i %}b{% else %}c{% endif %}
{% if f %}a{% elif n %}b{% else %}c{% endif %}
{% if %}{% endif %}
{% if t %}
{% if t %}{% endfor %}
{% endif %}
{% else %}
{% nope %}
{% if 1, 2 %}tuple{% endif %}
{% if t: %}colon{% endif %}
{% for x in l %}{{ x }}{% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}
{% for x in l %}{{ loop.previtem }}-{{ loop.nextitem }};{% endfor %}
{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}
{% for x in l %}{{ loop.cycle("a", "b") }}{{ loop.changed(x > 1) }}{% endfor %}
{% for x in l %}{{ loop.cycle() }}{% endfor %}
{% for x in le %}a{% else %}empty{% endfor %}
{% for x in missing %}a{% else %}empty{% endfor %}
{% for x in none %}a{% endfor %}
{% for x in 5 %}a{% endfor %}
{% for c in "héy" %}{{ c }}.{% endfor %}
{% for k in d %}{{ k }}{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in d | items %}{{ k }}={{ v }};{% endfor %}
{% for k, v in d | dictsort %}{{ k }}={{ v }};{% endfor %}
{% for a, b in [(1, 2), [3, 4], "xy"] %}{{ a }}{{ b }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for x in l if x > 1 %}{{ x }}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{% else %}none{% endfor %}
{% for x in l if x > 9 %}{{ x }}{% else %}none{% endfor %}
{% for x in l if loop.first %}{{ x }}{% endfor %}
{% for a, b in d.items() if b > 1 %}{{ a }}{% endfor %}
{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% break %}{% else %}e{% endfor %}
{% for x in l %}{% continue %}{% else %}e{% endfor %}
{% break %}
{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
{% for x in l %}{% for y in l %}{% if y == 1 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{% endfor %}
{% for x in l %}{% for y in "ab" %}{{ loop.index }}{{ x }}{{ y }}{% endfor %}{{ loop.index }}{% endfor %}
{% for x in l %}{% set loop = 1 %}{% endfor %}
{% for loop in l %}{% endfor %}
{% for x in [1, [2, [3]], 4] recursive %}{% if x is iterable %}<{{ loop(x) }}>{% else %}{{ x }}:{{ loop.depth }}{% endif %}{% endfor %}
{% for x in l %}{{ loop(l) }}{% endfor %}
{% for x in l recursive %}{{ loop([]) }}{{ x }}{% else %}e{% endfor %}
{% for x in l | map("string") %}{{ x }}{{ loop.length }}{{ loop.last }}{% endfor %}
{% set g = l | map("string") %}{% for x in g %}{{ x }}{% break %}{% endfor %}{% for x in g %}{{ x }}{% endfor %}{{ g | list }}
{% set g = l | map("string") %}{% for x in g %}{{ loop.last }}{% break %}{% endfor %}{{ g | list }}
{% set g = l | map("string") %}{{ g | first }}{{ g | first }}{{ g | list }}{{ g | list }}
{{ l | map("string") }}
{{ l | map("string") | length }}
{% if l | map("nope") %}lazy{% endif %}
{% set g = l | map("nope") %}unused
{% set ns = namespace(n=0) %}{% for x in l if ns.n < 2 %}{% set ns.n = ns.n + 1 %}{{ x }}{% endfor %}
{% set a = 1 %}{{ a }}
{% set a = 1, 2 %}{{ a }}
{% set a, b = 1, 2 %}{{ b }}{{ a }}
{% set a, b = l %}{{ a }}
{% set (a, b), c = (1, 2), 3 %}{{ a }}{{ b }}{{ c }}
{% set a %}block {{ i }}{% endset %}[{{ a }}]
{% set a | upper %}block{% endset %}{{ a }}
{% set a | replace("b", "x") | upper %}block{% endset %}{{ a }}
{% set a = 1 %}{% for x in l %}{% set a = a + x %}{{ a }};{% endfor %}{{ a }}
{% for x in l %}{{ a is defined }}{% set a = x %}{{ a }}{% endfor %}{{ a is defined }}
{% if t %}{% set a = 5 %}{% endif %}{{ a }}
{% if f %}{% set i = 5 %}{% endif %}{{ i }}
{% for x in l %}{% if x == 1 %}{% set i = 50 %}{% endif %}{{ i }},{% endfor %}{{ i }}
{% for x in l %}{{ i }}{% endfor %}{% set i = 5 %}{{ i }}
{{ i }}{% for x in l %}{{ i }}{% endfor %}{% set i = 5 %}{{ i }}
{% for x in l %}{{ s }}{% set s = x %}{{ s }}{% endfor %}{{ s }}
{% set s = s %}{{ s }}
{% set true = 1 %}
{% set 1 = 2 %}
{% set a.b = 2 %}
{% set s.b = 2 %}
{% set ns = namespace() %}{% set ns.a = 1 %}{% set ns.a = ns.a + 1 %}{{ ns.a }}
{% set ns = namespace(l=[]) %}{% for x in l %}{% set ns.l = ns.l + [x * 2] %}{% endfor %}{{ ns.l }}
{% set ns = namespace() %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}
{% set ns = namespace() %}{% set ns._a = 1 %}
{% set ns = namespace() %}{% set ns.a %}x{% endset %}{{ ns.a }}
{% set d.x = 1 %}
{% macro m(a, b=2) %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=4, a=5) }}{{ m() }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m("x", b=2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}
{% macro m(a) %}{{ a }}{{ varargs }}{% endmacro %}{{ m(1, 2, 3) }}
{% macro m() %}{{ q2 }}{% endmacro %}{% set q2 = 1 %}{{ m() }}{% set q2 = 2 %}{{ m() }}
{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% set i = 2 %}{{ m() }}
{% macro m() %}{% set i = 9 %}{{ i }}{% endmacro %}{{ m() }}{{ i }}
{% macro fact(x) %}{{ x if x < 2 else x * (fact(x - 1) | int) }}{% endmacro %}{{ fact(5) }}
{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}
{% macro m(x) %}{{ caller(x) }}{% endmacro %}{% call(y) m(3) %}<{{ y }}>{% endcall %}
{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}{% call m() %}{{ i }}{% endcall %}
{% macro m() %}{{ caller is defined }}{% if caller %}{{ caller() }}{% endif %}{% endmacro %}{{ m() }}{% call m() %}c{% endcall %}
{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}
{% macro m(caller) %}{{ caller() }}{% endmacro %}{% call m() %}y{% endcall %}
{% macro m(a, a) %}{% endmacro %}
{% macro m(a=1, b) %}{% endmacro %}
{% macro m() %}  {{ i }}  {% endmacro %}[{{ m() | trim }}]{{ m() | length }}
{% macro m() %}{% endmacro %}{{ m.name }}{{ m is callable }}
{% for x in l %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}
{% if t %}{% macro m() %}a{% endmacro %}{% else %}{% macro m() %}b{% endmacro %}{% endif %}{{ m() }}
{% call s.upper() %}{% endcall %}
{% call 1 %}{% endcall %}
{% filter upper %}abc {{ s }}{% endfilter %}
{% filter replace("a", "b") | upper %}abc{% endfilter %}
{% filter nope %}abc{% endfilter %}
{% for x in l %}{% filter upper %}{% set zz = x %}a{{ zz }}{% endfilter %}{{ zz is defined }}{% endfor %}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{% set a = 5 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% with %}{% set z9 = 1 %}{{ z9 }}{% endwith %}{{ z9 is defined }}
{% generation %}abc {{ i }}{% endgeneration %}d
{% set z = 1 %}{% generation %}{% set z = 2 %}{{ z }}{% endgeneration %}{{ z }}
{% generation %}
{% print 1, "a" %}
{% raw %}{{ x }} {% if %}{% endraw %}|
{% raw -%}  x  {%- endraw %}|
{%- raw %} a {% endraw -%}  b
{# comment #}a{# b
c #}d
{# open
{{ "{# no comment #}" }}
{#- a -#}  b  {#+ c +#}
a {%- if t %} b {% endif -%} c
  {% if t %}
  x
  {% endif %}
  y
  {%+ if t %} x {%+ endif %}
a{% if t +%}
b{% endif %}

{% if t -%}
   b
{%- endif %}   c
{{ 1 }}
{{- 1 -}}  x
  {{ 1 }}
{{ 1 -}}

x
  {{- " a " -}}  
x {# c #}
y
   {# c #}
   z
{%if t%}{{i}}{%endif%}
{% if t %}{{ s|nope }}{% endif %}
{% if f %}{{ s|nope }}{% endif %}ok
{% if f %}{% for x in l %}{{ s|nope }}{% endfor %}{% endif %}
{{ (s|nope) if f else 1 }}
{{ s|nope if f }}
{% if f %}{{ s is nope }}{% endif %}ok
{% include "x" %}
{% import "x" as y %}
{% from "x" import y %}
{% extends "x" %}
{% do 1 %}
{{ {"a": {"b": 1}}.a.b }}
{{ {"a": 1}["a"] }}{{ {'}}': 1} }}
{{ [[1, 2], [3]][0][1] }}
{{ "a" if t }}{{ "a" if f }}|
{% set x = {"a": [1, 2]} %}{% for v in x.a %}{{ v }}{% if not loop.last %}, {% endif %}{% endfor %}
{% set x = joiner(", ") %}{% for v in l %}{{ x() }}{{ v }}{% endfor %}
{% set x = cycler("a", "b") %}{% for v in l %}{{ x.next() }}{{ x.current }}{% endfor %}{{ x.reset() }}{{ x.next() }}
{% for u in users %}{{ u.name }}{% for t2 in u.tags %}{{ t2 }}{% else %}-{% endfor %}{% endfor %}
{% for u in users recursive %}{{ u.name }}{{ loop.index }}{% endfor %}
{% for x in range(3) %}{% for y in range(x) %}{{ x }}{{ y }} {% endfor %}{% endfor %}
{% for x in l[::-1] %}{{ x }}{% endfor %}
{% for x in l if x is odd recursive %}{{ x }}{% endfor %}
{% for a in d.values() | sort %}{{ a }}{% endfor %}
{{ loop }}
{% for x in l %}{{ loop | length }}{% endfor %}
{{ range }}
{% set ns = namespace(x=[]) %}{{ ns }}
{{ s.upper }}
text only {}} { % } #} %} }}
{{ '{{' }}{{ "%}" }}
{% if s == 'a' or s == 'Hello World' and not f %}yes{% endif %}
{%- for m in [{"role": "user", "content": " hi "}] -%}
{{ '<|' + m['role'] + '|>' }}{{ m.content | trim }}{{ eos }}
{%- endfor -%}
""".strip("\n")


# Several of the statements above span lines; a line that begins one is told by what stands in this list.
def statements():
    out, lines, i = [], STATEMENTS.split("\n"), 0
    joined = {"{# comment #}a{# b": 2, "  {% if t %}": 4, "  {%+ if t %} x {%+ endif %}": 1, "a{% if t +%}": 2, "{% if t -%}": 3, "{{ 1 }}": 2, "  {{ 1 }}": 4,
              "  {{- \" a \" -}}  ": 2, "   {# c #}": 2, "{%- for m in [{\"role\": \"user\", \"content\": \" hi \"}] -%}": 3}
    while i < len(lines):
        n = joined.get(lines[i], 1)
        out.append("\n".join(lines[i:i + n]))
        i += n
    return out


def expressions():
    """What stands between two bars, and chains of two and three of them: an expression, or an expression and its filters."""
    for line in EXPRESSIONS.split("\n"):
        parts = line.split(" | ")
        for n in (1, 2, 3):
            for k in range(len(parts) - n + 1):
                yield "{{ " + " | ".join(parts[k:k + n]) + " }}", n


MORE = ["a\r\nb\r{{ 1 }}\r\n", "a\n", "a\n\n", "\n", "", "{% if t %}\r\n x{% endif %}\n", " \t{% if t %}a{% endif %}", "é{{ u }}é"]


# What depends on the day or on where things lie in memory has no fixed text.
def fixed(text):
    return " at 0x" not in text and "<function" not in text and "<class" not in text


def chats():
    """The templates of tests/vectors/chat with every conversation: [template, conversation, settings, text or null]."""
    folder = os.path.join(HERE, "..", "tests", "vectors", "chat")
    settings = [{**template_cases.TOKENS, **s} for s in template_cases.SETTINGS]
    out = []
    for name, which in (("plain", (0,)), ("strict", (1,)), ("tools", (2,)), ("types", (1,))):
        source = open(os.path.join(folder, name + ".jinja")).read()
        for label, conversation in template_cases.CONVERSATIONS.items():
            for i in which:
                got = template_cases.render(source, conversation, settings[i])
                out.append([name, label, i, None if isinstance(got, Exception) else got])
    return {"conversations": {k: {"tools": None, "documents": None, **c, "messages": template_cases._alias_reasoning_fields(c["messages"])}
                              for k, c in template_cases.CONVERSATIONS.items()}, "settings": settings, "cases": out}


def main():
    out = {}
    for source, chain in [(s, 1) for s in statements() + MORE] + list(expressions()):
        got = template_cases.render(source, VARIABLES, {})
        failed = isinstance(got, Exception)
        if source in out or (chain > 1 and failed and isinstance(got, jinja2.TemplateSyntaxError)) or (not failed and not fixed(got)):
            continue  # two things between bars that are no chain of filters say nothing new
        out[source] = None if failed else got
    out = list(out.items())
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "..", "tests", "vectors", "templates.json")
    with open(path, "w") as file:
        file.write("{\"variables\": %s,\n\"cases\": [\n" % json.dumps(VARIABLES, ensure_ascii=False))
        file.write(",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in out) + "\n]}\n")
    with open(os.path.join(os.path.dirname(path), "chat", "texts.json"), "w") as file:
        json.dump(chats(), file, ensure_ascii=False, indent=0, separators=(",", ":"))
    print(len(out), "cases,", sum(c[1] is None for c in out), "of them errors")


if __name__ == "__main__":
    main()
