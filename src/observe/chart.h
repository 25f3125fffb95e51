/* chart.h — plots as inline SVG that read without a script: lines over steps, and shares of a whole over steps.
 *
 * Colours are classes and CSS variables that the page defines (s-blue …, --b0 …). A pointer over a plot shows the
 * values under it, by CSS alone. However many rows come in, a plot stays under some 100 kB. */
#ifndef TL_OBSERVE_CHART_H
#define TL_OBSERVE_CHART_H

#include "observe/page.h"

typedef enum tl_line {
    TL_LINE_SMOOTH, /* a line through the means of neighbouring rows; broken where nothing is finite */
    TL_LINE_RAW,    /* faint: every value while they are few, else the band from least to greatest */
    TL_LINE_SPARSE, /* a line across gaps, with a dot at each value while they are few */
} tl_line;

typedef struct tl_series {
    const char *label;  /* for the read-out and the legend; NULL: in neither */
    const char *colour; /* class: "blue", "orange", … */
    const double *y;    /* [n]; NaN: nothing there */
    tl_line line;
} tl_series;

enum { TL_MOST_SERIES = 12 };

typedef struct tl_chart {
    const char *title, *note; /* note: small, beside the title; may be NULL; both our own words */
    const char *extra_class;  /* of the figure; may be NULL */
    int width, height;        /* of the picture, in its own units */
    int n;
    const double *step; /* [n] ascending */
    const char *step_word; /* what a row is, in the read-out; NULL: "step" */
    tl_series series[TL_MOST_SERIES];
    int n_series;
    tl_form form;
    bool legend;
    bool from_zero; /* the axis starts at 0 */
    double level;   /* a dashed line across, NaN: none */
    const char *level_label;
    const double *marked; /* [n]: rows with a non-zero value get a mark at the bottom; NULL: none */
} tl_chart;

/* False, and nothing put, where no series has a finite value. */
bool tl__chart_lines(tl_page *page, const tl_chart *chart);

typedef struct tl_dot {
    int place;        /* where it stands: index of a place */
    double y;         /* not finite: left out */
    const char *name; /* shown under a pointer; anybody's text */
} tl_dot;

/* Values over places that are not numbers, or not evenly spread: the places side by side, a dot for each value, a line
 * through the least of each place. Labels are anybody's text. False without a finite value. */
bool tl__chart_dots(tl_page *page, const char *title, const char *note, int width, int height, int n_places,
                    const char *const *place, int n, const tl_dot *dot, tl_form form);

/* part[j][n], j < parts, shares of their sum at each row, stacked from the bottom; colours --b<j>. False without data.
 */
bool tl__chart_shares(tl_page *page, const char *title, int width, int height, int n, const double *step, int parts,
                      double *const *part, const char *const *names);

/* out[i] = mean of the finite values around i: up to `reach` rows on either side, never reaching further forward than
 * back, so that a steep beginning is not flattened. NaN where y[i] is. Takes n·reach steps: keep reach to about 1,000.
 */
void tl__smooth(double *out, const double *y, int n, int reach);

#endif
