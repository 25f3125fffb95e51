/* chart.c — owns how numbers become pictures: scales, ticks, thinning, paths, the read-out under the pointer. */
#include "observe/chart.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_POINTS = 360, MOST_READ_OUTS = 72, MOST_DOTS = 40, MOST_MARKS = 200 };

typedef struct frame { /* the plot's rectangle and its scales */
    double left, top, right, bottom;
    double x0, x1, y0, y1;
    double beyond; /* the greatest value, when the scale cuts it off; else NaN */
} frame;

static double place_x(const frame *f, double x) {
    return f->left + (f->right - f->left) * (x - f->x0) / (f->x1 - f->x0);
}

/* Values outside the scale are held just beyond its edge: the clip hides them and coordinates stay small. */
static double place_y(const frame *f, double y) {
    double part = (y - f->y0) / (f->y1 - f->y0);
    part = part < -0.2 ? -0.2 : part > 1.2 ? 1.2 : part;
    return f->bottom - (f->bottom - f->top) * part;
}

/* 1, 2 or 5 times a power of ten, so that about `count` of them make `span`. */
static double tick_step(double span, int count) {
    double raw = span / count, power = pow(10, floor(log10(raw))), part = raw / power;
    return (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10) * power;
}

/* A tick's label: like tl__form, but no more digits than the distance between ticks needs. */
static void tick_text(char out[32], tl_form form, double x, double distance) {
    if (form == TL_FORM_PERCENT) {
        int digits = (int)fmax(0, ceil(-log10(distance * 100) - 1e-9));
        snprintf(out, 32, "%.*f\u00a0%%", digits, x * 100);
    } else if (form == TL_FORM_PLAIN && fabs(x) < 1e5 && distance >= 0.9e-3) {
        snprintf(out, 32, "%.*f", (int)fmax(0, ceil(-log10(distance) - 1e-9)), x);
    } else if (form == TL_FORM_PLAIN) {
        snprintf(out, 32, "%.3g", x);
    } else if (form == TL_FORM_COUNT && fmax(fabs(x), distance) < 999999.5 && distance >= 1) {
        tl__form(out, TL_FORM_COUNT, x);
    } else {
        double scale = 1;
        const char *prefix = "";
        double top = fmax(fabs(x), distance);
        if (top >= 0.9995e12) scale = 1e12, prefix = "T";
        else if (top >= 0.9995e9) scale = 1e9, prefix = "G";
        else if (top >= 0.9995e6) scale = 1e6, prefix = "M";
        else if (top >= 0.9995e3) scale = 1e3, prefix = "k";
        const char *unit = form == TL_FORM_BYTES ? "B" : form == TL_FORM_SECONDS ? "s" : "";
        int digits = (int)fmin(6, fmax(0, ceil(-log10(distance / scale) - 1e-9)));
        if (x == 0) snprintf(out, 32, "0");
        else snprintf(out, 32, "%.*f%s%s%s", digits, x / scale, *unit ? "\u00a0" : "", prefix, unit);
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The scale of all finite values; one per cent at the top may lie beyond it when they would squeeze the rest, as may a
 * steep beginning. Returns false without finite values. */
static bool choose_scale(const tl_chart *c, frame *f) {
    size_t count = 0;
    double *all = malloc(sizeof *all * ((size_t)c->n * (size_t)c->n_series + 1));
    if (!all) return false;
    double early = -INFINITY; /* the greatest after the first thirtieth of the rows */
    for (int s = 0; s < c->n_series; s++)
        for (int i = 0; i < c->n; i++) {
            double y = c->series[s].y[i];
            if (!isfinite(y)) continue;
            all[count++] = y;
            if (i >= c->n / 30 && c->series[s].line != TL_LINE_RAW && y > early) early = y;
        }
    if (count == 0) {
        free(all);
        return false;
    }
    qsort(all, count, sizeof *all, by_value);
    double least = all[0], most = all[count - 1], high = all[(size_t)((double)(count - 1) * 0.99)];
    free(all);
    double greatest = most;
    if (c->from_zero && least > 0) least = 0;
    if (high < early && most > early) high = early;
    /* The end is what a reader looks at: cut the top if that gives it half as much room again. */
    if (count > 50 && most - least > 1.5 * (high - least) && high > least) most = least + 1.15 * (high - least);
    else if (!c->from_zero && count > 50 && early > least && most - least > 2.2 * (early - least))
        most = least + 1.5 * (early - least);
    if (isfinite(c->level)) {
        most = fmax(most, c->level);
        least = fmin(least, c->level);
    }
    double span = most - least;
    if (!(span > fabs(most) * 1e-9)) span = fabs(most) > 0 ? fabs(most) : 1; /* all the same */
    f->y0 = c->from_zero && least >= 0 ? 0 : least - 0.06 * span;
    f->y1 = fmax(most, least + span * 0.5) + 0.08 * span;
    f->beyond = greatest > f->y1 ? greatest : NAN;
    return isfinite(f->y0) && isfinite(f->y1) && f->y1 > f->y0;
}

static void choose_steps(frame *f, int n, const double *step) {
    f->x0 = step[0];
    f->x1 = step[n - 1];
    if (n > 10 && f->x0 < 0.02 * f->x1) f->x0 = 0;
    if (!(f->x1 > f->x0)) f->x0 -= 1, f->x1 += 1;
}

static void open_figure(tl_page *p, const char *extra_class, const char *title, const char *note) {
    tl__page_put(p, "<figure class=\"card %s\"><figcaption><b>%s</b>", extra_class ? extra_class : "", title);
    if (note) tl__page_put(p, "<span class=note>%s</span>", note);
    tl__page_put(p, "<span class=legend>");
}

static void open_picture(tl_page *p, const char *title, int width, int height) {
    tl__page_put(p, "</span></figcaption><svg viewBox=\"0 0 %d %d\" role=img aria-label=\"%s\">", width, height, title);
}

static void put_levels(tl_page *p, const frame *f, tl_form form, bool shares) {
    char text[32];
    double distance = shares ? 0.25 : tick_step(f->y1 - f->y0, f->bottom - f->top > 300 ? 6 : 4);
    for (double k = ceil(f->y0 / distance - 1e-9); k * distance <= f->y1 + distance * 1e-9; k++) {
        double at = place_y(f, k * distance);
        tick_text(text, form, k == 0 ? 0 : k * distance, distance);
        tl__page_put(p, "<path class=%s d=\"M%.0f %.1fH%.0f\"/><text x=%.0f y=%.1f class=ye>%s</text>",
                     k == 0 ? "base" : "grid", f->left, at, f->right, f->left - 8, at + 4, text);
    }
}

static void put_grid(tl_page *p, const frame *f, tl_form form, bool shares) {
    char text[32];
    put_levels(p, f, form, shares);
    double distance = tick_step(f->x1 - f->x0, f->right - f->left > 700 ? 9 : 5);
    if (distance < 1) distance = 1;
    for (double k = ceil(f->x0 / distance - 1e-9); k * distance <= f->x1 + distance * 1e-9; k++) {
        double at = place_x(f, k * distance);
        tick_text(text, TL_FORM_COUNT, k == 0 ? 0 : k * distance, distance);
        tl__page_put(p, "<path class=tick d=\"M%.1f %.0fv4\"/><text x=%.1f y=%.0f class=xe>%s</text>", at, f->bottom,
                     at, f->bottom + 20, text);
    }
}

/* Means of `bin` rows each; NaN where none is finite. */
static double bin_mean(const double *y, int from, int to) {
    double sum = 0;
    int count = 0;
    for (int i = from; i < to; i++)
        if (isfinite(y[i])) sum += y[i], count++;
    return count ? sum / count : NAN;
}

static int bins_of(int n, int most) {
    return n < most ? n : most;
}
static int bin_start(int n, int bins, int b) {
    return (int)((int64_t)n * b / bins);
}

static void put_line(tl_page *p, const frame *f, const tl_chart *c, const tl_series *s, const char *kind) {
    int bins = bins_of(c->n, MOST_POINTS);
    bool down = false;
    int alone = 0; /* points since the pen came down; one point alone is a dot */
    double last_x = 0, last_y = 0;
    tl_page dots = {0};
    tl__page_put(p, "<path class=\"%s s-%s\" d=\"", kind, s->colour);
    for (int b = 0; b <= bins; b++) {
        int from = b < bins ? bin_start(c->n, bins, b) : 0, to = b < bins ? bin_start(c->n, bins, b + 1) : 0;
        double y = b < bins ? bin_mean(s->y, from, to) : NAN;
        if (!isfinite(y)) {
            if (alone == 1)
                tl__page_put(&dots, "<circle class=\"dot f-%s\" cx=%.1f cy=%.1f r=3 />", s->colour, last_x, last_y);
            down = false;
            alone = 0;
            continue;
        }
        last_x = place_x(f, bin_mean(c->step, from, to));
        last_y = place_y(f, y);
        tl__page_put(p, "%c%.1f %.1f", down ? 'L' : 'M', last_x, last_y);
        down = true;
        alone++;
    }
    tl__page_put(p, "\"/>");
    if (dots.bytes) tl__page_put(p, "%s", dots.bytes);
    tl__page_free(&dots);
}

/* From the least to the greatest of each bin: forth along the top, back along the bottom, one piece between gaps. */
static void put_band(tl_page *p, const frame *f, const tl_chart *c, const tl_series *s) {
    double x[MOST_POINTS], low[MOST_POINTS], high[MOST_POINTS];
    tl__page_put(p, "<path class=\"band f-%s\" d=\"", s->colour);
    int held = 0;
    for (int b = 0; b <= MOST_POINTS; b++) {
        double least = INFINITY, most = -INFINITY;
        int from = 0, to = 0;
        if (b < MOST_POINTS) {
            from = bin_start(c->n, MOST_POINTS, b), to = bin_start(c->n, MOST_POINTS, b + 1);
            for (int i = from; i < to; i++)
                if (isfinite(s->y[i])) least = fmin(least, s->y[i]), most = fmax(most, s->y[i]);
        }
        if (most >= least) {
            x[held] = place_x(f, bin_mean(c->step, from, to));
            low[held] = place_y(f, least), high[held] = place_y(f, most);
            held++;
            continue;
        }
        for (int i = 0; i < held; i++) tl__page_put(p, "%c%.1f %.1f", i ? 'L' : 'M', x[i], high[i]);
        for (int i = held - 1; i >= 0; i--) tl__page_put(p, "L%.1f %.1f%s", x[i], low[i], i ? "" : "Z");
        held = 0;
    }
    tl__page_put(p, "\"/>");
}

static void put_sparse(tl_page *p, const frame *f, const tl_chart *c, const tl_series *s) {
    int count = 0;
    for (int i = 0; i < c->n; i++) count += isfinite(s->y[i]);
    int every = (count + MOST_POINTS - 1) / MOST_POINTS;
    if (every < 1) every = 1;
    tl__page_put(p, "<path class=\"line s-%s\" d=\"", s->colour);
    for (int i = 0, k = 0; i < c->n; i++) {
        if (!isfinite(s->y[i])) continue;
        if (k % every == 0 || k == count - 1)
            tl__page_put(p, "%c%.1f %.1f", k ? 'L' : 'M', place_x(f, c->step[i]), place_y(f, s->y[i]));
        k++;
    }
    tl__page_put(p, "\"/>");
    if (count > MOST_DOTS) return;
    for (int i = 0; i < c->n; i++)
        if (isfinite(s->y[i]))
            tl__page_put(p, "<circle class=\"dot f-%s\" cx=%.1f cy=%.1f r=3 />", s->colour, place_x(f, c->step[i]),
                         place_y(f, s->y[i]));
}

static void put_marks(tl_page *p, const frame *f, const tl_chart *c) {
    int count = 0;
    for (int i = 0; i < c->n; i++) count += c->marked[i] != 0;
    int every = (count + MOST_MARKS - 1) / MOST_MARKS;
    for (int i = 0, k = 0; i < c->n; i++) {
        if (c->marked[i] == 0) continue;
        if (k++ % every == 0)
            tl__page_put(p, "<path class=mark d=\"M%.1f %.0fv-9\"><title>step %.0f was skipped</title></path>",
                         place_x(f, c->step[i]), f->bottom, c->step[i]);
    }
}

static void open_read_out(tl_page *p, const frame *f, double x, double from, double to) {
    tl__page_put(p,
                 "<g class=h><rect x=%.1f y=%.0f width=%.1f height=%.0f /><path d=\"M%.1f %.0fV%.0f\"/>"
                 "<text x=%.0f y=%.0f>",
                 from, f->top, to - from, f->bottom - f->top, x, f->top, f->bottom, f->right, f->top - 9);
}

static void put_read_outs(tl_page *p, const frame *f, const tl_chart *c) {
    char text[32];
    int bins = bins_of(c->n, MOST_READ_OUTS);
    for (int b = 0; b < bins; b++) {
        int from = bin_start(c->n, bins, b), to = bin_start(c->n, bins, b + 1), middle = from + (to - from) / 2;
        double width = (f->right - f->left) / bins, x = place_x(f, c->step[middle]);
        open_read_out(p, f, x, f->left + width * b, f->left + width * (b + 1));
        tl__page_put(p, "%s %s", c->step_word ? c->step_word : "step", tl__form(text, TL_FORM_COUNT, c->step[middle]));
        for (int s = 0; s < c->n_series; s++) {
            if (!c->series[s].label) continue;
            double y =
                c->series[s].line == TL_LINE_SPARSE ? bin_mean(c->series[s].y, from, to) : c->series[s].y[middle];
            if (isfinite(y))
                tl__page_put(p, "<tspan class=f-%s dx=10>%s</tspan>", c->series[s].colour, tl__form(text, c->form, y));
        }
        tl__page_put(p, "</text></g>");
    }
}

static frame make_frame(int width, int height) {
    return (frame){.left = 62, .top = 26, .right = width - 14, .bottom = height - 30};
}

bool tl__chart_lines(tl_page *page, const tl_chart *c) {
    static unsigned next_clip; /* names must be unique on a page */
    if (c->n < 1) return false;
    frame f = make_frame(c->width, c->height);
    if (!choose_scale(c, &f)) return false;
    choose_steps(&f, c->n, c->step);
    open_figure(page, c->extra_class, c->title, c->note);
    for (int s = 0; s < c->n_series; s++)
        if (c->legend && c->series[s].label)
            tl__page_put(page, "<span><i class=\"g-%s\"></i>%s</span>", c->series[s].colour, c->series[s].label);
    if (isfinite(c->level) && c->level_label)
        tl__page_put(page, "<span><i class=\"dashed\"></i>%s</span>", c->level_label);
    open_picture(page, c->title, c->width, c->height);
    put_grid(page, &f, c->form, false);
    unsigned clip = next_clip++;
    tl__page_put(page,
                 "<clipPath id=c%u><rect x=%.0f y=%.0f width=%.0f height=%.0f /></clipPath><g clip-path=\"url(#c%u)\">",
                 clip, f.left - 4, f.top, f.right - f.left + 8, f.bottom - f.top, clip);
    for (int s = 0; s < c->n_series; s++) {
        const tl_series *series = &c->series[s];
        if (series->line == TL_LINE_SPARSE) put_sparse(page, &f, c, series);
        else if (series->line == TL_LINE_SMOOTH) put_line(page, &f, c, series, "line");
        else if (c->n > MOST_POINTS) put_band(page, &f, c, series);
        else put_line(page, &f, c, series, "raw");
    }
    if (isfinite(c->level))
        tl__page_put(page, "<path class=level d=\"M%.0f %.1fH%.0f\"/>", f.left, place_y(&f, c->level), f.right);
    if (c->marked) put_marks(page, &f, c);
    tl__page_put(page, "</g>");
    char text[32];
    if (isfinite(f.beyond))
        tl__page_put(page, "<text x=%.0f y=%.0f>\u2191 to %s</text>", f.left, f.top - 9,
                     tl__form(text, c->form, f.beyond));
    put_read_outs(page, &f, c);
    tl__page_put(page, "</svg></figure>\n");
    return true;
}

bool tl__chart_dots(tl_page *page, const char *title, const char *note, int width, int height, int n_places,
                    const char *const *place, int n, const tl_dot *dot, tl_form form) {
    enum { MOST_LABELS = 12 };
    frame f = make_frame(width, height);
    double least = INFINITY, most = -INFINITY;
    for (int i = 0; i < n; i++)
        if (isfinite(dot[i].y)) least = fmin(least, dot[i].y), most = fmax(most, dot[i].y);
    if (!(most >= least) || n_places < 1) return false;
    double span = most > least ? most - least : fabs(most) > 0 ? fabs(most) : 1;
    f.y0 = least - 0.1 * span, f.y1 = most + 0.1 * span;
    f.x0 = -0.5, f.x1 = n_places - 0.5;
    if (!isfinite(f.y1 - f.y0)) return false;
    open_figure(page, NULL, title, note);
    open_picture(page, "values by setting", width, height);
    put_levels(page, &f, form, false);
    int every = (n_places + MOST_LABELS - 1) / MOST_LABELS;
    for (int k = 0; k < n_places; k += every) {
        tl__page_put(page, "<path class=tick d=\"M%.1f %.0fv4\"/><text x=%.1f y=%.0f class=xe>", place_x(&f, k),
                     f.bottom, place_x(&f, k), f.bottom + 20);
        tl__page_text(page, place[k], strnlen(place[k], 18));
        tl__page_put(page, "</text>");
    }
    tl__page_put(page, "<path class=\"line s-blue\" d=\"");
    bool down = false;
    for (int k = 0; k < n_places; k++) {
        double best = INFINITY;
        for (int i = 0; i < n; i++)
            if (dot[i].place == k && isfinite(dot[i].y)) best = fmin(best, dot[i].y);
        if (!isfinite(best)) continue;
        tl__page_put(page, "%c%.1f %.1f", down ? 'L' : 'M', place_x(&f, k), place_y(&f, best));
        down = true;
    }
    tl__page_put(page, "\"/>");
    char text[32];
    for (int i = 0; i < n; i++) {
        if (!isfinite(dot[i].y) || dot[i].place < 0 || dot[i].place >= n_places) continue;
        tl__page_put(page, "<circle class=\"dot f-blue\" cx=%.1f cy=%.1f r=4><title>", place_x(&f, dot[i].place),
                     place_y(&f, dot[i].y));
        tl__page_text(page, dot[i].name, strlen(dot[i].name));
        tl__page_put(page, ": %s</title></circle>", tl__form(text, form, dot[i].y));
    }
    tl__page_put(page, "</svg></figure>\n");
    return true;
}

bool tl__chart_shares(tl_page *page, const char *title, int width, int height, int n, const double *step, int parts,
                      double *const *part, const char *const *names) {
    enum { MOST_BINS = 120, MOST_PARTS = 16 };
    static double share[MOST_BINS][MOST_PARTS + 1]; /* edges: 0 = share[b][0] ≤ … ≤ share[b][parts] = 1 */
    if (n < 2 || parts > MOST_PARTS) return false;
    int bins = bins_of(n, MOST_BINS);
    double whole[MOST_PARTS] = {0}, all = 0;
    for (int b = 0; b < bins; b++) {
        double sum = 0;
        for (int j = 0; j < parts; j++) {
            double y = bin_mean(part[j], bin_start(n, bins, b), bin_start(n, bins, b + 1));
            y = isfinite(y) && y > 0 ? y : 0;
            whole[j] += y;
            share[b][j] = sum;
            sum += y;
        }
        all += sum;
        for (int j = 0; j < parts; j++) share[b][j] = sum > 0 ? share[b][j] / sum : 0;
        share[b][parts] = sum > 0 ? 1 : 0;
    }
    if (!(all > 0)) return false;
    frame f = make_frame(width, height);
    f.y0 = 0, f.y1 = 1;
    choose_steps(&f, n, step);
    open_figure(page, NULL, title, NULL);
    open_picture(page, title, width, height);
    put_grid(page, &f, TL_FORM_PERCENT, true);
    for (int j = 0; j < parts; j++) {
        if (!(whole[j] > 0)) continue;
        tl__page_put(page, "<path style=\"fill:var(--b%d)\" class=area d=\"", j);
        for (int b = 0; b < bins; b++)
            tl__page_put(page, "%c%.1f %.1f", b ? 'L' : 'M',
                         place_x(&f, bin_mean(step, bin_start(n, bins, b), bin_start(n, bins, b + 1))),
                         place_y(&f, share[b][j + 1]));
        for (int b = bins - 1; b >= 0; b--)
            tl__page_put(page, "L%.1f %.1f",
                         place_x(&f, bin_mean(step, bin_start(n, bins, b), bin_start(n, bins, b + 1))),
                         place_y(&f, share[b][j]));
        tl__page_put(page, "Z\"><title>%s</title></path>", names[j]);
    }
    char text[32];
    int outs = bins_of(bins, MOST_READ_OUTS);
    for (int o = 0; o < outs; o++) { /* the three largest at each place */
        int b = bin_start(bins, outs, o) + (bin_start(bins, outs, o + 1) - bin_start(bins, outs, o)) / 2;
        double w = (f.right - f.left) / outs;
        double x = place_x(&f, bin_mean(step, bin_start(n, bins, b), bin_start(n, bins, b + 1)));
        open_read_out(page, &f, x, f.left + w * o, f.left + w * (o + 1));
        tl__page_put(page, "step %s", tl__form(text, TL_FORM_COUNT, step[bin_start(n, bins, b)]));
        bool told[MOST_PARTS] = {0};
        for (int k = 0; k < 3; k++) {
            int most = -1;
            for (int j = 0; j < parts; j++)
                if (!told[j] && (most < 0 || share[b][j + 1] - share[b][j] > share[b][most + 1] - share[b][most]))
                    most = j;
            if (most < 0 || share[b][most + 1] - share[b][most] < 0.005) break;
            told[most] = true;
            tl__page_put(page, "<tspan dx=10>%s %s</tspan>", names[most],
                         tl__form(text, TL_FORM_PERCENT, share[b][most + 1] - share[b][most]));
        }
        tl__page_put(page, "</text></g>");
    }
    tl__page_put(page, "</svg></figure>\n");
    return true;
}

void tl__smooth(double *out, const double *y, int n, int reach) {
    for (int i = 0; i < n; i++) {
        int back = i < reach ? i : reach, forth = n - 1 - i < back ? n - 1 - i : back;
        /* Summed afresh each time: running sums would carry one huge value's rounding to the end. */
        out[i] = isfinite(y[i]) ? bin_mean(y, i - back, i + forth + 1) : NAN;
    }
}
