"""sentencepiece's precompiled_charsmap, built: a double-array trie (darts-clone's units) from UTF-8 strings to texts, for tokenizers made here."""

import struct
import unicodedata

SPACES = "\t\n\v\f\r\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


def compile(replacements):
    """The bytes for {string: text}: u32 length of the array, the array, the texts, each with its NUL."""
    texts, place, root = b"", {}, {}
    for text in dict.fromkeys(replacements.values()):
        place[text] = len(texts)
        texts += text.encode() + b"\0"
    for key, text in replacements.items():
        node = root
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[0] = place[text]  # a key's end; NUL itself is in no key
    units, used, bases = [0] * 1024, [True] + [False] * 1023, set()
    first = 1

    def put(at, node):
        """A node's children lie at its base ^ their bytes: the first base that is no other node's, whose children would pass for this one's,
        and where all are free."""
        nonlocal first, units, used
        base = first
        while True:
            while base + 256 > len(units):
                units, used = units + [0] * 1024, used + [False] * 1024
            if base < 1 << 21 and base not in bases and not any(used[base ^ label] for label in node):
                break
            base += 1
        bases.add(base)
        while used[first]:
            first += 1
        for label in node:
            used[base ^ label] = True
        units[at] |= (at ^ base) << 10 | (1 << 8 if 0 in node else 0)
        for label, child in node.items():
            units[base ^ label] = 1 << 31 | child if label == 0 else label
        for label, child in node.items():
            if label:
                put(base ^ label, child)

    put(0, root)
    return struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + texts


def nfkc(points):
    """As sentencepiece's nmt_nfkc, of these code points: compatible forms composed, white space as spaces."""
    said = {chr(c): unicodedata.normalize("NFKC", chr(c)) for c in points if not 0xD800 <= c <= 0xDFFF}
    return {key: text for key, text in said.items() if key != text and key not in SPACES and text.strip() == text} | {c: " " for c in SPACES}
