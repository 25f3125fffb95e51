/* sweep_table.h — the rows of a sweep.json as its page and its table need them: one member at a time, in order, as Markdown. */
#ifndef TL_OBSERVE_SWEEP_TABLE_H
#define TL_OBSERVE_SWEEP_TABLE_H

#include "observe/page.h"
#include "observe/sweep_report.h"

/* How many axes are shown: all that a sweep can have, and a bound on what a damaged file can cost. */
size_t tl__sweep_axes(const json_t *axes);
const char *tl__sweep_text(const json_t *row, const char *key);   /* "": not there */
double tl__sweep_number(const json_t *row, const char *key);      /* NaN: not there */
bool tl__sweep_finished(const json_t *row);
/* What finished runs are compared by: the first of bits_per_byte, validation_loss and loss that each of them has. */
const char *tl__sweep_measure(const json_t *rows);

enum { TL_SWEEP_COLUMNS = 8 };
typedef struct tl_sweep_column {
    const char *key, *label;
    tl_form form;
} tl_sweep_column;
extern const tl_sweep_column tl__sweep_columns[TL_SWEEP_COLUMNS];

void tl__sweep_markdown(tl_page *page, const json_t *axes, const json_t *rows);

#endif
