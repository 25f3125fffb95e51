/* template_lex.c — a source cut into tokens, by the rules of jinja2's lexer with trim_blocks and lstrip_blocks: a line
 * break after a block goes, and so does the space before a block that begins its line. */
#include "text/template_ast.h"

#include <stdlib.h>
#include <string.h>
#include "text/unicode.h"

const char *const tl__operator_text[TL_OPERATORS] = {
    [TL_OP_FLOORDIV] = "//", [TL_OP_POW] = "**",   [TL_OP_EQ] = "==",      [TL_OP_NE] = "!=",      [TL_OP_GE] = ">=",
    [TL_OP_LE] = "<=",       [TL_OP_ADD] = "+",    [TL_OP_SUB] = "-",      [TL_OP_DIV] = "/",      [TL_OP_MUL] = "*",
    [TL_OP_MOD] = "%",       [TL_OP_TILDE] = "~",  [TL_OP_LBRACKET] = "[", [TL_OP_RBRACKET] = "]", [TL_OP_LPAREN] = "(",
    [TL_OP_RPAREN] = ")",    [TL_OP_LBRACE] = "{", [TL_OP_RBRACE] = "}",   [TL_OP_GT] = ">",       [TL_OP_LT] = "<",
    [TL_OP_ASSIGN] = "=",    [TL_OP_DOT] = ".",    [TL_OP_COLON] = ":",    [TL_OP_PIPE] = "|",     [TL_OP_COMMA] = ",",
    [TL_OP_SEMICOLON] = ";"};

typedef struct lexer {
    tl_template *t;
    const char *s; /* line breaks are \n, the last one is gone */
    size_t n, at;
    int line; /* of counted */
    size_t counted, line_start;
    bool line_starting; /* what was matched last ended in a line break */
    tl_jinja_token *token;
    int count, room;
    char *closing; /* of brackets that are open */
    int open, open_room;
} lexer;

static void place(lexer *x, size_t at, int *line, int *column) {
    if (at < x->counted) x->counted = 0, x->line = 1, x->line_start = 0;
    for (; x->counted < at; x->counted++)
        if (x->s[x->counted] == '\n') x->line++, x->line_start = x->counted + 1;
    *line = x->line;
    *column = 1;
    for (size_t i = x->line_start; i < at; i++) *column += (x->s[i] & 0xC0) != 0x80;
}

static _Noreturn void fail_at(lexer *x, size_t at, const char *what, const char *detail) {
    int line, column;
    place(x, at, &line, &column);
    tl__template_fail(x->t, line, column, x->t->memory.err, what, detail);
    longjmp(*x->t->memory.door, 1);
}

static tl_jinja_token *add(lexer *x, tl_token_kind kind, size_t at) {
    if (x->count == x->room) {
        int room = x->room ? 2 * x->room : 256;
        tl_jinja_token *more = TL_NEW(&x->t->memory, tl_jinja_token, room);
        if (x->count) memcpy(more, x->token, (size_t)x->count * sizeof *more);
        x->token = more, x->room = room;
    }
    tl_jinja_token *k = &x->token[x->count++];
    k->kind = kind;
    place(x, at, &k->line, &k->column);
    return k;
}

static bool looking_at(const lexer *x, size_t at, const char *text) {
    size_t n = strlen(text);
    return x->n - at >= n && memcmp(x->s + at, text, n) == 0;
}

static size_t skip_space(const lexer *x, size_t at) {
    while (at < x->n) {
        uint32_t c;
        int width = tl__utf8_at((const uint8_t *)x->s + at, &c);
        if (!tl__char_space(c)) break;
        at += (size_t)width;
    }
    return at;
}

/* The end of s[from, to) without white space behind. */
static size_t strip_end(const lexer *x, size_t from, size_t to) {
    while (to > from) {
        size_t at = to - 1;
        while (at > from && (x->s[at] & 0xC0) == 0x80) at--;
        uint32_t c;
        tl__utf8_at((const uint8_t *)x->s + at, &c);
        if (!tl__char_space(c)) break;
        to = at;
    }
    return to;
}

static void add_data(lexer *x, size_t from, size_t to) {
    if (to > from) add(x, TL_T_DATA, from)->text = tl__string(&x->t->memory, x->s + from, to - from, NULL);
}

