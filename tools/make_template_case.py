"""Writes src/text/template_case.inc: the characters whose full upper, lower or title case is several characters, as Python's str has them."""

import os

HERE = os.path.dirname(os.path.abspath(__file__))
rows = []
for c in range(0x80, 0x110000):
    if 0xD800 <= c < 0xE000:
        continue
    s = chr(c)
    forms = [s.upper(), s.lower(), s.title()]
    if max(map(len, forms)) > 1:
        rows.append("    {0x%X, {%s}}" % (c, ", ".join("{%s}" % ", ".join("0x%X" % ord(x) for x in f) for f in forms)))
with open(os.path.join(HERE, "..", "src", "text", "template_case.inc"), "w") as out:
    out.write("/* Made by tools/make_template_case.py from Unicode's SpecialCasing as Python has it. Sorted by code point. */\n")
    out.write("static const special specials[] = {\n" + ",\n".join(rows) + "};\n")