/* Text before a tag, as the tag's sign and lstrip_blocks leave it. */
static void add_text(lexer *x, size_t from, size_t to, char sign, bool variable) {
    if (sign == '-') {
        to = strip_end(x, from, to);
    } else if (sign != '+' && !variable) {
        size_t begin = to;
        while (begin > from && x->s[begin - 1] != '\n') begin--;
        if ((begin > from || x->line_starting) && strip_end(x, begin, to) == begin) to = begin;
    }
    add_data(x, from, to);
}

/* The end of a block or comment at `at`, with what it takes along: "+%}", "-%}\s*", "%}\n?". 0: none here. */
static size_t tag_end(const lexer *x, size_t at, const char *end) {
    if (at < x->n && x->s[at] == '+' && looking_at(x, at + 1, end)) return at + 3;
    if (at < x->n && x->s[at] == '-' && looking_at(x, at + 1, end)) return skip_space(x, at + 3);
    if (looking_at(x, at, end)) return at + 2 + (at + 2 < x->n && x->s[at + 2] == '\n');
    return 0;
}

static void moved(lexer *x, size_t to) {
    x->line_starting = to > 0 && to > x->at && x->s[to - 1] == '\n';
    x->at = to;
}

static void lex_comment(lexer *x, size_t begin) {
    for (size_t at = x->at; at < x->n; at++) {
        size_t end = tag_end(x, at, "#}");
        if (!end) continue;
        moved(x, end);
        return;
    }
    fail_at(x, begin, "the comment that begins here has no end%s", "");
}

/* "{% raw %}" at `at`: where its content begins, or 0. */
static size_t raw_begin(const lexer *x, size_t at, const char *word, char *sign) {
    at += 2;
    *sign = 0;
    if (at < x->n && (x->s[at] == '-' || x->s[at] == '+')) *sign = x->s[at++];
    at = skip_space(x, at);
    if (!looking_at(x, at, word)) return 0;
    return skip_space(x, at + strlen(word));
}

static void lex_raw(lexer *x, size_t begin) {
    size_t from = x->at;
    for (size_t at = from; at < x->n; at++) {
        if (!looking_at(x, at, "{%")) continue;
        char sign;
        size_t end = raw_begin(x, at, "endraw", &sign);
        if (end) end = tag_end(x, end, "%}");
        if (!end) continue;
        add_text(x, from, at, sign, false);
        moved(x, end);
        return;
    }
    fail_at(x, begin, "the raw block that begins here has no end%s", "");
}

/* ---- what stands inside a tag ---- */

static size_t digits(const lexer *x, size_t at, int base) { /* (_?digit)*, where it ends */
    for (;;) {
        size_t k = at + (at < x->n && x->s[at] == '_');
        if (k >= x->n) return at;
        char c = x->s[k], low = (char)(c | 0x20);
        int value = c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : 99;
        if (value >= base) return at;
        at = k + 1;
    }
}

static bool is_digit(const lexer *x, size_t at) {
    return at < x->n && x->s[at] >= '0' && x->s[at] <= '9';
}

/* A run of digits that may hold single underscores between them; at is a digit. */
static size_t decimal(const lexer *x, size_t at) {
    return digits(x, at + 1, 10);
}

static size_t exponent(const lexer *x, size_t at) {
    if (at >= x->n || (x->s[at] | 0x20) != 'e') return 0;
    at++;
    if (at < x->n && (x->s[at] == '+' || x->s[at] == '-')) at++;
    return is_digit(x, at) ? decimal(x, at) : 0;
}

static char *without_underscores(lexer *x, size_t from, size_t to) {
    char *text = tl__memory_take(&x->t->memory, to - from + 1), *o = text;
    for (size_t i = from; i < to; i++)
        if (x->s[i] != '_') *o++ = x->s[i];
    return text;
}

static bool lex_number(lexer *x) {
    size_t at = x->at, end = 0;
    if (!is_digit(x, at)) return false;
    size_t whole = decimal(x, at), fraction = 0;
    if (at == 0 || x->s[at - 1] != '.') {
        if (whole < x->n && x->s[whole] == '.' && is_digit(x, whole + 1)) fraction = decimal(x, whole + 1);
        end = exponent(x, fraction ? fraction : whole);
        if (!end) end = fraction;
    }
    if (end) {
        add(x, TL_T_FLOAT, at)->f = strtod(without_underscores(x, at, end), NULL);
        x->at = end;
        return true;
    }
    int base = 10;
    size_t from = at;
    if (x->s[at] == '0') {
        char kind = at + 1 < x->n ? (char)(x->s[at + 1] | 0x20) : 0;
        int other = kind == 'b' ? 2 : kind == 'o' ? 8 : kind == 'x' ? 16 : 0;
        if (other && digits(x, at + 2, other) > at + 2) base = other, from = at + 2, end = digits(x, from, other);
        else end = digits(x, at + 1, 1); /* zeros alone: 012 is a 0 and a 12 */
    } else {
        end = whole;
    }
    const char *text = without_underscores(x, from, end);
    uint64_t value = 0;
    for (; *text; text++) {
        int digit = *text <= '9' ? *text - '0' : (*text | 0x20) - 'a' + 10;
        if (__builtin_mul_overflow(value, (uint64_t)base, &value) ||
            __builtin_add_overflow(value, (uint64_t)digit, &value) || value > INT64_MAX)
            fail_at(x, at, "an integer beyond 64 bits is not supported%s", "");
    }
    add(x, TL_T_INT, at)->i = (int64_t)value;
    x->at = end;
    return true;
}

static bool lex_name(lexer *x) {
    size_t at = x->at;
    bool starts = false;
    while (at < x->n) {
        uint32_t c;
        int width = tl__utf8_at((const uint8_t *)x->s + at, &c);
        if (!tl__char_is(c, TL_IS_NAME)) break;
        if (at == x->at) starts = tl__char_is(c, TL_IS_NAME_START);
        at += (size_t)width;
    }
    if (at == x->at) return false;
    if (!starts) fail_at(x, x->at, "a name cannot begin with this character%s", "");
    add(x, TL_T_NAME, x->at)->text = tl__string(&x->t->memory, x->s + x->at, at - x->at, NULL);
    x->at = at;
    return true;
}

static int hex(char c) {
    char low = (char)(c | 0x20);
    return c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* Python's unicode-escape of s[from, to), as jinja2 applies it. */
static const tl_string *unescape(lexer *x, size_t from, size_t to) {
    static const char plain[] = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
    tl_text out = {.m = &x->t->memory};
    for (size_t i = from; i < to;) {
        if (x->s[i] != '\\') {
            size_t run = i;
            while (run < to && x->s[run] != '\\') run++;
            tl__text_add(&out, x->s + i, run - i, NULL);
            i = run;
            continue;
        }
        char c = x->s[++i]; /* a string never ends in a lone backslash */
        const char *pair = NULL;
        for (const char *p = plain; *p && !pair; p += 2)
            if (*p == c) pair = p;
        if (pair) {
            tl__text_add(&out, pair + 1, 1, NULL);
            i++;
        } else if (c == '\n') {
            i++;
        } else if (c >= '0' && c <= '7') {
            uint32_t code = 0;
            for (int k = 0; k < 3 && i < to && x->s[i] >= '0' && x->s[i] <= '7'; k++)
                code = code * 8 + (uint32_t)(x->s[i++] - '0');
            tl__text_char(&out, code, false);
        } else if (c == 'x' || c == 'u' || c == 'U') {
            int n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
            uint32_t code = 0;
            size_t at = i++;
            for (int k = 0; k < n; k++, i++) {
                int h = i < to ? hex(x->s[i]) : -1;
                if (h < 0) fail_at(x, at - 1, "this escape lacks hexadecimal digits%s", "");
                code = code * 16 + (uint32_t)h;
            }
            if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
                fail_at(x, at - 1, "this escape is no character%s", "");
            tl__text_char(&out, code, false);
        } else if (c == 'N') {
            fail_at(x, i - 1, "\\N{…} in a string is not supported; write the character itself%s", "");
        } else if ((unsigned char)c >= 0x80) { /* jinja2 has escaped the character before Python reads the backslash */
            uint32_t code;
            char form[16];
            i += (size_t)tl__utf8_at((const uint8_t *)x->s + i, &code);
            snprintf(form, sizeof form, code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x", code);
            tl__text_c(&out, form);
        } else {
            tl__text_add(&out, x->s + i - 1, 2, NULL);
            i++;
        }
    }
    return tl__text_done(&out);
}

static bool lex_string(lexer *x) {
    char quote = x->s[x->at];
    if (quote != '\'' && quote != '"') return false;
    size_t at = x->at + 1;
    while (at < x->n && x->s[at] != quote) at += x->s[at] == '\\' ? 2 : 1;
    if (at >= x->n) fail_at(x, x->at, "the string that begins here has no end%s", "");
    const tl_string *text = unescape(x, x->at + 1, at);
    add(x, TL_T_STRING, x->at)->text = text;
    x->at = at + 1;
    return true;
}

static void bracket(lexer *x, int op) {
    char closes = op == TL_OP_LPAREN ? ')' : op == TL_OP_LBRACKET ? ']' : op == TL_OP_LBRACE ? '}' : 0;
    if (closes) {
        if (x->open == x->open_room) {
            char *more = tl__memory_take(&x->t->memory, 2 * (size_t)x->open_room + 64);
            if (x->open) memcpy(more, x->closing, (size_t)x->open);
            x->closing = more, x->open_room = 2 * x->open_room + 64;
        }
        x->closing[x->open++] = closes;
    } else if (op == TL_OP_RPAREN || op == TL_OP_RBRACKET || op == TL_OP_RBRACE) {
        if (x->open == 0) fail_at(x, x->at, "unexpected '%s'", tl__operator_text[op]);
        if (x->closing[--x->open] != *tl__operator_text[op])
            fail_at(x, x->at, "unexpected '%s', which closes no bracket that is open", tl__operator_text[op]);
    }
}

static void lex_tag(lexer *x, bool variable, size_t begin) {
    x->open = 0;
    while (x->at < x->n) {
        if (x->open == 0) {
            size_t end = 0;
            if (!variable) end = tag_end(x, x->at, "%}");
            else if (x->s[x->at] == '-' && looking_at(x, x->at + 1, "}}")) end = skip_space(x, x->at + 3);
            else if (looking_at(x, x->at, "}}")) end = x->at + 2;
            if (end) {
                add(x, variable ? TL_T_VARIABLE_END : TL_T_BLOCK_END, x->at);
                moved(x, end);
                return;
            }
        }
        size_t space = skip_space(x, x->at);
        if (space > x->at) {
            x->at = space;
            continue;
        }
        if (lex_number(x) || lex_name(x) || lex_string(x)) continue;
        int op = 0;
        while (op < TL_OPERATORS && !looking_at(x, x->at, tl__operator_text[op])) op++;
        if (op == TL_OPERATORS) {
            char shown[8] = {0};
            uint32_t c;
            memcpy(shown, x->s + x->at, (size_t)tl__utf8_at((const uint8_t *)x->s + x->at, &c));
            fail_at(x, x->at, "unexpected character '%s'", shown);
        }
        bracket(x, op);
        add(x, TL_T_OPERATOR, x->at)->op = op;
        x->at += strlen(tl__operator_text[op]);
    }
    fail_at(x, begin,
            variable ? "the expression that begins here has no end%s" : "the block that begins here has no end%s", "");
}

static void lex_all(lexer *x) {
    while (x->at < x->n) {
        size_t from = x->at, at = from;
        while (at < x->n && !(x->s[at] == '{' && at + 1 < x->n && strchr("%{#", x->s[at + 1]))) at++;
        if (at >= x->n) {
            add_data(x, from, x->n);
            break;
        }
        char kind = x->s[at + 1], sign = 0;
        if (kind == '%') {
            size_t raw = raw_begin(x, at, "raw", &sign), end = 0;
            if (raw && looking_at(x, raw, "%}")) end = raw + 2;
            else if (raw && looking_at(x, raw, "-%}")) end = skip_space(x, raw + 3);
            if (end) {
                add_text(x, from, at, sign, false);
                moved(x, end);
                lex_raw(x, at);
                continue;
            }
        }
        sign = at + 2 < x->n && (x->s[at + 2] == '-' || x->s[at + 2] == '+') ? x->s[at + 2] : 0;
        add_text(x, from, at, sign, kind == '{');
        x->line_starting = false;
        x->at = at + 2 + (sign != 0);
        if (kind == '#') {
            lex_comment(x, at);
        } else {
            add(x, kind == '{' ? TL_T_VARIABLE_BEGIN : TL_T_BLOCK_BEGIN, at);
            lex_tag(x, kind == '{', at);
        }
    }
    add(x, TL_T_END, x->n);
}

void tl__template_lex(tl_template *t, const char *source, size_t n, const tl_jinja_token **tokens) {
    char *s = tl__memory_take(&t->memory, n + 1);
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n') continue;
        s[used++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (used && s[used - 1] == '\n') used--;
    lexer x = {.t = t, .s = s, .n = used, .line = 1, .line_starting = true};
    lex_all(&x);
    *tokens = x.token;
}
